"""Models with a known illness, or none: half of them have nothing to do with sigprop."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen, nnx

from sigprop.architecture import Architecture
from sigprop.networks import MLP

FEATURES = 16
EXAMPLES = 24


def batch(seed):
    return jax.random.normal(jax.random.key(1000 + seed), (EXAMPLES, FEATURES))


def images(seed):
    return jax.random.normal(jax.random.key(2000 + seed), (4, 16, 16, 3))


def tokens(seed):
    return jax.random.randint(jax.random.key(3000 + seed), (8, 12), 0, 50)


def mean_square(model, x):
    return jnp.mean((model(x) - 0.5) ** 2)


def list_mean_square(layers, x):
    for layer in layers:
        x = layer(x)
    return jnp.mean((x - 0.5) ** 2)


# ---------------------------------------------------------------------------- built with sigprop


def mlp(activation, weight_var, bias_var, depth=30, width=64, **options):
    def build(seed):
        record = Architecture(depth, width, activation, weight_var, bias_var, **options)
        return MLP(record, FEATURES, 4, rngs=jax.random.key(seed), readout_weight_var=1.0)

    return build


# ---------------------------------------------------------------------------- NNX


class Stack(nnx.Module):
    """Linear layers with an activation and, if asked for, a norm and skips."""

    def __init__(self, depth, activation, gain, rngs, norm=None, residual=False, bias=0.0):
        kernel = jax.nn.initializers.variance_scaling(gain, "fan_in", "normal")
        start = jax.nn.initializers.constant(bias)
        make = lambda n: nnx.Linear(n, 64, kernel_init=kernel, bias_init=start, rngs=rngs)  # noqa: E731
        self.layers = nnx.List([make(FEATURES), *(make(64) for _ in range(depth - 1))])
        self.norms = nnx.List([norm(64, rngs=rngs) for _ in range(depth)] if norm else [])
        self.head = nnx.Linear(64, 3, rngs=rngs)
        self.activation, self.residual = activation, residual

    def __call__(self, x):
        for number, layer in enumerate(self.layers):
            entering = x
            if self.residual and number:
                x = self.norms[number](x)
            x = layer(x)
            if self.norms and not self.residual:
                x = self.norms[number](x)
            x = self.activation(x)
            x = entering + x if self.residual and number else x
        return self.head(x)


def stack(*args, **options):
    return lambda seed: Stack(*args, rngs=nnx.Rngs(seed), **options)


class LogLayer(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(FEATURES, 32, rngs=rngs)
        self.second = nnx.Linear(32, 32, rngs=rngs)

    def __call__(self, x):
        return self.second(jnp.log(self.first(x)))


class Transformer(nnx.Module):
    def __init__(self, depth, rngs):
        self.embedding = nnx.Embed(50, 32, rngs=rngs)
        self.attention = nnx.List(
            [nnx.MultiHeadAttention(4, 32, decode=False, rngs=rngs) for _ in range(depth)]
        )
        self.expand = nnx.List([nnx.Linear(32, 64, rngs=rngs) for _ in range(depth)])
        self.shrink = nnx.List([nnx.Linear(64, 32, rngs=rngs) for _ in range(depth)])
        self.norms = nnx.List([nnx.LayerNorm(32, rngs=rngs) for _ in range(2 * depth)])
        self.head = nnx.Linear(32, 50, rngs=rngs)

    def __call__(self, tokens):
        x = self.embedding(tokens)
        for number, attend in enumerate(self.attention):
            x = x + attend(self.norms[2 * number](x))
            h = jax.nn.gelu(self.expand[number](self.norms[2 * number + 1](x)), approximate=False)
            x = x + self.shrink[number](h)
        return self.head(x)


def next_token(model, tokens):
    logits = jax.nn.log_softmax(model(tokens)[:, :-1])
    return -jnp.mean(jnp.take_along_axis(logits, tokens[:, 1:, None], axis=-1))


# ---------------------------------------------------------------------------- Linen


class LinenMLP(linen.Module):
    depth: int
    activation: Callable
    gain: float

    @linen.compact
    def __call__(self, x):
        kernel = linen.initializers.variance_scaling(self.gain, "fan_in", "normal")
        for _ in range(self.depth):
            x = self.activation(linen.Dense(48, kernel_init=kernel)(x))
        return linen.Dense(2)(x)


class LinenCNN(linen.Module):
    @linen.compact
    def __call__(self, x):
        kernel = linen.initializers.he_normal()
        for features in (16, 16, 32, 32):
            x = linen.relu(linen.Conv(features, (3, 3), kernel_init=kernel)(x))
        x = jnp.mean(x, axis=(1, 2))
        return linen.Dense(10)(x)


def bound(module, example):
    def build(seed):
        return module.bind(module.init(jax.random.key(seed), example))

    return build


# ---------------------------------------------------------------------------- plain pytrees


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Linear:
    """As Equinox has it: a pytree that can be called."""

    weight: jax.Array
    bias: jax.Array

    def __call__(self, x):
        return x @ self.weight.T + self.bias


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Network:
    layers: list
    activation: Any = dataclasses.field(metadata={"static": True})

    def __call__(self, x):
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)


def linears(seed, depth, weight_var, width=64, bias=0.0):
    sizes = [FEATURES, *[width] * depth]
    keys = jax.random.split(jax.random.key(seed), depth)
    scale = [jnp.sqrt(weight_var / n) for n in sizes[:-1]]
    return [
        Linear(s * jax.random.normal(k, (m, n)), jnp.full(m, bias))
        for k, n, m, s in zip(keys, sizes, sizes[1:], scale)
    ]


def pytree(activation, depth, weight_var):
    return lambda seed: Network(linears(seed, depth, weight_var), activation)


def listed(activation, depth, weight_var, bias=0.0):
    def build(seed):
        layers = linears(seed, depth, weight_var, bias=bias)
        return [part for layer in layers for part in (layer, activation)]

    return build


# ------------------------------------------------------------ raw arrays, with no layer around them


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Multiplied:
    """W x + b of one example at a time."""

    weights: list
    biases: list

    def __call__(self, x):
        for weight, bias in zip(self.weights, self.biases):
            x = jnp.tanh(weight @ x + bias)
        return x


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Scanned:
    """All layers in one array."""

    stack: jax.Array

    def __call__(self, x):
        return jax.lax.scan(lambda x, w: (jax.nn.relu(x @ w.T), None), x, self.stack)[0]


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Fields:
    """Arrays of one object that is itself the only layer."""

    w1: jax.Array
    w2: jax.Array
    w3: jax.Array
    w4: jax.Array

    def __call__(self, x):
        for weight in (self.w1, self.w2, self.w3, self.w4):
            x = jax.nn.sigmoid(x @ weight)
        return x


def squares(seed, depth, weight_var):
    draws = jax.random.normal(jax.random.key(seed), (depth, FEATURES, FEATURES))
    return draws * jnp.sqrt(weight_var / FEATURES)


def multiplied(depth, weight_var):
    return lambda seed: Multiplied(
        list(squares(seed, depth, weight_var)), [jnp.full(FEATURES, 0.1)] * depth
    )


def mean_square_by_example(model, x):
    return jnp.mean((jax.vmap(model)(x) - 0.5) ** 2)


# name: (how it is built, loss, batch, verdict)
CASES = {
    "sigmoid mlp": (mlp("sigmoid", 1.0, 0.0), mean_square, batch, "vanishing"),
    "relu mlp, weight_var 8": (mlp("relu", 8.0, 0.0), mean_square, batch, "exploding"),
    "critical tanh mlp": (mlp("tanh", 1.76, 0.05), mean_square, batch, "healthy"),
    "he relu mlp": (mlp("relu", 2.0, 0.0, 16, 128), mean_square, batch, "healthy"),
    "ordered tanh mlp": (mlp("tanh", 0.5, 0.1), mean_square, batch, "vanishing"),
    "xavier relu mlp": (mlp("relu", 1.0, 0.0, 50), mean_square, batch, "vanishing"),
    "nnx tanh, chaotic": (stack(20, jnp.tanh, 9.0), mean_square, batch, "exploding"),
    "nnx, logarithm of negative numbers": (
        lambda seed: LogLayer(nnx.Rngs(seed)),
        mean_square,
        batch,
        "nonfinite",
    ),
    "nnx, batch norm": (
        stack(8, jax.nn.relu, 1.0, norm=nnx.BatchNorm),
        mean_square,
        batch,
        "healthy",
    ),
    "nnx, pre-norm residual": (
        stack(20, jax.nn.relu, 1.0, norm=nnx.LayerNorm, residual=True),
        mean_square,
        batch,
        "healthy",
    ),
    "nnx, dead relu": (stack(6, jax.nn.relu, 2.0, bias=-20.0), mean_square, batch, "vanishing"),
    "nnx transformer": (lambda s: Transformer(4, nnx.Rngs(s)), next_token, tokens, "healthy"),
    "nnx, one hidden layer": (stack(1, jnp.tanh, 1.0), mean_square, batch, "healthy"),
    "linen sigmoid": (
        bound(LinenMLP(12, linen.sigmoid, 1.0), jnp.ones((1, FEATURES))),
        mean_square,
        batch,
        "vanishing",
    ),
    "linen cnn": (bound(LinenCNN(), jnp.ones((1, 16, 16, 3))), mean_square, images, "healthy"),
    "pytree, exploding": (pytree(jax.nn.relu, 20, 6.0), mean_square, batch, "exploding"),
    "pytree, healthy": (pytree(jax.nn.relu, 12, 2.0), mean_square, batch, "healthy"),
    "pytree, overflow": (pytree(jax.nn.relu, 40, 400.0), mean_square, batch, "nonfinite"),
    "raw, vanishing": (multiplied(30, 0.5), mean_square_by_example, batch, "vanishing"),
    "raw, scanned, exploding": (
        lambda seed: Scanned(squares(seed, 30, 8.0)),
        mean_square,
        batch,
        "exploding",
    ),
    "raw, fields, vanishing": (
        lambda seed: Fields(*squares(seed, 4, 1.0)),
        mean_square,
        batch,
        "vanishing",
    ),
    "list, vanishing": (listed(jnp.tanh, 30, 0.5), list_mean_square, batch, "vanishing"),
    "list, healthy": (listed(jax.nn.selu, 15, 1.0), list_mean_square, batch, "healthy"),
}
