"""Which examples make up the batch of a step: shuffled anew every epoch, from the key alone."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int

from sigprop._checks import check_whole_number

__all__ = ["batch_at", "checked_batch_size", "first_order", "order_at"]


def checked_batch_size(batch_size: int | None, examples: int) -> int:
    """As given; all examples if None.

    Raises
    ------
    ValueError
        If it is larger than the data.

    Examples
    --------
    >>> checked_batch_size(None, 100)
    100
    """
    if batch_size is None:
        return examples
    if check_whole_number("batch_size", batch_size) > examples:
        raise ValueError(
            f"batch_size must be at most the {examples} examples to train on, got {batch_size}"
        )
    return batch_size


def first_order(examples: int) -> Int[Array, " examples"]:
    """Before the first epoch's shuffle; whole batches are never shuffled."""
    return jnp.arange(examples)


def order_at(order: Int[Array, " examples"], step: Any, batch_size: int, key: Any) -> Array:
    """The order of the examples at a step, given that of the step before.

    It changes at the start of an epoch of ``examples // batch_size`` steps and depends on the key
    and the step only. The last examples of an order, too few for a batch, are left out.
    """
    examples = len(order)
    if batch_size == examples:
        return order
    per_epoch = examples // batch_size
    return lax.cond(
        step % per_epoch == 0,
        lambda: jax.random.permutation(jax.random.fold_in(key, step // per_epoch), examples),
        lambda: order,
    )


def batch_at(order: Int[Array, " examples"], step: Any, batch_size: int) -> Array:
    """Indices of a step's batch, (batch_size,)."""
    start = step % (len(order) // batch_size) * batch_size
    return lax.dynamic_slice_in_dim(order, start, batch_size)
