"""Graphs, flows, differential equations, complex weights, and what nobody can read."""

import dataclasses
import functools
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tests.diagnosis.cases.case import Case, filled, normal, scaled
from tests.diagnosis.cases.dense import batch, squared
from tests.diagnosis.cases.taps import tap

WIDTH = 24


def graph():
    """A ring of twelve nodes with chords, features and targets at the nodes."""
    nodes = jnp.arange(12)
    senders = jnp.concatenate([nodes, nodes, nodes])
    receivers = jnp.concatenate([(nodes + 1) % 12, (nodes + 5) % 12, nodes])
    x = jax.random.normal(jax.random.key(2), (12, 8))
    return x, senders, receivers, jnp.tanh(x[:, :2] + jnp.roll(x[:, :2], 1, 0))


def at_nodes(model, batch):
    x, senders, receivers, y = batch
    return jnp.mean((model(x, senders, receivers) - y) ** 2)


class Gnn(nnx.Module):
    """Messages are summed over edges, over the root of their number."""

    def __init__(self, depth=4, gain=1.6):
        rngs = nnx.Rngs(0)
        start = jax.nn.initializers.variance_scaling(gain, "fan_in", "normal")
        make = lambda m: nnx.Linear(m, WIDTH, kernel_init=start, rngs=rngs)  # noqa: E731
        self.first = make(8)
        self.messages = nnx.List([make(WIDTH) for _ in range(depth)])
        self.updates = nnx.List([make(WIDTH) for _ in range(depth)])
        self.head = nnx.Linear(WIDTH, 2, rngs=rngs)

    def __call__(self, x, senders, receivers):
        x = jax.nn.relu(tap("depth:first", self.first(x)))
        for message, update in zip(self.messages, self.updates):
            sent = jax.nn.relu(message(x))[senders]
            arrived = jax.ops.segment_sum(sent, receivers, x.shape[0]) / jnp.sqrt(3.0)
            x = jax.nn.relu(update(arrived))
        return self.head(tap("depth:last", x))


class Flow(nnx.Module):
    """Affine couplings, as RealNVP has them; the log of the scale by tanh, or not bounded."""

    def __init__(self, depth=3, bounded=True):
        rngs = nnx.Rngs(1)
        self.inner = nnx.List([nnx.Linear(4, WIDTH, rngs=rngs) for _ in range(depth)])
        self.outer = nnx.List([nnx.Linear(WIDTH, 8, rngs=rngs) for _ in range(depth)])
        self.bounded = bounded

    def __call__(self, x):
        volume = 0.0
        x = tap("depth:first", x)
        for inner, outer in zip(self.inner, self.outer):
            a, b = jnp.split(x, 2, -1)
            log_scale, shift = jnp.split(outer(jax.nn.relu(inner(a))), 2, -1)
            log_scale = jnp.tanh(log_scale) if self.bounded else log_scale
            x = jnp.concatenate([b * jnp.exp(log_scale) + shift, a], -1)
            volume = volume + jnp.sum(log_scale, -1)
        return tap("depth:last", x), volume


def likelihood(model, batch):
    z, volume = model(batch[0])
    return jnp.mean(0.5 * jnp.sum(z**2, -1) - volume)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Ode:
    """dx/dt = V tanh(W x), by the midpoint rule in a scan."""

    inner: jax.Array
    outer: jax.Array
    head: jax.Array
    time: float = dataclasses.field(metadata={"static": True})
    steps: int = dataclasses.field(metadata={"static": True})

    def __call__(self, x):
        slope = lambda x: jnp.tanh(x @ self.inner) @ self.outer  # noqa: E731
        dt = self.time / self.steps

        def step(x, _):
            k1 = slope(x)
            k2 = slope(x + 0.5 * dt * k1)
            return x + dt * k2, None

        x, _ = jax.lax.scan(step, tap("time:first", x), None, length=self.steps)
        return tap("time:last", x) @ self.head


def ode(time, damping=0.0, steps=20):
    def build():
        inner, outer = normal(0, 8, WIDTH), normal(1, WIDTH, 8)
        outer = outer - damping * inner.T
        return Ode(inner, outer, normal(2, 8, 2), time, steps)

    return build


def poisson():
    return jax.random.uniform(jax.random.key(0), (16, 2), minval=-1.0)


def residual_of_poisson(model, x):
    """Nothing but the Laplacian: Δu = sin x sin y."""
    u = lambda point: model(point[None])[0, 0]  # noqa: E731
    trace = lambda point: jnp.trace(jax.hessian(u)(point))  # noqa: E731
    laplacian = jax.vmap(trace, axis_name="examples")(x)
    return jnp.mean((laplacian - jnp.sin(3 * x[:, 0]) * jnp.sin(3 * x[:, 1])) ** 2)


class Pinn(nnx.Module):
    def __init__(self, gain, activation=jnp.tanh, depth=4):
        rngs = nnx.Rngs(2)
        self.activation = activation
        start = jax.nn.initializers.variance_scaling(gain, "fan_in", "normal")
        sizes = [2, *[WIDTH] * depth]
        self.layers = nnx.List(
            [nnx.Linear(m, n, kernel_init=start, rngs=rngs) for m, n in pairwise(sizes)]
        )
        self.head = nnx.Linear(WIDTH, 1, rngs=rngs)

    def __call__(self, x):
        for number, layer in enumerate(self.layers):
            x = layer(x)
            x = tap("depth:first", x, "examples") if number == 0 else x
            x = tap("depth:last", x, "examples") if number == len(self.layers) - 1 else x
            x = self.activation(x)
        return self.head(x)


