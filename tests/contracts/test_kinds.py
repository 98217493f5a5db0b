"""What every kind of layer must satisfy: a new one is tested by standing in `LAYERS`.

Its action under jit, vmap and grad; its covariances against wide networks made of it by nothing
but ``mixes``, ``trained`` and ``apply``.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sigprop import activations, kinds, theory
from sigprop.architecture import Architecture
from sigprop.gaussian import single
from sigprop.kinds import usual
from sigprop.kinds.kind import bound
from sigprop.networks import MLP, initialisers
from sigprop.propagation import measure, seed_key
from sigprop.theory.kernels_of_kinds import kernels_of_kinds
from tests.networks import blocks
from tests.networks.blocks import BLOCKS, architecture


@dataclasses.dataclass(frozen=True)
class Own(kinds.Kind):
    """φ(U x) ⊙ V x: a kind that is not in the library."""

    activation: activations.Activation | None = None
    numbers = ("weight_var",)

    def mixes(self, shape):
        weight = kinds.Dense(bias_var=None).mixes(shape)["weight"]
        return {"gate": weight, "value": weight}

    def apply(self, mix, trained, x, *, numbers, key=None):
        return self.activation.fn(mix["gate"](x)) * mix["value"](x)

    def covariance(self, gauss, state, numbers):
        side = gauss.mixed(state, numbers["weight_var"])
        return gauss.activated(self.activation, side).times(side)


NUMBERS = {
    "weight_var": 1.7, "bias_var": 0.2, "dropout": 0.25, "branch_scale": 0.6,
    "gate_var": 0.8, "up_var": 1.3,
}  # fmt: skip
_ACT, _MIX = kinds.Pointwise(), kinds.Dense()
LAYERS = {
    "dense": kinds.Sequence(_ACT, _MIX),
    "weight_norm": kinds.Sequence(_ACT, kinds.WeightNorm()),
    "layer_norm": kinds.Sequence(kinds.Norm(), _ACT, _MIX),
    "rms_norm": kinds.Sequence(_ACT, kinds.Norm(centred=False), _MIX),
    "post_norm": kinds.Sequence(_ACT, _MIX, kinds.Norm()),
    "batch_norm": kinds.Sequence(kinds.BatchNorm(), _ACT, _MIX),
    "dropout": kinds.Sequence(_ACT, kinds.Dropout(), _MIX),
    "shared_dropout": kinds.Sequence(_ACT, kinds.Dropout(shared=True), _MIX),
    "skip": kinds.Skip(kinds.Sequence(_ACT, _MIX)),
    "bias": kinds.Sequence(_ACT, kinds.Dense(bias_var=None), kinds.Bias()),
    "own": kinds.Sequence(Own(), _MIX),
    "gated": kinds.Sequence(kinds.Gated(), _MIX),
    "two_skips": kinds.Sequence(
        kinds.Skip(kinds.Sequence(_ACT, _MIX)),
        kinds.Skip(kinds.Sequence(kinds.Norm(), _ACT, _MIX, _ACT, _MIX), scale=None),
    ),
}  # fmt: skip
NAMES = sorted(LAYERS)


@functools.lru_cache
def layer(name, activation="tanh"):
    return bound(LAYERS[name], activations.get(activation))


def draws(kind, shape, key):
    """Unit draws of everything that a kind mixes with."""
    mixes = kind.mixes(shape)
    keys = jax.random.split(key, max(len(mixes), 1))
    return {n: jax.random.normal(k, mix.shape) for k, (n, mix) in zip(keys, mixes.items())}


def acts(kind, drawn, trained, x, numbers, key=None):
    """The kind's action with these draws, as any engine has it."""
    mixes = kind.mixes(x.shape[1:])

    def map_of(name):
        mix, draw = mixes[name], drawn[name]
        draw = draw if mix.prepared is None else mix.prepared(draw)
        scale = jnp.sqrt(jnp.asarray(numbers[mix.variance]) / mix.fan_in)
        return lambda x: scale * mix.multiply(draw, x)

    return kind.apply({n: map_of(n) for n in mixes}, trained, x, numbers=numbers, key=key)


