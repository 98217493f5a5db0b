"""Convolutional models: plain, residual, U-shaped, with pooling layers, patches."""

import equinox as eqx
import jax
import jax.numpy as jnp
from flax import linen, nnx

from tests.diagnosis.cases.case import ZERO, Case, after_steps, filled, scaled
from tests.diagnosis.cases.taps import tap

IMAGE = (8, 8, 3)


def images():
    """Eight smooth pictures, and the class of each."""
    x = jax.random.normal(jax.random.key(1), (8, *IMAGE))
    return x, jnp.arange(8) % 4


def channels_first():
    x, y = images()
    return jnp.moveaxis(x, -1, 1), y


def cross_entropy(model, batch):
    x, y = batch
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(model(x)), y[:, None], -1))


def by_example(model, batch):
    x, y = batch
    logits = jax.nn.log_softmax(jax.vmap(model, axis_name="examples")(x))
    return -jnp.mean(jnp.take_along_axis(logits, y[:, None], -1))


def denoising(model, batch):
    x, _ = batch
    seen = jax.vmap(model, axis_name="examples")(x)
    return jnp.mean((seen - x) ** 2)


class Cnn(linen.Module):
    depth: int
    gain: float = 2.0

    @linen.compact
    def __call__(self, x):
        kernel = linen.initializers.variance_scaling(self.gain, "fan_in", "normal")
        for number in range(self.depth):
            x = linen.Conv(12, (3, 3), kernel_init=kernel, padding="CIRCULAR")(x)
            x = linen.relu(tap("depth:first", x) if number == 0 else x)
        return linen.Dense(4)(jnp.mean(tap("depth:last", x), (1, 2)))


def cnn(depth):
    def build():
        module = Cnn(depth)
        return module.bind(module.init(jax.random.key(0), jnp.ones((1, *IMAGE))))

    return build


class ResNet(nnx.Module):
    """Blocks of two convolutions with batch norm, as in the paper."""

    def __init__(self, blocks, norm=True, gain=2.0):
        rngs = nnx.Rngs(0)
        start = jax.nn.initializers.variance_scaling(gain, "fan_in", "normal")
        make = lambda m: nnx.Conv(m, 12, (3, 3), kernel_init=start, rngs=rngs)  # noqa: E731
        self.stem = make(3)
        self.convs = nnx.List([make(12) for _ in range(2 * blocks)])
        self.norms = nnx.List(
            [nnx.BatchNorm(12, rngs=rngs) for _ in range(2 * blocks)] if norm else []
        )
        self.head = nnx.Linear(12, 4, rngs=rngs)

    def __call__(self, x):
        x = jax.nn.relu(tap("depth:first", self.stem(x)))
        for number in range(0, len(self.convs), 2):
            h = jax.nn.relu(self._normed(number, x))
            x = jax.nn.relu(x + self._normed(number + 1, h))
        return self.head(jnp.mean(tap("depth:last", x), (1, 2)))

    def _normed(self, number, x):
        x = self.convs[number](x)
        return self.norms[number](x) if self.norms else x


class Pooled(eqx.Module):
    """Equinox, with pooling layers: one image at a time."""

    convs: list
    pool: eqx.nn.MaxPool2d
    mean: eqx.nn.AvgPool2d
    head: eqx.nn.Linear

    def __init__(self):
        keys = jax.random.split(jax.random.key(0), 4)
        make = lambda m, n, k: eqx.nn.Conv2d(m, n, 3, padding=1, key=k)  # noqa: E731
        self.convs = [make(3, 12, keys[0]), make(12, 12, keys[1]), make(12, 16, keys[2])]
        self.pool, self.mean = eqx.nn.MaxPool2d(2, 2), eqx.nn.AvgPool2d(2, 2)
        self.head = eqx.nn.Linear(64, 4, key=keys[3])

    def __call__(self, x):
        x = self.pool(jax.nn.relu(tap("depth:first", self.convs[0](x), "examples")))
        x = self.mean(jax.nn.relu(self.convs[1](x)))
        x = tap("depth:last", jax.nn.relu(self.convs[2](x)), "examples")
        return self.head(x.reshape(-1))


