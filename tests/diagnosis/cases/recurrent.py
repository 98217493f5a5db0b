"""Models that run in time: what reaches the first step of what the last one wants?"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from flax import nnx

from tests.diagnosis.cases.case import Case, after_steps, edited, normal, scaled
from tests.diagnosis.cases.taps import tap

WIDTH = 24


def sequences(length):
    """Noise, with the running mean of its first entry as the target."""

    def batch():
        x = jax.random.normal(jax.random.key(5), (8, length, 6))
        return x, jnp.cumsum(x[..., :1], 1) / jnp.sqrt(jnp.arange(1.0, length + 1))[:, None]

    return batch


def at_the_end(model, batch):
    x, y = batch
    return jnp.mean((model(tap("time:steps", x))[:, -1] - y[:, -1]) ** 2)


def at_every_step(model, batch):
    x, y = batch
    return jnp.mean((model(tap("time:steps", x)) - y) ** 2)


def by_example(model, batch):
    x, y = batch
    return jnp.mean((jax.vmap(model)(tap("time:steps", x)) - y[:, -1]) ** 2)


class Runs(nnx.Module):
    """A cell of Flax, run over time, and a readout of every step."""

    def __init__(self, cell):
        self.run = nnx.RNN(cell(6, WIDTH, rngs=nnx.Rngs(0)))
        self.head = nnx.Linear(WIDTH, 1, rngs=nnx.Rngs(1))

    def __call__(self, x):
        return self.head(self.run(x))


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Vanilla:
    """h ← tanh(W h + U x), by `lax.scan`."""

    recurrent: jax.Array
    entering: jax.Array
    head: jax.Array

    def __call__(self, x):
        def step(h, x):
            h = jnp.tanh(h @ self.recurrent + x @ self.entering)
            return h, h

        _, states = jax.lax.scan(step, jnp.zeros((x.shape[0], WIDTH)), jnp.swapaxes(x, 0, 1))
        return jnp.swapaxes(states, 0, 1) @ self.head


def vanilla(scale, entering=0.1):
    def build():
        q, _ = jnp.linalg.qr(normal(0, WIDTH, WIDTH))
        return Vanilla(scale * q, entering * normal(1, 6, WIDTH), normal(2, WIDTH, 1))

    return build


class Gru(eqx.Module):
    """Equinox: one sequence at a time, the last state read."""

    cell: eqx.nn.GRUCell
    head: eqx.nn.Linear

    def __init__(self):
        self.cell = eqx.nn.GRUCell(6, WIDTH, key=jax.random.key(0))
        self.head = eqx.nn.Linear(WIDTH, 1, key=jax.random.key(1))

    def __call__(self, x):
        step = lambda h, x: (self.cell(x, h), None)  # noqa: E731
        h, _ = jax.lax.scan(step, jnp.zeros(WIDTH), x)
        return self.head(h)


class Translator(nnx.Module):
    """An encoder whose last state starts the decoder: sequence to sequence."""

    def __init__(self, forget=0.0):
        rngs = nnx.Rngs(3)
        self.encoder = nnx.RNN(nnx.LSTMCell(6, WIDTH, rngs=rngs), return_carry=True)
        self.decoder = nnx.RNN(nnx.LSTMCell(6, WIDTH, rngs=rngs))
        self.head = nnx.Linear(WIDTH, 1, rngs=rngs)

    def __call__(self, x):
        carry, _ = self.encoder(x)
        return self.head(self.decoder(jnp.ones_like(x), initial_carry=carry))


def copying(model, batch):
    """The targets of the encoder's steps, after all of them."""
    x, y = batch
    return jnp.mean((model(tap("time:steps", x)) - y) ** 2)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class S5:
    """Layers of a diagonal linear system of complex numbers, by an associative scan."""

    log_decay: list
    phase: list
    entering: list
    leaving: list
    head: jax.Array

    def __call__(self, x):
        for number in range(len(self.phase)):
            y = self._system(number, x)
            x = x + jax.nn.gelu(y) if number else jax.nn.gelu(y)
        return x @ self.head

    def _system(self, number, x):
        rate = jnp.exp(self.log_decay[number])
        decay = jnp.exp(jax.lax.complex(-rate, self.phase[number]))
        drive = x.astype(jnp.complex64) @ self.entering[number]
        steps = jnp.broadcast_to(decay, drive.shape)
        join = lambda a, b: (a[0] * b[0], b[0] * a[1] + b[1])  # noqa: E731
        _, states = jax.lax.associative_scan(join, (steps, drive), axis=1)
        return jnp.real(states @ self.leaving[number])