# ------------------------------------------------------------------- how a kind acts


@pytest.mark.parametrize("name", NAMES)
def test_it_acts_under_jit_vmap_and_grad(name):
    kind, shape = layer(name), (1, 6)
    drawn, trained = draws(kind, shape, jax.random.key(0)), kind.trained(shape)
    x = jax.random.normal(jax.random.key(1), (5, *shape))
    key = jax.random.key(2)

    def run(weight_var, x, trained):
        return acts(kind, drawn, trained, x, NUMBERS | {"weight_var": weight_var}, key)

    values = jnp.asarray([0.5, 1.7])
    plain = jnp.stack([run(v, x, trained) for v in values])
    assert plain.shape == (2, 5, *kind.shape_after(shape))
    mapped = jax.jit(jax.vmap(run, in_axes=(0, None, None)))(values, x, trained)
    np.testing.assert_allclose(mapped, plain, rtol=2e-5, atol=2e-6)
    loss = lambda *given: jnp.sum(jnp.square(run(*given)))  # noqa: E731
    slopes = jax.grad(loss, argnums=(0, 1, 2))(values[1], x, trained)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))


@pytest.mark.parametrize("name", NAMES)
def test_it_is_homogeneous_if_it_says_so(name):
    kind, shape = layer(name, "relu"), (1, 6)
    drawn, trained = draws(kind, shape, jax.random.key(0)), kind.trained(shape)
    x = jax.random.normal(jax.random.key(1), (5, *shape))
    once = acts(kind, drawn, trained, x, NUMBERS)
    scaled = acts(kind, drawn, trained, 4 * x, NUMBERS | {"bias_var": 16 * 0.2})
    alike = np.allclose(scaled, 4 * once, rtol=1e-5, atol=1e-5)
    assert alike == kind.homogeneous


@pytest.mark.parametrize("name", NAMES)
def test_inputs_are_coupled_only_if_it_says_so(name):
    kind, shape = layer(name), (1, 6)
    drawn, trained = draws(kind, shape, jax.random.key(0)), kind.trained(shape)
    x = jax.random.normal(jax.random.key(1), (5, *shape))
    apart = acts(kind, drawn, trained, x[:3], NUMBERS)
    alike = np.allclose(acts(kind, drawn, trained, x, NUMBERS)[:3], apart, rtol=1e-5, atol=1e-5)
    assert alike != kind.couples_inputs


