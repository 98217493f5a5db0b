"""Values whose derivatives are those of something else, or of nothing."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

__all__ = ["refused", "with_value"]

Values = Float[Array, "..."]


@jax.custom_jvp
def with_value(found: Values, value: Values) -> Values:
    """``value``, with the derivatives of ``found``, which is the same with fewer digits."""
    return value


@with_value.defjvp
def _with_value_jvp(primals, tangents):
    return with_value(*primals), tangents[0]


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def refused(x: Values, where: Bool[Array, "..."], order: int) -> Values:
    """``x``, whose derivatives from the order-th on are infinite ``where`` none exists."""
    return x


@refused.defjvp
def _refused_jvp(order, primals, tangents):
    (x, where), (dot, _) = primals, tangents

    def growing(value):
        """1, or ``where`` a ``value`` with infinite derivatives of its own."""
        one = jnp.ones_like(x)
        return jnp.where(where, with_value(refused(x, where, order - 1 or 1), value * one), one)

    if order > 1:
        return refused(x, where, order), dot * growing(1)
    # Twice the largest number, not inf: what does not move, or is not asked for, keeps its 0.
    largest = growing(jnp.finfo(x.dtype).max)
    return refused(x, where, 1), dot * largest * largest
