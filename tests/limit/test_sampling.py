"""What does not close is sampled: equal to what is known, or to networks, within its own error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sigprop import limit
from sigprop.limit.figures import exact_figures, sampled_figures
from sigprop.limit.interpreting import read
from tests.limit.networks import measured
from tests.limit.test_predicting import CASES, N, normal, stack, two_inputs


@pytest.mark.parametrize("case", ["tied_autoencoder", "sum_of_squares", "gated"])
def test_populations_are_the_integrals(case):
    """Eight independent populations against quadrature: within 5 of their standard errors."""
    apply, model, inputs, loss, laws = CASES[case]
    reading = read(model, inputs, apply, loss, laws)
    exact = exact_figures(reading)
    keys = jax.random.split(jax.random.key(0), 8)
    populations = [sampled_figures(reading, 8192, key) for key in keys]
    for n, known in enumerate(exact):
        for of in (lambda f: f.second_moment.mean(), lambda f: np.trace(f.gradient)):
            found = np.asarray([of(each[n]) for each in populations])
            error = found.std(ddof=1) / np.sqrt(8)
            assert found.mean() == pytest.approx(of(known), rel=1e-3, abs=5 * error)


def batch_norm(weights, x):
    for n, w in enumerate(weights):
        if n:
            x = jax.nn.relu((x - x.mean(0)) / jnp.sqrt(x.var(0)))
        x = x @ w
    return x


def test_batch_norm_grows_as_is_known():
    """At batch 8 the squared gradient of relu grows by 1.788190 a layer."""
    weights = [normal(N, N) for _ in range(8)]
    path = limit.predict(
        weights, normal(8, N), apply=batch_norm, laws={"*": 1.5 / N}, populations=8
    )
    logs = np.asarray([p.log_gradient for p in path.places])
    error = np.hypot(path["1"].log_gradient_stderr, path["4"].log_gradient_stderr) / 3
    assert (logs[1] - logs[4]) / 3 == pytest.approx(np.log(1.788190), abs=3 * error)
    assert error < 0.01
    assert not path.places[1].exact
    assert any("sampled" in note for note in path.notes)


def test_dropout_keeps_sizes_with_masks_of_each_replicas_own():
    class Net(nnx.Module):
        def __init__(self):
            rngs = nnx.Rngs(0)
            self.layers = nnx.List([nnx.Linear(N, N, use_bias=False, rngs=rngs) for _ in range(6)])
            self.dropout = nnx.Dropout(0.3, rngs=rngs)

        def __call__(self, x):
            for n, layer in enumerate(self.layers):
                x = layer(self.dropout(jax.nn.relu(x)) if n else x)
            return x

    inputs = two_inputs(1.0, 1.0, 2 * 0.7)
    path = limit.predict(Net(), inputs, laws={"*": 2 * 0.7 / N})
    for place in path.places:
        error = place.second_moment_stderr.mean()
        assert place.variance == pytest.approx(1.0, abs=3 * error + 1e-12)
        assert error < 0.03
    # Two equal inputs lose different units: E[z z'] is 0.7 of what one keeps.
    assert path.correlation("layers/1", 0, 1) == pytest.approx(0.7, abs=0.02)


class Block(nnx.Module):
    def __init__(self, rngs):
        self.norms = nnx.List([nnx.LayerNorm(N, rngs=rngs) for _ in range(2)])
        self.attention = nnx.MultiHeadAttention(4, N, decode=False, rngs=rngs)
        self.up = nnx.Linear(N, 2 * N, rngs=rngs)
        self.down = nnx.Linear(2 * N, N, rngs=rngs)

    def __call__(self, x):
        x = x + self.attention(self.norms[0](x))
        return x + self.down(jax.nn.gelu(self.up(self.norms[1](x))))


class Transformer(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.embed = nnx.Linear(16, N, rngs=rngs)
        self.blocks = nnx.List([Block(rngs) for _ in range(2)])

    def __call__(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return x


def glorot(name, shape):
    if len(shape) < 2:
        return 0.0 if name.endswith("bias") else None
    return 1.5 / (shape[0] * shape[1] if name.endswith("out/kernel") else shape[0])


def test_a_transformer_is_as_its_networks():
    """Rows jointly: mean square of 28 differences in joint standard errors; width leaves 2%."""
    model, inputs = Transformer(), normal(1, 5, 16)
    path = limit.predict(model, inputs, laws=glorot, samples=8192)
    (z, z_error), (g, g_error) = measured(model, inputs, laws=glorot, seeds=120)
    q = np.asarray([p.variance for p in path.places])
    q_error = np.asarray([p.second_moment_stderr.mean() for p in path.places])
    of_z = (z / q - 1) / np.sqrt((z_error / q) ** 2 + (q_error / q) ** 2 + 0.02**2)
    logs = np.asarray([p.log_gradient for p in path.places])
    error = np.asarray([p.log_gradient_stderr for p in path.places])
    of_g = (np.log(g) - logs) / np.sqrt((g_error / g) ** 2 + error**2 + 0.02**2)
    assert np.sqrt(np.mean(of_z**2)) < 1.5
    assert np.sqrt(np.mean(of_g**2)) < 1.5
    assert np.abs([*of_z, *of_g]).max() < 4


def mixer(p, x):
    """Two layers of an MLP-mixer: over tokens, over channels."""
    x = x @ p["embed"]
    mixed = jnp.einsum("btc,tu->buc", jax.nn.gelu(x), p["tokens"])
    return jax.nn.gelu(x + mixed) @ p["channels"]


def depthwise(p, x):
    x = jax.nn.relu(x @ p["embed"])
    x = jax.lax.conv_general_dilated(
        x, p["taps"], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=N
    )
    return jax.nn.relu(x) @ p["out"]


def language_model(p, tokens):
    """With one table on both ends."""
    x = p["table"][tokens]
    x = x + jnp.tanh(x @ p["w"])
    return x @ p["table"].T


OTHERS = {
    "mixer": (
        mixer, {"embed": normal(16, N), "tokens": normal(6, 6), "channels": normal(N, N)},
        normal(1, 6, 16), {"embed": 1 / 16, "tokens": 1 / 6, "channels": 1 / N}, "tokens",
    ),
    "depthwise": (
        depthwise, {"embed": normal(16, N), "taps": normal(3, 1, N), "out": normal(N, N)},
        normal(1, 6, 16), {"embed": 1 / 16, "taps": 1 / 3, "out": 2 / N}, "taps",
    ),
    "tied_embedding": (
        language_model, {"table": normal(32, N), "w": normal(N, N)},
        np.asarray([[3, 1, 4, 1, 5]]), {"table": 1.0, "w": 1 / N}, "table",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", list(OTHERS))
def test_what_is_drawn_in_full_is_as_networks_and_is_noted(case):
    apply, model, inputs, laws, noted = OTHERS[case]
    few = case == "depthwise"  # grouped convolutions are slow on a CPU
    path = limit.predict(model, inputs, apply=apply, laws=laws, samples=1024 if few else 8192)
    seeds = 40 if few else 200
    (z, z_error), (g, g_error) = measured(model, inputs, apply=apply, laws=laws, seeds=seeds)
    q = np.asarray([p.variance for p in path.places])
    q_error = np.asarray([p.second_moment_stderr.mean() for p in path.places])
    assert np.all(np.abs(z - q) < 4 * np.hypot(z_error, q_error) + 0.02 * q)
    logs = np.asarray([p.log_gradient for p in path.places])
    error = np.asarray([p.log_gradient_stderr for p in path.places])
    assert np.all(np.abs(np.log(g) - logs) < 4 * np.hypot(g_error / g, error) + 0.02)
    assert any(noted in note and "annealed" in note for note in path.notes)


# ---------------------------------------------------------------------------- refused


@jax.custom_vjp
def own_derivative(w, x):
    return x @ w


own_derivative.defvjp(lambda w, x: (x @ w, (w, x)), lambda kept, g: (kept[1].T @ g, g @ kept[0].T))


def normalised(p, x):
    w = p[0] / jnp.sqrt(jnp.sum(p[0] ** 2, axis=0))
    return x @ w


def while_signal(p, x):
    y = x @ p[0]
    return jax.lax.while_loop(lambda z: jnp.sum(z**2) > 1.0, lambda z: z / 2, y) @ p[1]


REFUSED = {
    "top_k": (lambda p, x: jax.lax.top_k(x @ p[0], N)[0] @ p[1], "top_k", "units"),
    "sort": (lambda p, x: jnp.sort(x @ p[0], axis=-1) @ p[1], "sort", "units"),
    "weight_norm": (normalised, "", "weight"),
    "custom_vjp": (lambda p, x: own_derivative(p[0], x) @ p[1], "custom_vjp_call", "multiply"),
    "while": (while_signal, "while", "signal"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_every_refusal_names_operation_and_reason(case):
    apply, operation, reason = REFUSED[case]
    model = [normal(N, N), normal(N, N), normal(2, 8)]
    path = limit.predict(model, normal(2, N), apply=apply, laws={"*": 1.0 / N}, samples=1024)
    assert path.refused
    told = " ".join(map(str, path.refused))
    assert operation in told
    assert reason in told


@pytest.mark.parametrize(
    ("weight", "reason"),
    [
        (np.eye(N), ""),
        (normal(N, 2) @ normal(2, N) / N, ""),
        (normal(N, N) / 8 + 0.5, "mean"),
        (normal(N, N) / 8 + 0.1 * np.outer(np.ones(N), np.sin(np.arange(N))), "singular value"),
    ],
    ids=["identity", "low_rank", "mean", "outlier"],
)
def test_weights_that_are_no_draws_are_refused(weight, reason):
    model = [(normal(N, N) / 8, np.zeros(N)), (weight, np.zeros(N))]
    path = limit.predict(model, two_inputs(1.0, 0.5), apply=stack(jnp.tanh), samples=1024)
    assert [p.name for p in path.places] == ["0"]
    assert any(r.operation == "1/0" and reason in r.reason for r in path.refused)


def test_usual_initialisers_are_taken_for_draws():
    for seed in range(5):
        for init in ("lecun_normal", "glorot_uniform", "orthogonal"):
            key = jax.random.key(seed)
            weight = getattr(jax.nn.initializers, init)()(key, (N, 2 * N))
            model = [(np.asarray(weight), np.zeros(2 * N))]
            path = limit.predict(model, two_inputs(1.0, 0.5), apply=stack(jnp.tanh))
            assert not path.refused, (seed, init, path.refused)


def test_too_many_places_for_the_samples():
    model = [normal(N, N), normal(N, N)]
    path = limit.predict(model, normal(200, N), apply=batch_norm, laws={"*": 1.0 / N}, samples=1024)
    assert any("fewer than 20" in r.reason for r in path.refused)
