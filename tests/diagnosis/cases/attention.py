"""Transformers and what looks like them."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from tests.diagnosis.cases.case import Case, after_steps, filled, normal, scaled
from tests.diagnosis.cases.convolutional import cross_entropy, images
from tests.diagnosis.cases.taps import tap

WIDTH = 32


def tokens():
    return jax.random.randint(jax.random.key(3), (4, 10), 0, 20)


def next_token(model, tokens):
    logits = jax.nn.log_softmax(model(tokens)[:, :-1])
    return -jnp.mean(jnp.take_along_axis(logits, tokens[:, 1:, None], -1))


class Block(nnx.Module):
    """Attention and a feed-forward net; norm: "pre", "post" or None."""

    def __init__(self, norm, skips, gain, rngs):
        kernel = jax.nn.initializers.variance_scaling(gain, "fan_in", "normal")
        self.attention = nnx.MultiHeadAttention(
            4, WIDTH, kernel_init=kernel, decode=False, rngs=rngs
        )
        self.expand = nnx.Linear(WIDTH, 64, kernel_init=kernel, rngs=rngs)
        self.shrink = nnx.Linear(64, WIDTH, kernel_init=kernel, rngs=rngs)
        self.norms = nnx.List([nnx.LayerNorm(WIDTH, rngs=rngs) for _ in range(2 if norm else 0)])
        self.norm, self.skips = norm, skips

    def __call__(self, x, mask=None):
        x = self._around(0, lambda h: self.attention(h, mask=mask), x)
        return self._around(1, lambda h: self.shrink(jax.nn.gelu(self.expand(h))), x)

    def _around(self, number, branch, x):
        h = branch(self.norms[number](x) if self.norm == "pre" else x)
        h = x + h if self.skips else h
        return self.norms[number](h) if self.norm == "post" else h


class Gpt(nnx.Module):
    def __init__(self, depth, norm="pre", skips=True, gain=1.0):
        rngs = nnx.Rngs(1)
        self.embed = nnx.Embed(20, WIDTH, rngs=rngs)
        self.places = nnx.Param(normal(9, 10, WIDTH, gain=10.0))
        self.blocks = nnx.List([Block(norm, skips, gain, rngs) for _ in range(depth)])
        self.head = nnx.Linear(WIDTH, 20, rngs=rngs)

    def __call__(self, tokens):
        x = tap("depth:first", math.sqrt(WIDTH) * self.embed(tokens) + self.places[...])
        mask = jnp.tril(jnp.ones((10, 10), bool))
        for block in self.blocks:
            x = block(x, mask)
        return self.head(tap("depth:last", x))


class ScannedGpt(nnx.Module):
    """Pre-norm blocks of raw arrays, all in one scan, by `checkpoint`."""

    def __init__(self, depth, gain=1.0):
        rngs = nnx.Rngs(1)
        self.embed = nnx.Embed(20, WIDTH, rngs=rngs)
        stacked = lambda s, *shape: jnp.stack(  # noqa: E731
            [normal(s + i, *shape, gain=gain) for i in range(depth)]
        )
        self.gains = nnx.Param(jnp.ones((depth, 2, WIDTH)))
        self.qkv = nnx.Param(stacked(100, WIDTH, 3 * WIDTH))
        self.out = nnx.Param(stacked(200, WIDTH, WIDTH))
        self.expand = nnx.Param(stacked(300, WIDTH, 64))
        self.shrink = nnx.Param(stacked(400, 64, WIDTH))
        self.head = nnx.Linear(WIDTH, 20, rngs=rngs)

    def __call__(self, tokens):
        x = tap("depth:first", math.sqrt(WIDTH) * self.embed(tokens))
        held = (self.gains, self.qkv, self.out, self.expand, self.shrink)
        block = jax.checkpoint(lambda x, w: (_block(x, *w), None))
        x, _ = jax.lax.scan(block, x, tuple(array[...] for array in held))
        return self.head(tap("depth:last", x))


def _block(x, gains, qkv, out, expand, shrink):
    q, k, v = jnp.split(_rms(x) * gains[0] @ qkv, 3, -1)
    scores = jnp.einsum("bqd,bkd->bqk", q, k) / math.sqrt(WIDTH)
    scores = jnp.where(jnp.tril(jnp.ones(scores.shape[-2:], bool)), scores, -jnp.inf)
    x = x + jax.nn.softmax(scores) @ v @ out
    return x + jax.nn.gelu(_rms(x) * gains[1] @ expand) @ shrink


def _rms(x):
    return x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6)


class Vit(nnx.Module):
    def __init__(self, depth=3, zero_head=True, skips=True, norm="pre"):
        rngs = nnx.Rngs(2)
        start = jax.nn.initializers.zeros if zero_head else jax.nn.initializers.lecun_normal()
        self.patches = nnx.Conv(3, WIDTH, (2, 2), strides=(2, 2), rngs=rngs)
        self.places = nnx.Param(normal(0, 16, WIDTH))
        self.blocks = nnx.List([Block(norm, skips, 1.0, rngs) for _ in range(depth)])
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.head = nnx.Linear(WIDTH, 4, kernel_init=start, rngs=rngs)

    def __call__(self, x):
        x = self.patches(x).reshape(x.shape[0], 16, WIDTH) + self.places[...]
        x = tap("depth:first", x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(jnp.mean(tap("depth:last", x), 1)))


class Mixer(nnx.Module):
    """Mixes patches, then channels, behind norms; a zero head."""

    def __init__(self, depth=3):
        rngs = nnx.Rngs(3)
        self.patches = nnx.Conv(3, WIDTH, (2, 2), strides=(2, 2), rngs=rngs)
        make = lambda n: nnx.List([nnx.Linear(n, n, rngs=rngs) for _ in range(2 * depth)])  # noqa: E731
        self.tokens, self.channels = make(16), make(WIDTH)
        self.norms = nnx.List([nnx.LayerNorm(WIDTH, rngs=rngs) for _ in range(2 * depth)])
        zeros = jax.nn.initializers.zeros
        self.head = nnx.Linear(WIDTH, 4, kernel_init=zeros, rngs=rngs)

    def __call__(self, x):
        x = tap("depth:first", self.patches(x).reshape(x.shape[0], 16, WIDTH))
        for n in range(0, len(self.tokens), 2):
            h = jnp.swapaxes(self.norms[n](x), 1, 2)
            h = self.tokens[n + 1](jax.nn.gelu(self.tokens[n](h)))
            x = x + jnp.swapaxes(h, 1, 2)
            h = self.norms[n + 1](x)
            x = x + self.channels[n + 1](jax.nn.gelu(self.channels[n](h)))
        return self.head(jnp.mean(tap("depth:last", x), 1))


class Experts(nnx.Module):
    """Blocks behind a norm in which the best of four experts is chosen for every example."""

    def __init__(self, depth=3):
        rngs = nnx.Rngs(4)
        self.embed = nnx.Embed(20, WIDTH, rngs=rngs)
        self.routes = nnx.List([nnx.Linear(WIDTH, 4, rngs=rngs) for _ in range(depth)])
        self.up = nnx.List([nnx.Param(_experts(i, WIDTH, 48)) for i in range(depth)])
        self.down = nnx.List([nnx.Param(_experts(50 + i, 48, WIDTH)) for i in range(depth)])
        self.norms = nnx.List([nnx.LayerNorm(WIDTH, rngs=rngs) for _ in range(depth)])
        self.head = nnx.Linear(WIDTH, 20, rngs=rngs)

    def __call__(self, tokens):
        x = tap("depth:first", math.sqrt(WIDTH) * self.embed(tokens))
        for route, up, down, norm in zip(self.routes, self.up, self.down, self.norms):
            h = norm(x)
            weight, chosen = jax.lax.top_k(jax.nn.softmax(route(h)), 2)
            gates = jnp.sum(jax.nn.one_hot(chosen, 4) * weight[..., None], -2)
            inner = jax.nn.gelu(jnp.einsum("btd,edh->bteh", h, up[...]))
            x = x + jnp.einsum("bteh,ehd,bte->btd", inner, down[...], gates)
        return self.head(tap("depth:last", x))


def _experts(seed, m, n):
    return math.sqrt(4) * normal(seed, 4, m, n)


def _gpt(build, *verdict, **options):
    return Case(build, next_token, tokens, *verdict, **options)


def _vit(build, *verdict, **options):
    return Case(build, cross_entropy, images, *verdict, **options)


KERNELS = "blocks.*kernel"
CASES = {
    "gpt": _gpt(lambda: Gpt(3)),
    "gpt, norms after": _gpt(lambda: Gpt(3, "post")),
    "gpt, scanned and rematerialised": _gpt(lambda: ScannedGpt(12)),
    "vit with a zero head": _vit(Vit),
    "mixer with a zero head": _vit(Mixer),
    "mixture of experts": _gpt(Experts),
    "gpt, query kernels 0": _gpt(lambda: filled(Gpt(3), "query/kernel", 0.0)),
    "gpt, kernels x0.3 behind norms": _gpt(lambda: scaled(Gpt(3), 0.3, KERNELS)),
    "gpt, output kernels 0": _gpt(lambda: filled(Gpt(3), "(out|shrink)/kernel", 0.0)),
    "gpt, no norms, gain 4": _gpt(lambda: Gpt(3, None, gain=4.0), "exploding"),
    "gpt, no norms, x3": _gpt(lambda: scaled(Gpt(2, None), 3.0, KERNELS), "exploding"),
    "gpt, no skips": _gpt(lambda: Gpt(5, None, False, 0.6), "vanishing"),
    "gpt, no skips, gain 0.25": _gpt(lambda: Gpt(4, None, False, 0.25), "vanishing"),
    "gpt, no skips, kernels x0.1": _gpt(
        lambda: scaled(Gpt(3, None, False), 0.1, KERNELS), "vanishing"
    ),
    "gpt, norms but no skips": _gpt(lambda: Gpt(3, "pre", False)),
    "gpt, scanned, gains 0.01": _gpt(lambda: filled(ScannedGpt(12), "gains", 0.01)),
    "gpt, one block's bias -100": _gpt(
        lambda: filled(Gpt(3, None, False, 2.0), "blocks/1/expand/bias", -100.0),
        "vanishing", place="blocks/1/expand", reason="dead",
    ),
    "gpt, a nan in one attention": _gpt(
        lambda: filled(Gpt(3), "blocks/1/attention/value/kernel", math.nan),
        "nonfinite", place="blocks/1/attention/value/kernel", reason="restore",
    ),
    "vit without skips": _vit(lambda: Vit(3, False, False)),
    "vit, zero head, no skips, no norms": _vit(
        lambda: scaled(Vit(3, True, False, None), 0.3, "blocks.*kernel"), "vanishing"
    ),
    "gpt, lr 100": _gpt(
        lambda: after_steps(Gpt(3, None), next_token, tokens(), rate=100.0, steps=3),
        ("vanishing", "exploding", "nonfinite"),
    ),
}  # fmt: skip