class UNet(eqx.Module):
    """Down twice and up twice, with connections across."""

    down: list
    middle: list
    up: list
    last: eqx.nn.Conv2d

    def __init__(self):
        keys = iter(jax.random.split(jax.random.key(0), 8))
        make = lambda m, n: eqx.nn.Conv2d(m, n, 3, padding=1, key=next(keys))  # noqa: E731
        self.down = [make(3, 12), make(12, 16)]
        self.middle = [make(16, 16), make(16, 16)]
        self.up = [make(32, 12), make(24, 12)]
        self.last = make(12, 3)

    def __call__(self, x):
        relu = jax.nn.relu
        one = relu(tap("outer:first", self.down[0](x), "examples"))
        two = relu(tap("inner:first", self.down[1](_halved(one)), "examples"))
        deep = relu(self.middle[1](relu(self.middle[0](_halved(two)))))
        deep = tap("inner:last", deep, "examples")
        x = relu(self.up[0](jnp.concatenate([_doubled(deep), two])))
        x = relu(self.up[1](jnp.concatenate([_doubled(x), one])))
        return self.last(tap("outer:last", x, "examples"))


def _halved(x):
    c, h, w = x.shape
    return jnp.max(x.reshape(c, h // 2, 2, w // 2, 2), (2, 4))


def _doubled(x):
    return jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)


def _cnn(build, *verdict, **options):
    return Case(build, cross_entropy, images, *verdict, **options)


def _unet(change, *verdict, **options):
    return Case(lambda: change(UNet()), denoising, channels_first, *verdict, **options)


def _diverged(model):
    return after_steps(model, denoising, channels_first(), rate=100.0, steps=3)


BROKEN = ("vanishing", "exploding", "nonfinite")

CASES = {
    "cnn": _cnn(cnn(6)),
    "resnet": _cnn(lambda: ResNet(3)),
    "equinox cnn with pooling": Case(
        lambda: scaled(Pooled(), 2.45, "convs.*weight"), by_example, channels_first
    ),
    "u-net": _unet(lambda model: model),
    "resnet x0.1 behind batch norm": _cnn(lambda: scaled(ResNet(3), 0.1, "convs.*kernel")),
    "cnn x0.3": _cnn(lambda: scaled(cnn(6)(), 0.3, "Conv.*kernel"), "vanishing"),
    "cnn x3": _cnn(lambda: scaled(cnn(6)(), 3.0, "Conv.*kernel"), "exploding"),
    "cnn, bias -100 in its third": _cnn(
        lambda: filled(cnn(6)(), "Conv_2/bias", -100.0), "vanishing", place="Conv_2", reason="dead"
    ),
    "cnn, its third kernel 0": _cnn(
        lambda: filled(cnn(6)(), "Conv_2/kernel", 0.0), "vanishing", place="Conv_2", reason=ZERO
    ),
    "resnet without norm, gain 16": _cnn(lambda: ResNet(5, False, 16.0), "exploding"),
    "equinox cnn x0.1": Case(
        lambda: scaled(Pooled(), 0.1, "convs.*weight"), by_example, channels_first, "vanishing"
    ),
    "u-net, bias -100 in its first": _unet(
        lambda m: filled(m, "down/0/bias", -100.0), "vanishing", place="down/0", reason="dead"
    ),
    "u-net, middle convolution 0": _unet(
        lambda m: filled(m, "middle/0/weight", 0.0), ("healthy", "vanishing"), place="middle/0"
    ),
    "u-net, dead in the middle": _unet(
        lambda m: filled(m, "middle/0/bias", -100.0), "vanishing", place="middle/0", reason="dead"
    ),
    "u-net, lr 100": _unet(_diverged, BROKEN),
}  # fmt: skip
