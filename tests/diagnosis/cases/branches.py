"""More than one way from the loss to the input, factors that are 0 at the start, ties."""

import dataclasses
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from tests.diagnosis.cases.case import ZERO, Case, after_steps, filled, normal, scaled
from tests.diagnosis.cases.dense import LN, Mlp, batch, mlp, squared
from tests.diagnosis.cases.taps import tap

WIDTH = 24


class Tower(nnx.Module):
    """A stack of its own, with taps of its own."""

    def __init__(self, name, seed, depth, activation, gain, out):
        rngs = nnx.Rngs(seed)
        start = jax.nn.initializers.variance_scaling(gain, "fan_in", "normal")
        sizes = [8, *[WIDTH] * depth]
        self.layers = nnx.List(
            [nnx.Linear(m, n, kernel_init=start, rngs=rngs) for m, n in pairwise(sizes)]
        )
        self.head = nnx.Linear(WIDTH, out, rngs=rngs)
        self.name, self.activation = name, activation

    def __call__(self, x):
        for number, layer in enumerate(self.layers):
            x = layer(x)
            x = tap(f"{self.name}:first", x) if number == 0 else x
            x = self.activation(x)
        return self.head(tap(f"{self.name}:last", x))


class Towers(nnx.Module):
    """Two towers: actor and critic, or two views."""

    def __init__(self, names, outs, depth=5, activation=jnp.tanh, gain=1.5):
        self.names = names
        for seed, (name, out) in enumerate(zip(names, outs)):
            setattr(self, name, Tower(name, seed, depth, activation, gain, out))

    def __call__(self, x):
        return tuple(getattr(self, name)(x) for name in self.names)


def actor_critic_loss(model, batch):
    """Policy gradient with a baseline."""
    x, y = batch
    logits, value = model(x)
    chosen = jnp.argmax(y, -1)[:, None]
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), chosen, -1)[:, 0]
    returns = jnp.sin(3 * x[:, 0]) + 1
    advantage = jax.lax.stop_gradient(returns - value[:, 0])
    return -jnp.mean(log_p * advantage) + 0.5 * jnp.mean((value[:, 0] - returns) ** 2)


def contrastive_loss(model, batch):
    """Each example is to find its own in the other tower."""
    x, _ = batch
    left, right = model(x)
    logits = left @ right.T
    return -jnp.mean(jnp.diagonal(jax.nn.log_softmax(logits)))


def summed(model, batch):
    x, y = batch
    return jnp.mean((sum(model(x)) - y) ** 2)


actor_critic = lambda: Towers(("actor", "critic"), (2, 1))  # noqa: E731
deep_actor_critic = lambda: Towers(("actor", "critic"), (2, 1), 8, jax.nn.relu, 2.0)  # noqa: E731
two_towers = lambda: Towers(("left", "right"), (8, 8))  # noqa: E731
parallel = lambda: Towers(("left", "right"), (2, 2), 5, jax.nn.relu, 2.0)  # noqa: E731


class Tied(nnx.Module):
    """An autoencoder whose decoder is its encoder, transposed."""

    def __init__(self, gain):
        sizes = [8, 24, 24, 24, 12]
        self.kernels = nnx.List(
            [nnx.Param(normal(i, m, n, gain=gain)) for i, (m, n) in enumerate(pairwise(sizes))]
        )

    def __call__(self, x):
        for number, kernel in enumerate(self.kernels):
            x = x @ kernel[...]
            x = jnp.tanh(tap("depth:first", x) if number == 0 else x)
        for number, kernel in enumerate(reversed(list(self.kernels))):
            last = number == len(self.kernels) - 1
            x = tap("depth:last", x) if last else x
            x = x @ kernel[...].T
            x = x if last else jnp.tanh(x)
        return x


def reconstruction(model, batch):
    x, _ = batch
    return jnp.mean((model(x) - x) ** 2)


