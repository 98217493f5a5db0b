"""Infinite width of programs as they are: equal to theory where it has them, else to networks."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sigprop import limit, theory
from sigprop.architecture import Architecture
from tests.limit.networks import measured

N = 64
RNG = np.random.default_rng(0)


def two_inputs(variance, correlation, weight_var=1.0, bias_var=0.0):
    """Inputs whose first pre-activations have this variance and correlation."""
    size = (variance - bias_var) / weight_var
    c = (variance * correlation - bias_var) / weight_var / size
    x = np.zeros((2, N))
    x[0, 0], x[1, 0], x[1, 1] = 1, c, np.sqrt(1 - c * c)
    return x * np.sqrt(size * N)


def stack(phi):
    def apply(layers, x):
        for n, (w, b) in enumerate(layers):
            x = (phi(x) if n else x) @ w + b
        return x

    return apply


def layers(depth):
    return [(RNG.normal(size=(N, N)), RNG.normal(size=N)) for _ in range(depth)]


def of_rows(path):
    rows = path.places
    q = np.asarray([p.second_moment[0] for p in rows])
    apart = np.asarray([p.one_minus_correlation[0, 1] for p in rows])
    logs = np.asarray([p.log_gradient for p in rows])
    return q, apart, logs - logs[-1]


@pytest.mark.parametrize(
    ("phi", "weight_var", "bias_var", "variance0", "q", "c", "log_g"),
    [
        (jnp.tanh, 1.761, 0.05, 0.5, 0.5700756849, 0.9432083963, 0.09069097),
        (jax.nn.relu, 2.0, 0.0, 1.0, 1.0, 0.9966075024, 0.0),
    ],
    ids=["tanh", "relu"],
)
def test_a_hundred_layers(phi, weight_var, bias_var, variance0, q, c, log_g):
    inputs = two_inputs(variance0, 0.6, weight_var, bias_var)
    laws = {"*/0": weight_var / N, "*/1": bias_var}
    path = limit.predict(layers(101), inputs, apply=stack(phi), laws=laws, require="exact")
    variance, apart, logs = of_rows(path)
    assert variance[-1] == pytest.approx(q, abs=1e-10)
    assert 1 - apart[-1] == pytest.approx(c, abs=1e-10)
    assert logs[0] == pytest.approx(log_g, abs=1e-8)


PHI = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "erf": jax.lax.erf,
    "silu": jax.nn.silu,
}


@pytest.mark.parametrize("name", list(PHI))
@pytest.mark.parametrize("correlation", [0.6, 1 - 1e-9, -0.3])
def test_plain_networks_are_theorys(name, correlation):
    inputs, laws = two_inputs(0.7, correlation, 1.9, 0.1), {"*/0": 1.9 / N, "*/1": 0.1}
    path = limit.predict(layers(4), inputs, apply=stack(PHI[name]), laws=laws, require="exact")
    known = theory.propagate(
        name, depth=4, weight_var=1.9, bias_var=0.1, variance0=0.7, correlation0=correlation
    )
    variance, apart, logs = of_rows(path)
    np.testing.assert_allclose(variance, known.variance, rtol=1e-12)
    # The angle between inputs is known to the rounding of the inputs themselves.
    np.testing.assert_allclose(apart, known.one_minus_correlation, rtol=1e-12, atol=3e-16)
    np.testing.assert_allclose(logs, known.log_gradient, rtol=0, atol=1e-12)


class Block(nnx.Module):
    def __init__(self, rngs, norm, skip):
        self.dense = nnx.Linear(N, N, rngs=rngs)
        self.norm = norm and norm(N, epsilon=0.0, rngs=rngs)
        self.skip = skip

    def __call__(self, x):
        h = x if self.norm is None else self.norm(x)
        h = self.dense(jnp.tanh(h))
        return x + h if self.skip else h


class Network(nnx.Module):
    def __init__(self, norm=None, skip=False, depth=4):
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(N, N, rngs=rngs)
        self.blocks = nnx.List([Block(rngs, norm, skip) for _ in range(depth - 1)])

    def __call__(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return x


LAWS = {"*kernel": 1.3 / N, "*first/bias": 0.1, "first/bias": 0.1, "*dense/bias": 0.1}
LAWS.pop("*first/bias")


@pytest.mark.parametrize("norm", [None, "layer_norm", "rms_norm"])
@pytest.mark.parametrize("block", ["plain", "residual"])
def test_blocks_are_theorys(norm, block):
    kind = {None: None, "layer_norm": nnx.LayerNorm, "rms_norm": nnx.RMSNorm}[norm]
    inputs = two_inputs(0.8, 0.6, 1.3, 0.1)
    net = Network(kind, block == "residual")
    path = limit.predict(net, inputs, laws=LAWS, require="exact")
    architecture = Architecture(4, N, "tanh", 1.3, bias_var=0.1, block=block, norm=norm)
    known = theory.predict(architecture, variance0=0.8, correlation0=0.6)
    covariance = np.asarray([p.covariance for p in path.places])
    if block == "residual":  # rows are branches; the stream is their sum
        covariance = np.cumsum(covariance, axis=0)
    variance = covariance[:, 0, 0]
    np.testing.assert_allclose(variance, known.variance, rtol=1e-12)
    np.testing.assert_allclose(covariance[:, 0, 1], known.correlation * variance, rtol=1e-12)
    np.testing.assert_allclose(of_rows(path)[2], known.log_gradient, rtol=0, atol=1e-12)


def test_every_framework_gives_the_same_rows():
    class InLinen(nn.Module):
        @nn.compact
        def __call__(self, x):
            for n in range(3):
                x = nn.Dense(N)(jnp.tanh(x) if n else x)
            return x

    x = jnp.asarray(two_inputs(0.8, 0.6))
    linen = InLinen()
    variables = linen.init(jax.random.key(0), x)
    keys = jax.random.split(jax.random.key(0), 3)
    activated = [eqx.nn.Lambda(jnp.tanh)] * 2
    dense = [eqx.nn.Linear(N, N, key=k) for k in keys]
    equinox = eqx.nn.Sequential([dense[0], activated[0], dense[1], activated[1], dense[2]])
    raw = {"kernel": [RNG.normal(size=(N, N)) for _ in range(3)]}

    def of_raw(p, x):
        for n, w in enumerate(p["kernel"]):
            x = (jnp.tanh(x) if n else x) @ w
        return x

    def laws(name, shape):
        return 1.3 / N if len(shape) == 2 else 0.0

    models = [
        (linen.bind(variables), None),
        (variables, linen.apply),
        (equinox, lambda m, x: jax.vmap(m)(x)),
        (raw, of_raw),
    ]
    found = [of_rows(limit.predict(m, x, apply=f, laws=laws, require="exact")) for m, f in models]
    for other in found[1:]:
        for a, b in zip(found[0], other):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-13)


# ---------------------------------------------------------------------------- exact values


def conv(kernels, x):
    for n, w in enumerate(kernels):
        x = jnp.tanh(x) if n else x
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="wrap")
        x = jax.lax.conv_general_dilated(
            x, w, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    return x


def test_circular_convolution_of_equal_pixels_is_a_dense_layer():
    x = RNG.normal(size=(1, 3, 3, N))
    x /= np.sqrt((x**2).mean(-1, keepdims=True))
    kernels = [RNG.normal(size=(3, 3, N, N)) for _ in range(3)]
    path = limit.predict(kernels, x, apply=conv, laws={"*": 1.5 / (9 * N)}, require="exact")
    known = theory.propagate("tanh", depth=3, weight_var=1.5, bias_var=0.0, variance0=1.5)
    for place, variance in zip(path.places, known.variance):
        np.testing.assert_allclose(place.second_moment, variance, rtol=1e-12)
    np.testing.assert_allclose(of_rows(path)[2], known.log_gradient, atol=1e-12)


def attention(model, x):
    x = x @ model["embed"]
    for p in model["layers"]:
        q, k, v = ((x @ p[c]).reshape(1, 8, 4, -1) for c in "qkv")
        a = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) / 4)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", a, v).reshape(1, 8, N)
        x = x + 0.7 * (mixed @ p["o"])
    return x


def attention_weights(depth=2):
    one = lambda: RNG.normal(size=(N, N))  # noqa: E731
    return {"embed": one(), "layers": [{c: one() for c in "qkvo"} for _ in range(depth)]}


def test_uniform_attention():
    """K_l = K + a² A K A', A of equal entries."""
    x = RNG.normal(size=(1, 8, N))
    laws = lambda name, shape: 0.0 if name.endswith("q") else 1.2 / N  # noqa: E731
    path = limit.predict(attention_weights(), x, apply=attention, laws=laws)
    mixing = np.full((8, 8), 1 / 8)
    stream = path["embed"].covariance
    for layer in range(2):
        branch = 1.2**2 * mixing @ stream @ mixing.T
        np.testing.assert_allclose(path[f"layers/{layer}/o"].covariance, branch, atol=1e-12)
        stream = stream + 0.7**2 * branch