@pytest.mark.parametrize("name", NAMES)
def test_every_number_it_reads_is_one_it_names(name):
    kind, shape = layer(name), (1, 6)
    drawn, trained = draws(kind, shape, jax.random.key(0)), kind.trained(shape)
    x = jax.random.normal(jax.random.key(1), (5, *shape))
    only = {n: NUMBERS[n] for n in kind.numbers}
    acts(kind, drawn, trained, x, only, jax.random.key(2))
    state = kinds.State.of(jnp.asarray(1.3), jnp.asarray(0.4))
    kind.covariance(kinds.Gauss(), state, {n: jnp.asarray(v) for n, v in only.items()})
    assert {mix.variance for mix in kind.mixes(shape).values()} <= set(kind.numbers)


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
def test_the_usual_compositions_are_the_documented_equations(block):
    net = architecture(**block)
    made = kinds.compose(net)
    numbers = {n: float(getattr(net, n)) for n in made.numbers}
    first = dataclasses.replace(made.first, units=net.width)
    signal = start = jax.random.normal(jax.random.key(0), (6, 1, 7))
    weights, biases, found = [], [], []
    for number, kind in enumerate([first] + [made.layer] * (net.depth - 1)):
        shape = signal.shape[1:]
        drawn, mix = draws(kind, shape, jax.random.key(number)), kind.mixes(shape)["weight"]
        unit = drawn["weight"] if mix.prepared is None else mix.prepared(drawn["weight"])
        weights.append(np.asarray(unit, float) * (net.weight_var / mix.fan_in) ** 0.5)
        biases.append(np.asarray(drawn["bias"], float) * net.bias_var**0.5)
        signal = acts(kind, drawn, kind.trained(shape), signal, numbers)
        found.append(signal[:, 0])
    x = np.asarray(start[:, 0], float)
    z, features = blocks.by_hand(net, weights, biases, x)
    np.testing.assert_allclose(np.stack(found), np.stack(z), rtol=1e-4, atol=1e-4)
    last = made.last.apply({}, made.last.trained((1, net.width)), signal, numbers=numbers)
    np.testing.assert_allclose(last[:, 0], features, rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------- what it does to covariances

WIDTH, SEEDS, INPUTS = 192, 48, 24


def measured(kind, shape, key):
    """Second moment, and ½E[(z - ẑ)²] of every two inputs, behind one layer; over units."""
    known = jnp.linalg.cholesky(1.3 * (0.6 + 0.4 * jnp.eye(INPUTS)))  # q = 1.3, 1 - c = 0.4
    x = jnp.einsum("ij,jpw->ipw", known, jax.random.normal(key, (INPUTS, *shape)))
    drawn = draws(kind, shape, jax.random.fold_in(key, 1))
    z = acts(kind, drawn, kind.trained(shape), x, NUMBERS, jax.random.fold_in(key, 2))
    mean, square = jnp.mean(z, axis=0), jnp.mean(jnp.square(z))
    return square, jnp.mean(jnp.square(z - mean)) * INPUTS / (INPUTS - 1)


@pytest.mark.parametrize("name", NAMES)
def test_its_covariances_are_those_of_wide_networks(name):
    kind = layer(name)
    one = jax.jit(functools.partial(measured, kind, (1, WIDTH)))
    runs = np.asarray([one(jax.random.key(seed)) for seed in range(SEEDS)])
    numbers = {n: jnp.asarray(NUMBERS[n]) for n in kind.numbers}
    start = kinds.State.of(jnp.asarray(1.3), jnp.asarray(0.4))
    after = kind.covariance(kinds.Gauss(batch=INPUTS), start, numbers)
    theory = after.variance[0, 0], after.lacking().cross[0, 0, 0]
    stderr = runs.std(0) / SEEDS**0.5
    allowed = 4 * stderr + np.asarray(theory) / WIDTH  # O(1/N)
    np.testing.assert_array_less(np.abs(runs.mean(0) - theory), allowed)


# ------------------------------------------------------------------- gradients


def through(kind, state):
    """The layer's output, and how the copies' covariance passes it."""
    numbers = {n: jnp.asarray(NUMBERS[n]) for n in kind.numbers}

    def behind(copies):
        after = kind.covariance(kinds.Gauss(), dataclasses.replace(state, copies=copies), numbers)
        return after.copies, after

    zero = jnp.zeros((1, 1, 1))
    _, chi, after = jax.jvp(behind, (zero,), (jnp.ones_like(zero),), has_aux=True)
    return after, chi[0, 0, 0]


@pytest.mark.parametrize("activation", ["erf", "tanh", "relu"])
# (Two inputs lose units of their own to dropout, copies of one do not.)
@pytest.mark.parametrize("name", sorted(set(NAMES) - {"batch_norm", "dropout"}))
def test_the_gradient_is_the_derivative_of_the_covariance_of_two_inputs_that_meet(
    name, activation, float64
):
    kind, q = layer(name, activation), 1.3
    near = jnp.asarray(1e-13)  # where kinks turn at √(1 - c), this is 3e-7 away from the limit
    after, chi = through(kind, kinds.State.of(jnp.asarray(q), near))
    np.testing.assert_allclose(chi, after.lacking().cross[0, 0, 0] / (q * near), rtol=1e-5)


def by_hand(name, activation, q):
    """χ as each kind's own formula has it."""
    numbers, skip = NUMBERS, float(name == "skip")
    seen = 1.0 if name == "layer_norm" else q
    moment = lambda f, q: float(f(activations.get(activation), jnp.asarray(q)))  # noqa: E731
    slope = moment(single.slope_square, seen) * numbers["weight_var"]
    square = moment(single.mean_square, q)
    if name == "rms_norm":  # behind the activation
        return slope / square
    if "dropout" in name:
        return slope / (1 - numbers["dropout"])
    if name == "post_norm":
        return slope / (numbers["weight_var"] * square + numbers["bias_var"])
    if name == "layer_norm":  # which divides by the signal's size
        return slope / q
    return skip + slope * (numbers["branch_scale"] ** 2 if skip else 1.0)


@pytest.mark.parametrize("activation", activations.names())
@pytest.mark.parametrize("name", sorted(set(NAMES) - {"batch_norm", "two_skips", "gated", "own"}))
def test_the_gradient_equals_the_formula_written_by_hand(name, activation, float64):
    for q in (0.02, 1.3, 40.0):
        _, chi = through(layer(name, activation), kinds.State.of(jnp.asarray(q)))
        np.testing.assert_allclose(chi, by_hand(name, activation, q), rtol=1e-13)


# ------------------------------------------------------------------- what theory says to it


class Unknown(kinds.Kind):
    """Says nothing of covariances."""


NO_THEORY = {
    "says nothing": kinds.Sequence(Unknown(), _MIX),
    "an activation of what is not Gaussian": kinds.Sequence(_ACT, _ACT, _MIX),
    "a branch that is correlated with what it is added to": kinds.Skip(_ACT),
    "and one that only was normalised": kinds.Skip(kinds.Norm()),
    "layer norm of what has a mean": kinds.Sequence(_ACT, kinds.Norm(), _MIX),
    "a layer without weights": _ACT,
    "a batch's signal, passed on": kinds.Sequence(_ACT, _MIX, kinds.BatchNorm()),
}


@pytest.mark.parametrize("case", NO_THEORY)
def test_what_is_not_known_has_a_status_and_no_number(case):
    own = Architecture(3, 8, "tanh", [1.5, 2.0], layer=NO_THEORY[case])
    given = {"batch": 8} if own.layer.couples_inputs else {}
    path = theory.predict(own, correlation0=0.3, **given)
    assert path.status == theory.TheoryStatus.NO_THEORY
    assert path.variance.shape == (2, 3)
    assert np.isnan(path.variance).all()
    assert np.isnan(path.log_gradient).all()
    law = theory.growth_law(dataclasses.replace(own, weight_var=1.5), **given)
    assert law.gradient_kind == theory.GrowthKind.UNKNOWN


def test_batch_norm_may_come_after_the_weights_of_very_many_inputs():
    given = {"depth": 4, "width": 8, "activation": "tanh", "weight_var": 1.5, "bias_var": 0.2}
    after = Architecture(**given, layer=kinds.Sequence(_ACT, _MIX, kinds.BatchNorm()))
    before = Architecture(**given, norm="batch_norm")
    late, known = theory.predict(after), theory.predict(before)
    np.testing.assert_allclose(late.variance[1:], 1.0, rtol=1e-12)
    np.testing.assert_allclose(late.chi[2], known.chi[2], rtol=1e-12)


def test_two_layers_are_one_layer_of_their_sequence():
    """What a composition makes of a signal does not depend on how it is divided."""
    at = {"weight_var": 1.5, "bias_var": 0.2}
    once = theory.predict(Architecture(7, 8, "erf", **at), correlation0=0.3)
    pairs = kinds.Sequence(_ACT, _MIX, _ACT, _MIX)
    twice = theory.predict(Architecture(4, 8, "erf", **at, layer=pairs), correlation0=0.3)
    np.testing.assert_allclose(twice.variance, once.variance[::2], rtol=1e-13)
    np.testing.assert_allclose(twice.correlation, once.correlation[::2], rtol=1e-13)
    np.testing.assert_allclose(twice.log_gradient, once.log_gradient[::2], rtol=1e-12)


# ------------------------------------------------------------------- kernels


@pytest.mark.parametrize("block", [{}, {"block": "residual", "branch_scale": 0.5}], ids=str)
@pytest.mark.parametrize("activation", ["relu", "tanh", "sin"])
def test_kernels_of_kinds_are_those_written_by_hand(activation, block):
    x = np.random.default_rng(0).standard_normal((3, 5))
    x[2] = 1.7 * x[1]
    numbers = {"depth": 4, "weight_var": 1.7, "bias_var": 0.3}
    known = theory.kernels(activation, x, **numbers, **block)
    net = Architecture(width=8, activation=activation, **numbers, **block)
    nngp, ntk, status = kernels_of_kinds(net, x, x)
    assert status == theory.TheoryStatus.OK
    np.testing.assert_allclose(nngp, known.nngp, rtol=1e-12)
    np.testing.assert_allclose(ntk, known.ntk, rtol=1e-9)
    found = theory.kernels(net, x)
    np.testing.assert_array_equal(found.nngp, known.nngp)
    np.testing.assert_array_equal(found.ntk, known.ntk)


def test_kernels_of_a_normalised_linear_network_by_hand():
    """RMS norm divides Θ by √(q q̂)."""
    x = np.random.default_rng(0).standard_normal((4, 5))
    w, b = 1.7, 0.3
    found = theory.kernels(Architecture(2, 8, "linear", w, b, norm="rms_norm"), x)
    nngp = ntk = w * x @ x.T / 5 + b
    size = np.sqrt(np.diag(nngp))
    cosine = nngp / np.outer(size, size)
    nngp = w * cosine + b
    np.testing.assert_allclose(found.nngp, nngp, rtol=1e-12)
    np.testing.assert_allclose(found.ntk, w * ntk / np.outer(size, size) + nngp, rtol=1e-12)


def test_kernels_refuse_what_they_do_not_know():
    x = np.random.default_rng(0).standard_normal((3, 5))
    for change in ({"norm": "batch_norm"}, {"layer": kinds.Skip(_ACT)}):
        found = theory.kernels(Architecture(3, 8, "tanh", 1.5, **change), x)
        assert found.status == theory.TheoryStatus.NO_THEORY
        assert np.isnan(found.ntk).all()
    with pytest.raises(ValueError, match="depth, weight_var, bias_var and block are the archi"):
        theory.kernels(Architecture(3, 8, "tanh", 1.5), x, depth=3)


def test_kernels_of_kinds_differentiate():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 5)), jnp.float32)
    net = Architecture(3, 8, "tanh", 1.5, 0.1, norm="layer_norm")

    def entry(weight_var):
        return theory.kernels(net.with_numbers(weight_var=weight_var), x).ntk[0, 1]

    step = 1e-2
    slope = (entry(1.5 + step) - entry(1.5 - step)) / (2 * step)
    np.testing.assert_allclose(jax.jit(jax.grad(entry))(1.5), slope, rtol=1e-3)