class Vae(nnx.Module):
    """Five layers, the noise drawn from one key."""

    def __init__(self):
        rngs = nnx.Rngs(2)
        self.e1, self.e2 = nnx.Linear(8, 32, rngs=rngs), nnx.Linear(32, 32, rngs=rngs)
        self.moments = nnx.Linear(32, 8, rngs=rngs)
        self.d1, self.d2 = nnx.Linear(4, 32, rngs=rngs), nnx.Linear(32, 8, rngs=rngs)

    def __call__(self, x):
        h = jax.nn.relu(tap("depth:first", self.e1(x)))
        mean, log_var = jnp.split(self.moments(jax.nn.relu(self.e2(h))), 2, -1)
        noise = jax.random.normal(jax.random.key(0), mean.shape)
        z = mean + noise * jnp.exp(0.5 * log_var)
        h = jax.nn.relu(self.d1(z))
        return self.d2(tap("depth:last", h)), mean, log_var


def elbo(model, batch):
    x, _ = batch
    seen, mean, log_var = model(x)
    divergence = 0.5 * jnp.sum(jnp.exp(log_var) + mean**2 - 1 - log_var, -1)
    return jnp.mean(0.5 * jnp.sum((seen - x) ** 2, -1) + divergence)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class LoRA:
    """Frozen kernels, each with a product A B that is trained."""

    down: list
    up: list
    frozen: Any = dataclasses.field(metadata={"static": True})

    def __call__(self, x):
        frozen = [normal(seed, *shape, gain=self.frozen) for seed, shape in enumerate(_SHAPES)]
        for number, (kernel, a, b) in enumerate(zip(frozen, self.down, self.up)):
            x = x @ kernel + x @ a @ b
            x = tap("depth:first", x) if number == 0 else x
            x = tap("depth:last", x) if number == len(frozen) - 2 else x
            x = x if number == len(frozen) - 1 else jnp.tanh(x)
        return x


_SHAPES = [(8, WIDTH), (WIDTH, WIDTH), (WIDTH, WIDTH), (WIDTH, WIDTH), (WIDTH, 2)]


def lora(zero_a=False, gain=1.2):
    def build():
        down = [
            0.0 * normal(i, m, 3) if zero_a else normal(i, m, 3) for i, (m, _) in enumerate(_SHAPES)
        ]
        return LoRA(down, [jnp.zeros((3, n)) for _, n in _SHAPES], gain)

    return build


class ReZero(nnx.Module):
    """x + α f(x), α = 0 at the start."""

    def __init__(self, depth, gain=1.0):
        rngs = nnx.Rngs(4)
        self.first = nnx.Linear(8, WIDTH, rngs=rngs)
        start = jax.nn.initializers.variance_scaling(gain, "fan_in", "normal")
        make = lambda: nnx.Linear(WIDTH, WIDTH, kernel_init=start, rngs=rngs)  # noqa: E731
        self.layers = nnx.List([make() for _ in range(depth)])
        self.alphas = nnx.List([nnx.Param(jnp.zeros(())) for _ in range(depth)])
        self.head = nnx.Linear(WIDTH, 2, rngs=rngs)

    def __call__(self, x):
        x = tap("depth:first", self.first(x))
        for layer, alpha in zip(self.layers, self.alphas):
            x = x + alpha[...] * jnp.tanh(layer(x))
        return self.head(tap("depth:last", x))


class ZeroBranches(nnx.Module):
    """Residual branches of two layers, of which the second is 0 at the start."""

    def __init__(self, depth):
        rngs = nnx.Rngs(6)
        zeros = jax.nn.initializers.zeros
        self.first = nnx.Linear(8, WIDTH, rngs=rngs)
        self.inner = nnx.List([nnx.Linear(WIDTH, WIDTH, rngs=rngs) for _ in range(depth)])
        self.outer = nnx.List(
            [nnx.Linear(WIDTH, WIDTH, kernel_init=zeros, rngs=rngs) for _ in range(depth)]
        )
        self.norms = nnx.List([nnx.LayerNorm(WIDTH, rngs=rngs) for _ in range(depth)])
        self.head = nnx.Linear(WIDTH, 2, rngs=rngs)

    def __call__(self, x):
        x = tap("depth:first", self.first(x))
        for inner, outer, norm in zip(self.inner, self.outer, self.norms):
            x = x + outer(jax.nn.relu(inner(norm(x))))
        return self.head(tap("depth:last", x))


def zero_head(model: Mlp):
    return filled(model, "head/kernel", 0.0)


