"""Operations that stop the gradient or leave their domain, each at a known place."""

import jax
import jax.numpy as jnp
from flax import nnx

from tests.diagnosis.cases.case import ZERO, Case, edited, filled, scaled
from tests.diagnosis.cases.dense import LN, batch, mlp, relu, squared


def stopped(x):
    return jax.lax.stop_gradient(x)


def one_hot_of_largest(x):
    return jax.nn.one_hot(jnp.argmax(x, -1), x.shape[-1])


def in_bits(x):
    return jnp.where(x > 0, 1.0, 0.0)


def straight_through(x):
    return x + jax.lax.stop_gradient(jnp.sign(x) - x)


def half_stopped(x):
    return 0.5 * x + 0.5 * jax.lax.stop_gradient(x)


def safe_log(x):
    return jnp.where(x > 0, jnp.log(jnp.where(x > 0, x, 1.0)), 0.0)


def unsafe_log(x):
    return jnp.where(x > 0, jnp.log(jnp.maximum(x, 0.0)), 0.0)


def log_of_relu(x):
    return jnp.log(jax.nn.relu(x))


def root(x):
    return jnp.sqrt(jnp.maximum(x, 0.0))


def masked_root(x):
    """The slope of the root is infinite at 0, that of jax.nn.relu hides it."""
    return jnp.sqrt(jax.nn.relu(x))


def unit_vectors(x):
    x = x.at[0].set(0.0 * x[0])
    return x / jnp.abs(x)


def normalised(x):
    x = x * jnp.where(jnp.arange(x.shape[0]) == 0, 0.0, 1.0)[:, None]
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def overflow(x):
    return jnp.exp(200.0 * jnp.square(x))


def own_softmax(x):
    e = jnp.exp(300.0 * x)
    return e / jnp.sum(e, -1, keepdims=True)


def arccos(x):
    return jnp.arccos(jnp.clip(3 * x, -1.0, 1.0))


def power(x):
    return jnp.maximum(x, 0.0) ** 0.3


def halves(x):
    """float16 in the middle of the network, far below what it holds."""
    return (x.astype(jnp.float16) * jnp.float16(1e-5) * jnp.float16(1e-5)).astype(x.dtype)


def half_underflow(model, batch):
    """A loss scaled so far down that float16 holds nothing of it."""
    value = squared(model, batch).astype(jnp.float16)
    return (value * jnp.float16(1e-5) * jnp.float16(1e-3)).astype(jnp.float32)


def cross_entropy(model, batch):
    """By hand, with the probability of the class rounded to 0."""
    x, y = batch
    p = jax.nn.softmax(500.0 * model(x))
    return -jnp.mean(jnp.log(jnp.take_along_axis(p, jnp.argmax(-y, -1)[:, None], -1)))


def sharp_norm(width, rngs):
    return LN(width, epsilon=0.0, rngs=rngs)


def in_the_middle(operation):
    return mlp(6, jnp.tanh, 1.2, None, False, operation)


def _case(build, *verdict, loss=squared, **options):
    return Case(build, loss, batch, *verdict, **options)


def _middle(operation, *verdict, **options):
    return _case(in_the_middle(operation), *verdict, **options)


class Amplitude(nnx.Module):
    """An output scale of its own."""

    def __init__(self, start):
        self.inner = mlp(5, jnp.tanh, 1.2)()
        self.amplitude = nnx.Param(jnp.asarray(start))

    def __call__(self, x):
        return self.amplitude[...] * self.inner(x)


class Jitted(nnx.Module):
    """The operation inside a compiled function and a loop."""

    def __init__(self, operation):
        self.inner = mlp(4, jnp.tanh, 1.2)()
        self.outer = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
        self.operation = jax.jit(operation)

    def __call__(self, x):
        step = lambda x, _: (self.operation(x), None)  # noqa: E731
        return self.outer(jax.lax.scan(step, self.inner(x), None, length=2)[0])


class Distances(nnx.Module):
    """Distances of points from themselves among them: the slope of a root at 0."""

    def __init__(self):
        self.inner = mlp(4, jnp.tanh, 1.2)()

    def __call__(self, x):
        h = self.inner(x)
        away = jnp.sqrt(jnp.sum((h[:, None] - h[None]) ** 2, -1))
        return h + jnp.mean(away, -1, keepdims=True)