# ------------------------------------------------------------------- theory of plain layers alone

NOT_PLAIN = [{"block": "residual"}, {"norm": "weight_norm"}, {"dropout": 0.1}, {"layer": _MIX}]


@pytest.mark.parametrize("change", NOT_PLAIN, ids=str)
def test_finite_width_and_spectra_refuse_what_is_not_plain(change):
    net = Architecture(5, 32, "tanh", 1.5, 0.1, **change)
    spread, law = theory.log_gradient_variance(net), theory.jacobian_spectrum(net)
    assert spread.status == law.status == theory.TheoryStatus.NO_THEORY
    assert np.isnan(spread.variance)
    assert np.isnan(law.mean)


def test_finite_width_and_spectra_of_a_plain_architecture():
    net = Architecture(5, 32, "tanh", 1.5, 0.1, initialiser="orthogonal")
    numbers = {"depth": 5, "weight_var": 1.5, "bias_var": 0.1, "ensemble": "orthogonal"}
    known = theory.log_gradient_variance("tanh", width=32, correlation0=0.2, **numbers)
    found = theory.log_gradient_variance(net, correlation0=0.2)
    assert found == known
    assert found.status == theory.TheoryStatus.OK
    law = theory.jacobian_spectrum("tanh", **numbers)
    assert theory.jacobian_spectrum(net).variance_of_squares == law.variance_of_squares
    at = theory.jacobian_spectrum("tanh", variance=0.7, **(numbers | {"bias_var": None}))
    assert theory.jacobian_spectrum(net, variance=0.7).mean == at.mean
    with pytest.raises(ValueError, match="depth, ensemble must be left out beside an architecture"):
        theory.jacobian_spectrum(net, depth=3, ensemble="gaussian")
    with pytest.raises(ValueError, match="width, bias_var must be given beside an activation"):
        theory.log_gradient_variance("tanh", depth=3, weight_var=1.0)


