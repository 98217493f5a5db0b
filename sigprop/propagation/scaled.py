"""Numbers of any size: row dot products held beside a log scale, and sums of logs over depth."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

__all__ = ["LogSum", "log_weighted_sum", "pair_products", "pairs", "squared_norms"]

# Up to this many inputs, one reduction for each pair beats a batched multiply of tiny matrices.
_FEW_INPUTS = 4


def pairs(inputs: int) -> tuple[np.ndarray, np.ndarray]:
    """Index pairs (a, b) with a <= b: the diagonal first, then the pairs above it."""
    above = np.triu_indices(inputs, 1)
    diagonal = np.arange(inputs)
    return np.concatenate([diagonal, above[0]]), np.concatenate([diagonal, above[1]])


def squared_norms(rows: Float[Array, "rows width"], inputs: int) -> Float[Array, "inputs cells"]:
    """|v|² of every row."""
    return jnp.sum(rows * rows, axis=-1).reshape(inputs, -1)


def pair_products(rows: Float[Array, "rows width"], inputs: int) -> Float[Array, "pairs cells"]:
    """Dot products of the rows of each cell, ordered as `pairs`."""
    by_input = rows.reshape(inputs, -1, rows.shape[-1])
    first, second = pairs(inputs)
    if inputs > _FEW_INPUTS:
        gram = jnp.einsum("acn,bcn->cab", by_input, by_input, precision=jax.lax.Precision.HIGHEST)
        return gram[:, first, second].T
    products = [squared_norms(rows, inputs)]
    products += [
        jnp.sum(by_input[a] * by_input[b], axis=-1)[None]
        for a, b in zip(first[inputs:], second[inputs:])
    ]
    return jnp.concatenate(products)


class LogSum(NamedTuple):
    """A sum of logs over many layers, with the rounding error carried beside it (Knuth 1969)."""

    high: Float[Array, "..."]
    low: Float[Array, "..."]

    @classmethod
    def of(cls, value: Float[Array, "..."]) -> "LogSum":
        """A sum with one term."""
        return cls(value, jnp.zeros_like(value))

    @property
    def value(self) -> Float[Array, "..."]:
        """The sum."""
        return self.high + self.low

    def plus(self, term: Float[Array, "..."]) -> "LogSum":
        """The sum with one (finite) term more; two-sum, so nothing is lost."""
        high = self.high + term
        kept = high - self.high
        lost = (self.high - (high - kept)) + (term - kept)
        return LogSum(high, self.low + lost)


def log_weighted_sum(
    products: Float[Array, "*layers pairs cells"],
    log_scale: Float[Array, "*layers inputs cells"],
) -> Float[Array, "*layers cells"]:
    """Log Σ_ab P_ab exp(s_a + s_b), over all ordered pairs of inputs; -inf where the sum is 0."""
    first, second = pairs(log_scale.shape[-2])
    largest = jnp.max(log_scale, axis=-2, keepdims=True)
    scale = jnp.exp(log_scale - largest)
    count = jnp.asarray(np.where(first == second, 1.0, 2.0), products.dtype)[:, None]
    terms = count * products * scale[..., first, :] * scale[..., second, :]
    # The sum is a squared norm; rounding alone can bring it below 0.
    total = jnp.maximum(jnp.sum(terms, axis=-2), 0)
    return jnp.log(total) + 2 * largest[..., 0, :]