def test_a_tied_recurrence_is_drawn_jointly():
    """Of h' = W h, E[h_t h_s] by hand for linear steps: W² x and W x are uncorrelated."""
    model = {"w": RNG.normal(size=(N, N)), "u": RNG.normal(size=(N, N))}

    def apply(p, xs):
        step = lambda h, x: ((new := jnp.tanh(h @ p["w"] + x @ p["u"])), new)  # noqa: E731
        return jax.lax.scan(step, jnp.zeros((1, N)), xs)[1]

    xs = np.tile(RNG.normal(size=(1, 1, N)), (24, 1, 1))
    laws = {"w": 0.8 / N, "u": 0.5 / N}
    path = limit.predict(model, xs, apply=apply, laws=laws, require="exact")
    q = [path[f"w[{t}]"].variance for t in range(24)]
    drive = path["u[0]"].variance
    # One input for ever, and the same weights: the recurrence of a deep net with q -> q*.
    known = theory.propagate("tanh", depth=24, weight_var=0.8, bias_var=drive, variance0=drive)
    np.testing.assert_allclose(np.asarray(q) + drive, known.variance, rtol=1e-12)


# ---------------------------------------------------------------------------- against networks


def tied(p, x):
    return jnp.tanh(x @ p[0]) @ p[0].T