# ------------------------------------------------------------------- what engines make of it


def _network(name):
    """Three layers of the kind, without dropout: its masks differ from call to call."""
    own = {n: NUMBERS[n] for n in ("bias_var", "branch_scale") if n in LAYERS[name].numbers}
    rest = {n: NUMBERS[n] for n in ("gate_var", "up_var") if n in LAYERS[name].numbers}
    return Architecture(
        4, 12, "tanh", NUMBERS["weight_var"], layer=LAYERS[name], numbers=rest, **own
    )


# Measured gradients are those of W as it acts: weight norm's parameter is another one.
@pytest.mark.parametrize("name", [name for name in NAMES if name != "weight_norm"])
def test_measured_gradients_are_those_of_automatic_differentiation(name):
    key, x = jax.random.key(4), jax.random.normal(jax.random.key(5), (5, 12))
    net = _network(name)
    network = MLP(net, 12, rngs=seed_key(key, 0))
    vectors = initialisers.cotangent(seed_key(key, 0), 5, 12)
    gradient = jax.grad(lambda network: jnp.sum(vectors * network(x)))(network)
    drawn = network.hidden.kind.mixes((1, 12))

    def log_norms(constant):
        names = [n for n, mix in drawn.items() if mix.constant == constant]
        arrays = [np.asarray(getattr(gradient.hidden, n)[...], float) for n in names]
        return np.log(sum(np.square(a).reshape(3, -1).sum(1) for a in arrays))

    for given in (net, network):
        found = measure(given, x, key=key, seeds=1)
        np.testing.assert_allclose(found.log_gradient_w[1:], log_norms(False), atol=1e-3)
        biases = found.log_gradient_b[1:]
        felt = np.isfinite(biases)  # else a batch norm takes them out again
        np.testing.assert_allclose(biases[felt], log_norms(True)[felt], atol=1e-3)
        assert np.all(felt | (log_norms(True) < -10))


