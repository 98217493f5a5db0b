"""Which examples make up the batch of a step: shuffled anew every epoch, from the key alone."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int, UInt32

from sigprop._checks import check_whole_number

__all__ = ["batch_at", "checked_batch_size", "shuffled"]

# Four rounds would do for large numbers; of few bits, that many leave a preference for some places.
_ROUNDS = 8
_LEAST_HALF = 3


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


def batch_at(key: Any, step: Any, batch_size: int, examples: int) -> Int[Array, " batch"]:
    """Indices of a step's batch.

    An epoch is ``examples // batch_size`` steps through one order of the examples, of which the
    last ones, too few for a batch, are left out. Orders depend on the key and the epoch only.

    Examples
    --------
    >>> import numpy as np
    >>> epoch = [batch_at(jax.random.key(0), step, 4, 12) for step in range(3)]
    >>> np.sort(np.concatenate(epoch)).tolist()
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    """
    per_epoch = examples // batch_size
    places = step % per_epoch * batch_size + jnp.arange(batch_size)
    return shuffled(jax.random.fold_in(key, step // per_epoch), places, examples)


def shuffled(key: Any, places: Int[Array, " n"], examples: int) -> Int[Array, " n"]:
    """What a random order of 0..examples - 1 has at these places.

    Only the entries asked for are computed: a sort of all examples in every epoch costs more than a
    small network's steps. A Feistel network permutes the numbers of an even count of
    bits (Luby & Rackoff 1988); from those that are too large one goes on until one is not (Black &
    Rogaway 2002), which makes a permutation of the rest.

    Examples
    --------
    >>> sorted(shuffled(jax.random.key(1), jnp.arange(5), 5).tolist())
    [0, 1, 2, 3, 4]
    """
    half = max(_LEAST_HALF, ((examples - 1).bit_length() + 1) // 2)
    keys = jax.random.bits(key, (_ROUNDS,))
    found = lax.while_loop(
        lambda v: jnp.any(v >= examples),
        lambda v: jnp.where(v >= examples, _encrypted(keys, v, half), v),
        _encrypted(keys, places.astype(jnp.uint32), half),
    )
    return found.astype(jnp.int32)


def _encrypted(keys: UInt32[Array, " rounds"], values: UInt32[Array, " n"], half: int):
    """Numbers of 2 · half bits, permuted."""
    mask = jnp.uint32((1 << half) - 1)
    left, right = values >> half, values & mask
    for round_key in keys:
        left, right = right, left ^ (_mixed(right + round_key) & mask)
    return (left << half) | right


def _mixed(x: UInt32[Array, " n"]) -> UInt32[Array, " n"]:
    """Every bit of the input changes every bit of the output (the finaliser of MurmurHash3)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
