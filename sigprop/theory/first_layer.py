"""The first layer of a kernel's recursion: from two inputs to the second moments of z¹."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sigprop._derivatives import refused, with_value
from sigprop.gaussian import covariances
from sigprop.gaussian.moments import Cell

__all__ = ["first_layer", "turned_by_bias"]

Scalar = Float[Array, ""]
Input = Float[Array, " features"]


def first_layer(
    order: int | None,
    x_a: Input,
    x_b: Input,
    q_a: Scalar,
    q_b: Scalar,
    weight_var: Scalar,
    bias_var: Scalar,
) -> Cell:
    """K¹ of a pair of inputs, whose variances are ``q_a`` and ``q_b``.

    ``order`` is the first derivative of what follows to jump where an input vanishes, if one does.
    There the kernels have no derivative: they are refused there, and only there, for derivatives by
    anything else do not see the kink.
    """
    gone_a, gone_b = q_a == 0, q_b == 0
    apart, together = _angle(*map(jax.lax.stop_gradient, (x_a, x_b, weight_var, bias_var)))
    if order is not None and order < 3:
        fixed_a, fixed_b = jax.lax.stop_gradient((x_a, x_b))
        x_a, x_b = (
            refused(jnp.where(gone_b, fixed_a, x_a), gone_a, max(order, 1)),
            refused(jnp.where(gone_a, fixed_b, x_b), gone_b, max(order, 1)),
        )
        bias_var = refused(bias_var, gone_a | gone_b, 1)
    covariance = weight_var * jnp.mean(x_a * x_b) + bias_var
    one = jnp.ones_like(apart)
    apart, together = (jnp.where(gone_a | gone_b, one, angle) for angle in (apart, together))
    cell = Cell(q_a, q_b, covariance, apart, together)
    return cell._replace(covariance=with_value(covariance, covariances.covariance_value(cell)))


def turned_by_bias(first: Cell, x_a: Input, x_b: Input, bias_var: Scalar) -> Scalar:
    """0, with no derivative by σ_b² = 0 where it is the angle that Θ goes by.

    A bias turns inputs on one line by √σ_b² or σ_b², and Θ, where φ' jumps, by the angle.
    """
    on_a_line = (first.apart * first.together == 0) & ~jnp.all(x_a == x_b)
    return refused(bias_var, (bias_var == 0) & on_a_line, 1) - bias_var


def _angle(x_a, x_b, weight_var, bias_var):
    """1 - c and 1 + c of two inputs, from what is left of one beside the direction of the other.

    The difference of two inputs that nearly coincide is exact; that of their lengths is not.
    """
    scale, bias = jnp.sqrt(weight_var / x_a.size), jnp.sqrt(bias_var)
    sign = jnp.where(weight_var * jnp.mean(x_a * x_b) + bias_var < 0, -1.0, 1.0).astype(x_a.dtype)
    a, b = (jnp.append(scale * x, bias) for x in (x_a, x_b))
    step = jnp.append(scale * (sign * x_b - x_a), (sign - 1) * bias)
    along = jnp.sum(step * a) / _nonzero(jnp.sum(a * a))
    square = jnp.sum(jnp.square(step - along * a)) / _nonzero(jnp.sum(b * b))
    square = jnp.minimum(square, 1)
    own = square / (1 + jnp.sqrt(1 - square))
    return jnp.where(sign > 0, own, 2 - own), jnp.where(sign > 0, 2 - own, own)


def _nonzero(x):
    return jnp.where(x == 0, 1.0, x)