def s5(rate, layers=2):
    def build():
        turn = lambda s, *mn: jax.lax.complex(normal(s, *mn), normal(s + 1, *mn))  # noqa: E731
        sizes = [6, *[16] * layers]
        return S5(
            [jnp.log(jnp.full(WIDTH, rate)) for _ in range(layers)],
            [jnp.linspace(0, 3, WIDTH) for _ in range(layers)],
            [turn(10 * i, m, WIDTH) for i, m in enumerate(sizes[:-1])],
            [turn(50 + 10 * i, WIDTH, n) for i, n in enumerate(sizes[1:])],
            normal(99, 16, 1),
        )

    return build


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Mamba:
    """A selective state space: the step, B and C depend on the input; gated."""

    entering: jax.Array
    step_size: jax.Array
    step_bias: jax.Array
    select: jax.Array
    log_a: jax.Array
    leaving: jax.Array
    head: jax.Array

    def __call__(self, x):
        u, gate = jnp.split(x @ self.entering, 2, -1)
        delta = jax.nn.softplus(u @ self.step_size + self.step_bias)
        b, c = jnp.split(u @ self.select, 2, -1)
        decay = jnp.exp(-delta[..., None] * jnp.exp(self.log_a))
        drive = delta[..., None] * b[..., None, :] * u[..., None]

        def step(h, given):
            decay, drive, c = given
            h = decay * h + drive
            return h, jnp.einsum("bdn,bn->bd", h, c)

        start = jnp.zeros_like(drive[:, 0])
        _, y = jax.lax.scan(step, start, jax.tree.map(_time_first, (decay, drive, c)))
        return (_time_first(y) * jax.nn.silu(gate)) @ self.leaving @ self.head


def _time_first(x):
    return jnp.swapaxes(x, 0, 1)


def mamba(step_bias):
    def build():
        return Mamba(
            normal(0, 6, 2 * WIDTH),
            normal(1, WIDTH, WIDTH, gain=0.1),
            jnp.full(WIDTH, step_bias),
            normal(2, WIDTH, 16),
            jnp.log(jnp.broadcast_to(jnp.arange(1.0, 9), (WIDTH, 8))),
            normal(3, WIDTH, WIDTH),
            normal(4, WIDTH, 1),
        )

    return build


def remembering(model: Any, bias: float) -> Any:
    """The forget gates of an LSTM opened."""
    return edited(model, "hf/bias", lambda b: b + bias)


def _case(build, loss=at_every_step, *verdict, length=40, **options):
    return Case(build, loss, sequences(length), *verdict, **options)


def _diverged(build, loss, length):
    return lambda: after_steps(build(), loss, sequences(length)(), rate=100.0, steps=3)


lstm = lambda: Runs(nnx.LSTMCell)  # noqa: E731
BROKEN = ("vanishing", "exploding", "nonfinite")

CASES = {
    "lstm, a loss at every step": _case(lstm),
    "lstm that remembers, a loss at the end": _case(
        lambda: remembering(lstm(), 4.5), at_the_end, length=60
    ),
    "gru, a loss at every step": _case(lambda: Runs(nnx.GRUCell)),
    "vanilla rnn, orthogonal": _case(vanilla(1.0), at_the_end),
    "s5": _case(s5(0.02), at_the_end),
    "mamba": _case(mamba(-6.0), at_the_end),
    "lstm over 60 steps, a loss at the end": _case(lstm, at_the_end, "vanishing", length=60),
    "gru over 60 steps, a loss at the end": _case(
        lambda: Runs(nnx.GRUCell), at_the_end, "vanishing", length=60
    ),
    "equinox gru over 30 steps": _case(Gru, by_example, "vanishing", length=30),
    "equinox gru x0.3": _case(lambda: scaled(Gru(), 0.3), by_example, "vanishing", length=30),
    "vanilla rnn x0.3": _case(vanilla(0.3), at_the_end, "vanishing", place="recurrent|time"),
    "vanilla rnn x3": _case(vanilla(3.0), at_the_end, BROKEN),
    "vanilla rnn x1.3, weak": _case(vanilla(1.3, 1e-6), at_the_end, "exploding", length=30),
    "seq2seq": _case(Translator, copying, "vanishing"),
    "seq2seq, lr 100": _case(_diverged(Translator, copying, 30), copying, BROKEN, length=30),
    "s5 that forgets": _case(s5(1.0), at_the_end, "vanishing"),
    "mamba that forgets": _case(mamba(1.0), at_the_end, "vanishing"),
}  # fmt: skip