def test_a_norm_is_one_file_and_its_line(monkeypatch):
    """Nothing but the table of names need know it: every engine takes it."""

    @dataclasses.dataclass(frozen=True)
    class HalfRMS(kinds.Kind):
        """Half of RMS norm's size."""

        def apply(self, mix, trained, x, *, numbers, key=None):
            return 0.5 * kinds.Norm(centred=False).apply(
                mix, {"scale": 1.0, "shift": 0.0}, x, numbers=numbers
            )

        def covariance(self, gauss, state, numbers):
            return state.normalised().scaled(0.25)

    placed = type(usual.NORMS[None])(before=(HalfRMS(),))
    monkeypatch.setitem(usual.NORMS, "half_rms", placed)
    net = Architecture(12, 128, "tanh", 2.0, 0.1, norm="half_rms")
    x = np.random.default_rng(0).standard_normal((2, 128))
    found = measure(net, x, key=jax.random.key(0), seeds=12)
    start = 2.0 * np.mean(x[0] ** 2) + 0.1
    path = theory.predict(net, variance0=start)
    allowed = 4 * found.variance_stderr + path.variance / 128
    np.testing.assert_array_less(np.abs(found.variance - path.variance)[1:], allowed[1:])
    shift = found.log_gradient_variance / (2 * 11)
    off = found.gradient_rate + shift - path.gradient_rate
    assert abs(off) < 4 * found.gradient_rate_stderr + 0.02
    law = theory.growth_law(net)
    np.testing.assert_allclose(law.gradient_rate, np.log(path.chi[-1]), rtol=1e-10)
    assert theory.kernels(net, x).status == theory.TheoryStatus.OK
    assert MLP(net, 128, 3, rngs=jax.random.key(0))(x).shape == (2, 3)