CASES = {
    "straight-through sign": _middle(straight_through),
    "half of the gradient stopped": _middle(half_stopped),
    "safe log inside where": _middle(safe_log),
    "sqrt of relu": _middle(masked_root),
    "output scale 0, trained": _case(lambda: Amplitude(0.0)),
    # ------------------------------------------------------------------ exact zeros
    "sign": _middle(jnp.sign, "vanishing", place="sign", reason="sign"),
    "round": _middle(jnp.round, "vanishing", place="round", reason="round"),
    "floor": _middle(lambda x: jnp.floor(4 * x), "vanishing", reason="floor"),
    "argmax": _middle(one_hot_of_largest, "vanishing", reason="argmax"),
    "threshold": _middle(in_bits, "vanishing", reason="gt|select|compar|threshold|where|>"),
    "stop_gradient": _middle(stopped, "vanishing", reason="stop_gradient"),
    "cast to integers": _middle(
        lambda x: (8 * x).astype(jnp.int32).astype(x.dtype), "vanishing",
        reason="int|convert_element_type",
    ),
    "sign in a scanned, compiled function": _case(
        lambda: Jitted(jnp.sign), "vanishing", place="sign", reason="sign"
    ),
    "output scale 0, fixed": _case(
        mlp(5, jnp.tanh, 1.2, scale=0.0), "vanishing", reason=ZERO
    ),
    "float16 underflow in the loss": _case(
        mlp(5, jnp.tanh, 1.2), "vanishing", loss=half_underflow, reason="float16"
    ),
    "float16 underflow in the middle": _middle(halves, "vanishing", reason="float16"),
    "clip that holds every value": _middle(
        lambda x: jnp.clip(x, 2.0, 3.0), "vanishing", reason="clamp|clip|max|min"
    ),
    # ------------------------------------------------------------------ outside the domain
    "unsafe log inside where": _middle(unsafe_log, "nonfinite", reason="log"),
    "log of relu": _middle(log_of_relu, "nonfinite", reason="log"),
    "sqrt at 0": _middle(root, "nonfinite", reason="sqrt"),
    "x / |x| at 0": _middle(unit_vectors, "nonfinite", reason="div"),
    "norm of 0": _middle(normalised, "nonfinite", reason="div|sqrt|norm"),
    "arccos at 1": _middle(arccos, "nonfinite", reason="acos|arccos"),
    "power 0.3 at 0": _middle(power, "nonfinite", reason="pow"),
    "exp overflow": _middle(overflow, "nonfinite", reason="exp"),
    "softmax by hand": _middle(own_softmax, "nonfinite", reason="exp"),
    "log of a probability of 0": _case(
        mlp(5, jnp.tanh, 1.2), "nonfinite", loss=cross_entropy, reason="log"
    ),
    "sqrt of distances": _case(Distances, "nonfinite", reason="sqrt"),
    "log in a scanned, compiled function": _case(
        lambda: Jitted(jnp.log), "nonfinite", reason="log"
    ),
    "a kernel that is nan": _case(
        lambda: edited(mlp(6, relu, 2.0)(), "layers/2/kernel", lambda w: w.at[3, 4].set(jnp.nan)),
        "nonfinite", place="layers/2/kernel", reason="restore",
    ),
    "all parameters nan": _case(
        lambda: filled(mlp(6, relu, 2.0)(), ".", jnp.nan), "nonfinite", reason="restore",
    ),
    "a bias that is inf": _case(
        lambda: filled(mlp(6, relu, 2.0)(), "layers/1/bias", jnp.inf),
        "nonfinite", place="layers/1/bias", reason="restore",
    ),
    "overflow of depth": _case(
        lambda: scaled(mlp(12, relu, 2.0)(), 2e3, "layers.*kernel"), "nonfinite",
        reason="overflow|exce|large",
    ),
    "a norm without epsilon over a dead layer": _case(
        lambda: filled(mlp(5, relu, 2.0, sharp_norm)(), "layers/2/(kernel|bias)", 0.0),
        "nonfinite", place="norms/2|layers/2|rsqrt|div|sqrt",
    ),
}  # fmt: skip
