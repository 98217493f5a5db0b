"""Stacks of dense layers."""

from itertools import pairwise

import jax
import jax.numpy as jnp
from flax import linen, nnx

from tests.diagnosis.cases.case import ZERO, Case, edited, filled, normal, scaled
from tests.diagnosis.cases.taps import tap

WIDTH = 32
EXAMPLES = 24


def batch():
    """Inputs, and smooth targets of them."""
    x = jax.random.normal(jax.random.key(7), (EXAMPLES, 8))
    return x, jnp.tanh(x @ normal(8, 8, 2))


def squared(model, batch):
    x, y = batch
    return jnp.mean((model(x) - y) ** 2)


class Mlp(nnx.Module):
    """Linear layers, with a norm after or before each and skips if asked for."""

    def __init__(self, depth, activation, gain, norm=None, skip=False, middle=None, scale=1.0):
        rngs = nnx.Rngs(3)
        start = jax.nn.initializers.variance_scaling(gain, "fan_in", "normal")
        sizes = [8, *[WIDTH] * depth]
        make = lambda m, n: nnx.Linear(m, n, kernel_init=start, rngs=rngs)  # noqa: E731
        self.layers = nnx.List([make(m, n) for m, n in pairwise(sizes)])
        norms = range(int(skip), depth) if norm else ()
        self.norms = nnx.List([norm(WIDTH, rngs=rngs) for _ in norms])
        self.head = nnx.Linear(WIDTH, 2, rngs=rngs)
        self.activation, self.skip, self.middle, self.scale = activation, skip, middle, scale

    def __call__(self, x):
        for number, layer in enumerate(self.layers):
            entering = x
            if self.norms and self.skip and number:
                x = self.norms[number - 1](x)
            x = layer(x)
            x = tap("depth:first", x) if number == 0 else x
            if self.norms and not self.skip:
                x = self.norms[number](x)
            x = self.activation(x)
            x = entering + x if self.skip and number else x
            if self.middle and number == 2:
                x = self.middle(x)
        return self.scale * self.head(tap("depth:last", x))


def mlp(*args, **options):
    return lambda: Mlp(*args, **options)


class LinenMlp(linen.Module):
    depth: int
    gain: float

    @linen.compact
    def __call__(self, x):
        kernel = linen.initializers.variance_scaling(self.gain, "fan_in", "normal")
        for number in range(self.depth):
            x = linen.Dense(WIDTH, kernel_init=kernel)(x)
            x = linen.tanh(tap("depth:first", x) if number == 0 else x)
        return linen.Dense(2)(tap("depth:last", x))


def linen_mlp(depth, gain):
    def build():
        module = LinenMlp(depth, gain)
        return module.bind(module.init(jax.random.key(3), jnp.ones((1, 8))))

    return build


def raw(depth, gain):
    """A tree of arrays for `apply`, as Haiku and TrainState have it."""

    def build():
        sizes = [8, *[WIDTH] * depth, 2]
        return {
            f"linear_{i}": {"w": normal(20 + i, m, n, gain=gain), "b": jnp.zeros(n)}
            for i, (m, n) in enumerate(pairwise(sizes))
        }

    return build


def apply_selu(params, x):
    last = len(params) - 1
    for number in range(last):
        x = x @ params[f"linear_{number}"]["w"] + params[f"linear_{number}"]["b"]
        x = jax.nn.selu(tap("depth:first", x) if number == 0 else x)
    return tap("depth:last", x) @ params[f"linear_{last}"]["w"] + params[f"linear_{last}"]["b"]


class Scanned(nnx.Module):
    """All layers in one array, scanned."""

    def __init__(self, depth, gain):
        draws = [normal(40 + i, WIDTH, WIDTH, gain=gain) for i in range(depth)]
        self.first = nnx.Linear(8, WIDTH, rngs=nnx.Rngs(0))
        self.stack = nnx.Param(jnp.stack(draws))
        self.head = nnx.Linear(WIDTH, 2, rngs=nnx.Rngs(1))

    def __call__(self, x):
        x = tap("depth:first", self.first(x))
        step = lambda x, w: (jax.nn.relu(x @ w), None)  # noqa: E731
        x, _ = jax.lax.scan(step, jax.nn.relu(x), self.stack[...])
        return self.head(tap("depth:last", x))


class Gated(nnx.Module):
    """Gated linear units: a (W x) sigmoid(V x) in every layer, with skips behind a norm or not."""

    def __init__(self, depth, skip):
        rngs = nnx.Rngs(5)
        self.first = nnx.Linear(8, WIDTH, rngs=rngs)
        make = lambda m, n: nnx.Linear(m, n, rngs=rngs)  # noqa: E731
        self.values = nnx.List([make(WIDTH, WIDTH) for _ in range(depth)])
        self.gates = nnx.List([make(WIDTH, WIDTH) for _ in range(depth)])
        self.norms = nnx.List([nnx.RMSNorm(WIDTH, rngs=rngs) for _ in range(depth if skip else 0)])
        self.head = nnx.Linear(WIDTH, 2, rngs=rngs)

    def __call__(self, x):
        x = tap("depth:first", self.first(x))
        for number, (value, gate) in enumerate(zip(self.values, self.gates)):
            h = self.norms[number](x) if self.norms else x
            h = value(h) * jax.nn.sigmoid(gate(h))
            x = x + h if self.norms else h
        return self.head(tap("depth:last", x))