def mlp(p, x):
    for n, w in enumerate(p):
        x = (jnp.tanh(x) if n else x) @ w
    return x


def pooled(p, x):
    for n, w in enumerate(p[:-1]):
        x = jax.nn.relu(x) if n else x
        x = jax.lax.conv_general_dilated(
            x, w, (1 + n, 1 + n), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    return jax.nn.relu(x).mean((1, 2)) @ p[-1]


def gated(p, x):
    x = x @ p["e"]
    return (jax.nn.silu(x @ p["a"]) * (x @ p["b"])) @ p["c"]


def normal(*shape):
    return RNG.normal(size=shape)


WIDE = 192
CASES = {
    "tied_autoencoder": (tied, [normal(64, WIDE)], normal(2, 64), None, {"*": 1 / 64}),
    "sum_of_squares": (
        mlp, [normal(64, WIDE), normal(WIDE, WIDE), normal(WIDE, WIDE)], normal(2, 64),
        lambda y: jnp.sum(y**2), {"0": 1.5 / 64, "1": 1.5 / WIDE, "2": 1.5 / WIDE},
    ),
    "mean_readout": (
        lambda p, x: jax.nn.gelu(mlp(p, x)), [normal(WIDE, WIDE) for _ in range(3)],
        normal(2, WIDE), lambda y: jnp.sum(y.mean(-1)), {"*": 2 / WIDE},
    ),
    "pooling": (
        pooled, [normal(3, 3, 64, 64), normal(3, 3, 64, 64), normal(64, 64)], normal(2, 4, 4, 64),
        None, {"0": 2 / 576, "1": 2 / 576, "2": 1 / 64},
    ),
    "gated": (
        gated, {k: normal(WIDE, WIDE) for k in "eabc"}, normal(2, WIDE), None, {"*": 1 / WIDE},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", list(CASES))
def test_agrees_with_networks(case):
    """Within 3 standard errors and the 3% that networks of this width are off by."""
    apply, model, inputs, loss, laws = CASES[case]
    path = limit.predict(model, inputs, apply=apply, loss=loss, laws=laws, require="exact")
    (z, z_error), (g, g_error) = measured(
        model, inputs, apply=apply, loss=loss, laws=laws, seeds=160
    )
    expected = np.asarray([p.variance for p in path.places])
    assert np.all(np.abs(z - expected) < 3 * z_error + 0.03 * expected)
    expected = np.exp([p.log_gradient for p in path.places])
    assert np.all(np.abs(g - expected) < 3 * g_error + 0.03 * expected)


def test_the_transposed_term_matters():
    apply, model, inputs, _, laws = CASES["tied_autoencoder"]
    path = limit.predict(model, inputs, apply=apply, laws=laws)
    independent = path.places[1].second_moment * (1 - path.places[1].transposed_share)
    (z, error), _ = measured(model, inputs, apply=apply, laws=laws, seeds=80)
    assert path.places[1].transposed_share > 0.2
    assert abs(z[1] - independent.mean()) > 10 * error[1]


# ---------------------------------------------------------------------------- laws


def test_estimated_variances_carry_their_error():
    keys = jax.random.split(jax.random.key(1), 3)
    model = [(jax.random.normal(k, (N, N)) * np.sqrt(1.5 / N), jnp.zeros(N)) for k in keys]
    path = limit.predict(model, two_inputs(0.8, 0.6), apply=stack(jnp.tanh))
    told = limit.predict(
        model, two_inputs(0.8, 0.6), apply=stack(jnp.tanh), laws={"*/0": 1.5 / N, "*/1": 0.0}
    )
    assert not path.exact
    assert told.exact
    assert path.notes
    for place, known in zip(path.places, told.places):
        off = np.abs(place.second_moment - known.second_moment)
        assert np.all(off < 5 * place.second_moment_stderr)
        assert np.all(place.second_moment_stderr > 0)
        assert np.all(known.second_moment_stderr == 0)
    with pytest.raises(ValueError, match="require='exact'"):
        limit.predict(model, two_inputs(0.8, 0.6), apply=stack(jnp.tanh), require="exact")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"laws": {"nothing": 1.0}}, "laws names 'nothing'"),
        ({"laws": {"*": -1.0}}, "variances >= 0, got -1"),
        ({"require": "all"}, "require must be"),
        ({"populations": 3}, "populations must be an integer >= 4"),
        ({"samples": 0}, "samples must be an integer >= 1"),
        ({"apply": None}, "model must be callable where apply is not given"),
        ({"apply": lambda p, x: x @ p[0][0].T[:3]}, "model could not be run on inputs"),
    ],
)
def test_bad_input_is_one_clear_line(change, message):
    given = {"apply": stack(jnp.tanh), **change}
    with pytest.raises(ValueError, match=message) as error:
        limit.predict(layers(2), two_inputs(1.0, 0.5), **given)
    assert "\n" not in str(error.value)


def test_a_model_without_arrays_is_named():
    with pytest.raises(ValueError, match="holds no floating array"):
        limit.predict([jnp.tanh], np.ones(3), apply=lambda m, x: m[0](x))