class HalfTrained(nnx.Module):
    """A frozen feature net (no gradient wanted) below a trained one."""

    def __init__(self):
        self.features = mlp(3, jnp.tanh, 1.2)()
        self.features.head = nnx.Linear(32, 8, rngs=nnx.Rngs(1))
        self.trained = mlp(4, jnp.tanh, 1.2)()

    def __call__(self, x):
        return self.trained(self.features(x))


def _case(build, loss=squared, *verdict, **options):
    return Case(build, loss, batch, *verdict, **options)


def _diverged(build, loss):
    return lambda: after_steps(build(), loss, batch(), rate=100.0, steps=3)


BROKEN = ("vanishing", "exploding", "nonfinite")

CASES = {
    "actor and critic": _case(actor_critic, actor_critic_loss),
    "two towers": _case(two_towers, contrastive_loss),
    "parallel branches": _case(parallel, summed),
    "tied autoencoder": _case(lambda: Tied(1.2), reconstruction),
    "vae": _case(Vae, elbo),
    "lora, B = 0": _case(lora()),
    "rezero": _case(lambda: ReZero(8)),
    "zero-init residual branches": _case(lambda: ZeroBranches(6)),
    "zero head": _case(lambda: zero_head(mlp(6, jnp.tanh, 1.2)())),
    "norms whose gains are 0": _case(
        lambda: filled(mlp(4, jax.nn.silu, 1.0, LN, True)(), "norms/./scale", 0.0)
    ),
    # ------------------------------------------------------------------
    "actor and critic, lr 100": _case(
        _diverged(actor_critic, actor_critic_loss), actor_critic_loss, BROKEN
    ),
    "actor fine, critic x0.1": _case(
        lambda: scaled(actor_critic(), 0.1, "critic/layers.*kernel"), actor_critic_loss,
        "vanishing", place="critic",
    ),
    "critic fine, actor x3": _case(
        lambda: scaled(deep_actor_critic(), 3.0, "actor/layers.*kernel"), actor_critic_loss,
        "exploding", place="actor",
    ),
    "left tower x0.1": _case(
        lambda: scaled(two_towers(), 0.1, "left/layers.*kernel"), contrastive_loss,
        "vanishing", place="left",
    ),
    "one of two relu branches dead": _case(
        lambda: filled(parallel(), "right/layers/2/bias", -100.0), summed,
        "vanishing", place="right/layers/2", reason="dead",
    ),
    "one of two relu branches at 1e-8": _case(
        lambda: scaled(parallel(), 1e-2, "right/layers/[1-4]/kernel"), summed,
        "vanishing", place="right",
    ),
    "tied autoencoder x0.1": _case(
        lambda: scaled(Tied(1.2), 0.1, "kernels"), reconstruction, "vanishing"
    ),
    "tied autoencoder, cut in its middle": _case(
        lambda: filled(Tied(1.2), "kernels/2", 0.0), reconstruction, "vanishing", place="kernels/2",
        reason=ZERO,
    ),
    "vae x3": _case(lambda: scaled(Vae(), 3.0), elbo, "exploding"),
    "vae, exp overflow": _case(
        lambda: filled(Vae(), "moments/bias", 400.0), elbo, "nonfinite", reason="exp"
    ),
    "lora, A = B = 0": _case(lora(True), squared, "vanishing", place="(down|up)", reason=ZERO),
    "lora on a vanishing trunk": _case(lora(gain=0.04), squared, "vanishing"),
    "norms whose gains are 0, before relu": _case(
        lambda: filled(mlp(4, jax.nn.relu, 1.0, LN, True)(), "norms/./scale", 0.0), squared,
        "vanishing", reason=f"dead|{ZERO}",
    ),
    "zero head hides x0.1": _case(
        lambda: zero_head(scaled(mlp(6, jnp.tanh, 1.2)(), 0.1, "layers.*kernel")), squared,
        "vanishing",
    ),
    "zero head hides dead units": _case(
        lambda: zero_head(filled(mlp(6, jax.nn.relu, 2.0)(), "layers/3/bias", -100.0)), squared,
        "vanishing", place="layers/3", reason="dead",
    ),
}  # fmt: skip