class LowRank(nnx.Module):
    """Every weight a product of two thin factors."""

    def __init__(self, depth, gain):
        sizes = [8, *[WIDTH] * depth]
        pairs = list(pairwise(sizes))
        self.down = nnx.List([nnx.Param(normal(60 + i, m, 6)) for i, (m, _) in enumerate(pairs)])
        self.up = nnx.List(
            [nnx.Param(normal(80 + i, 6, n, gain=gain)) for i, (_, n) in enumerate(pairs)]
        )
        self.head = nnx.Linear(WIDTH, 2, rngs=nnx.Rngs(1))

    def __call__(self, x):
        for number, (down, up) in enumerate(zip(self.down, self.up)):
            x = x @ down[...] @ up[...]
            x = jax.nn.relu(tap("depth:first", x) if number == 0 else x)
        return self.head(tap("depth:last", x))


relu = jax.nn.relu
he = mlp(8, relu, 2.0)


def case(build, *verdict, **options):
    return Case(build, squared, batch, *verdict, **options)


def he_with(change, *verdict, **options):
    return case(lambda: change(he()), *verdict, **options)


APPLIED = {"options": (("apply", apply_selu),)}
LN, BN = nnx.LayerNorm, nnx.BatchNorm

CASES = {
    "relu mlp": case(he),
    "tanh mlp, linen": case(linen_mlp(8, 1.2)),
    "selu mlp, dict with apply": case(raw(8, 1.0), **APPLIED),
    "gelu mlp": case(mlp(6, jax.nn.gelu, 2.2)),
    "scanned mlp": case(lambda: Scanned(12, 2.0)),
    "silu pre-norm residual": case(mlp(10, jax.nn.silu, 1.0, LN, True)),
    "tanh behind layer norms": case(mlp(8, jnp.tanh, 1.0, LN)),
    "relu behind batch norms": case(mlp(5, relu, 1.0, BN)),
    "residual, no norm": case(mlp(5, jnp.tanh, 0.3, None, True)),
    "glu, pre-norm residual": case(lambda: Gated(8, True)),
    "low-rank factors": case(lambda: LowRank(5, 2.5)),
    "behind norms, x0.1": case(
        lambda: scaled(mlp(8, relu, 1.0, LN, True)(), 0.1, "layers.*kernel")
    ),
    "one layer x0.3": he_with(lambda m: scaled(m, 0.3, "layers/3/kernel")),
    "one hidden layer": case(mlp(1, jnp.tanh, 1.0)),
    # ------------------------------------------------------------------ all layers
    "relu mlp, x0.3": he_with(lambda m: scaled(m, 0.3, "layers.*kernel"), "vanishing"),
    "relu mlp, x0.1": he_with(lambda m: scaled(m, 0.1, "layers.*kernel"), "vanishing"),
    "relu mlp, x3": he_with(lambda m: scaled(m, 3.0, "layers.*kernel"), "exploding"),
    "tanh mlp, linen, x0.3": case(lambda: scaled(linen_mlp(8, 1.2)(), 0.3), "vanishing"),
    "tanh mlp, linen, gain 16": case(linen_mlp(14, 16.0), "exploding"),
    "selu mlp, dict, x0.3": case(lambda: scaled(raw(8, 1.0)(), 0.3, "w$"), "vanishing", **APPLIED),
    "selu mlp, dict, x3": case(lambda: scaled(raw(8, 1.0)(), 3.0, "w$"), "exploding", **APPLIED),
    "sigmoid mlp": case(mlp(6, jax.nn.sigmoid, 1.0), "vanishing"),
    "gelu mlp, x0.3": case(lambda: scaled(mlp(6, jax.nn.gelu, 2.2)(), 0.3), "vanishing"),
    "scanned mlp, x0.3": case(lambda: scaled(Scanned(12, 2.0), 0.3, "stack"), "vanishing"),
    "scanned mlp, x3": case(lambda: scaled(Scanned(12, 2.0), 3.0, "stack"), "exploding"),
    "residual, no norm, gain 16": case(mlp(8, relu, 16.0, None, True), "exploding"),
    "glu without norms or skips": case(lambda: Gated(16, False), "vanishing"),
    "low-rank factors x0.3": case(
        lambda: scaled(LowRank(5, 2.5), 0.3, "down|up"), "vanishing"
    ),
    # ------------------------------------------------------------------ one layer
    "one layer x1e-4": he_with(
        lambda m: scaled(m, 1e-4, "layers/3/kernel"), "vanishing", place="layers/3"
    ),
    "one layer x1e4": he_with(
        lambda m: scaled(m, 1e4, "layers/5/kernel"), "exploding", place="layers/5"
    ),
    "bias -100 in the fourth of six": case(
        lambda: filled(mlp(6, relu, 2.0)(), "layers/3/bias", -100.0),
        "vanishing", place="layers/3", reason="dead",
    ),
    "bias -100 in the first": case(
        lambda: filled(mlp(6, relu, 2.0)(), "layers/0/bias", -100.0),
        "vanishing", place="layers/0", reason="dead",
    ),
    "tanh saturated in one layer": case(
        lambda: filled(mlp(6, jnp.tanh, 1.2)(), "layers/2/bias", 8.0),
        "vanishing", place="layers/2", reason="saturated",
    ),
    "sigmoid saturated everywhere": case(
        lambda: filled(mlp(5, jax.nn.sigmoid, 8.0)(), "layers.*bias", -9.0), "vanishing",
    ),
    "zeroed kernel before relu": he_with(
        lambda m: filled(m, "layers/3/kernel", 0.0), "vanishing", place="layers/3", reason=ZERO,
    ),
    "two zeroed kernels, tanh": case(
        lambda: filled(mlp(8, jnp.tanh, 1.2)(), "layers/[34]/kernel", 0.0),
        "vanishing", place="layers/[34]", reason=ZERO,
    ),
    "all units dead but behind a norm": case(
        lambda: edited(mlp(5, relu, 1.0, LN)(), "norms/2/bias", lambda b: b - 60.0),
        "vanishing", place="(layers|norms)/2", reason="dead",
    ),
}  # fmt: skip