def forces(model, x):
    """Nothing but the slope by the input: a field that has a potential."""
    u = lambda point: model(point[None])[0, 0]  # noqa: E731
    field = jax.vmap(jax.grad(u), axis_name="examples")(x)
    return jnp.mean((field - jnp.sin(3 * x)) ** 2)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Spectral:
    """Complex weights on the lowest modes and a pointwise path, as Fourier operators have them."""

    lift: jax.Array
    modes: list
    points: list
    head: jax.Array

    def __call__(self, x):
        x = tap("depth:first", x[..., None] @ self.lift)
        for number, (modes, points) in enumerate(zip(self.modes, self.points)):
            low = jnp.fft.rfft(x, axis=1)[:, : modes.shape[0]]
            mixed = jnp.einsum("bkc,kcd->bkd", low, modes)
            x = jnp.fft.irfft(mixed, n=x.shape[1], axis=1) + x @ points
            x = tap("depth:last", x) if number == len(self.modes) - 1 else x
            x = jax.nn.gelu(x)
        return (x @ self.head)[..., 0]


def spectral(scale=1.0, depth=4):
    def build():
        c = 12
        turn = lambda s: normal(s, 9 * c, c).reshape(9, c, c) * 3.0  # noqa: E731
        modes = [scale / 2 * jax.lax.complex(turn(i), turn(20 + i)) for i in range(depth)]
        points = [scale * normal(40 + i, c, c) for i in range(depth)]
        return Spectral(normal(60, 1, c), modes, points, normal(61, c, 1))

    return build


def waves():
    t = jnp.linspace(0, 1, 32, endpoint=False)
    x = jnp.stack([jnp.sin(2 * jnp.pi * k * t) + jnp.cos(2 * jnp.pi * t) for k in range(1, 7)])
    return x, jnp.roll(x, 4, 1)


def at_points(model, batch):
    return jnp.mean((model(batch[0]) - batch[1]) ** 2)


def _on_the_host(x, *weights):
    for w in weights:
        x = np.tanh(x @ w)
    return x


@jax.custom_vjp
def closed(x, weights):
    """A stack of layers that runs outside JAX."""
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return jax.pure_callback(_on_the_host, shape, x, *weights)


def _closed_forward(x, weights):
    return closed(x, weights), (x, weights)


def _closed_backward(kept, g):
    x, weights = kept
    return jax.vjp(functools.partial(_in_jax), x, weights)[1](g)


def _in_jax(x, weights):
    for w in weights:
        x = jnp.tanh(x @ w)
    return x


closed.defvjp(_closed_forward, _closed_backward)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Closed:
    first: jax.Array
    inside: Any
    head: jax.Array

    def __call__(self, x):
        x = tap("depth:first", x @ self.first)
        return tap("depth:last", closed(x, tuple(self.inside))) @ self.head


def outside_jax(scale):
    def build():
        inside = [scale * normal(i, WIDTH, WIDTH) for i in range(8)]
        return Closed(normal(20, 8, WIDTH), inside, normal(21, WIDTH, 2))

    return build


def _gnn(build, *verdict, **options):
    return Case(build, at_nodes, graph, *verdict, **options)


CASES = {
    "graph network": _gnn(Gnn),
    "flow": Case(Flow, likelihood, batch),
    "neural ode": Case(ode(1.0), squared, batch),
    "pinn": Case(lambda: Pinn(1.5), residual_of_poisson, poisson),
    "spectral network": Case(spectral(), at_points, waves),
    "closed to JAX": Case(
        outside_jax(1.2), squared, batch, "unread", reason="closed|callback|custom"
    ),
    "closed to JAX x0.3": Case(outside_jax(0.3), squared, batch, ("unread", "vanishing")),
    "graph network x0.3": _gnn(lambda: scaled(Gnn(), 0.3, "(mess|upd).*kernel"), "vanishing"),
    "graph network x3": _gnn(lambda: scaled(Gnn(), 3.0, "(mess|upd).*kernel"), "exploding"),
    "graph network, dead messages": _gnn(
        lambda: filled(Gnn(), "messages/1/bias", -100.0),
        "vanishing", place="messages/1", reason="dead",
    ),
    "flow that overflows": Case(
        lambda: scaled(Flow(4, False), 300.0, "outer.*kernel"), likelihood, batch,
        "nonfinite", reason="exp",
    ),
    "flow x4": Case(
        lambda: scaled(Flow(4, False), 4.0, "outer.*kernel"), likelihood, batch,
        ("exploding", "nonfinite"),
    ),
    "neural ode, long and damped": Case(ode(20.0, 0.7, 60), squared, batch, "vanishing"),
    "forces": Case(lambda: Pinn(1.5), forces, poisson),
    "pinn of relu": Case(
        lambda: Pinn(2.0, jax.nn.relu), residual_of_poisson, poisson, "vanishing", reason="slope"
    ),
    "pinn x8": Case(lambda: scaled(Pinn(1.5), 8.0), residual_of_poisson, poisson, "exploding"),
    "spectral network x0.1": Case(spectral(0.1), at_points, waves, "vanishing"),
    "spectral network x4": Case(spectral(4.0), at_points, waves, "exploding"),
}  # fmt: skip
