"""Any function of pytrees as a function of one vector, and its Jacobian's products with vectors."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from sigprop._precision import is_traced

__all__ = ["FlatFunction", "flat_function"]


@dataclass(frozen=True)
class FlatFunction:
    """``fn`` between vectors, at the vector ``x``.

    Vectors are multiplied in ``dtype``: the widest of input and output, at least float32 (which
    decompositions need), whatever the function computes in.
    """

    fn: Callable[[Float[Array, " inputs"]], Float[Array, " outputs"]]
    x: Float[Array, " inputs"]
    outputs: int
    out_dtype: Any

    @property
    def inputs(self) -> int:
        """Entries of the input."""
        return self.x.size

    @property
    def dtype(self) -> Any:
        """What vectors and products are in."""
        dtypes = (jnp.dtype(jnp.float32), self.x.dtype, jnp.dtype(self.out_dtype))
        return max(dtypes, key=lambda dtype: dtype.itemsize)

    def forward(self, tangent: Float[Array, " inputs"]) -> Float[Array, " outputs"]:
        """J v."""
        tangent = tangent.astype(self.x.dtype)
        return jax.jvp(self.fn, (self.x,), (tangent,))[1].astype(self.dtype)

    def backward(self, cotangent: Float[Array, " outputs"]) -> Float[Array, " inputs"]:
        """Jᵀ u."""
        cotangent = cotangent.astype(self.out_dtype)
        return jax.vjp(self.fn, self.x)[1](cotangent)[0].astype(self.dtype)


def flat_function(fn: Callable, x: Any) -> FlatFunction:
    """``fn`` at ``x`` on vectors: leaves raveled in tree order, everything at highest precision.

    Raises
    ------
    ValueError
        If x or fn(x) holds anything but floating-point numbers, or nothing at all, or x is not
        finite.
    """
    if not callable(fn):
        raise ValueError(f"fn must be a function, got {type(fn).__name__}")
    x = jax.tree.map(jnp.asarray, x)
    _check_real("x", x)
    _check_real("what fn returns", jax.eval_shape(fn, x))
    vector, unravel = _raveled(x)
    if not is_traced(vector) and not bool(jnp.isfinite(vector).all()):
        raise ValueError("x must be finite, got nan or infinity in it")

    def flat(v):
        with jax.default_matmul_precision("highest"):
            return _raveled(fn(unravel(v)))[0]

    after = jax.eval_shape(flat, vector)
    return FlatFunction(flat, vector, after.size, after.dtype)


def _raveled(tree):
    with jax.numpy_dtype_promotion("standard"):  # leaves of several precisions are welcome
        return ravel_pytree(tree)


def _check_real(name, tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    for path, leaf in leaves:
        dtype = getattr(leaf, "dtype", type(leaf))
        if not jnp.issubdtype(dtype, jnp.floating):
            at = f" at {jax.tree_util.keystr(path)}" if path else ""
            raise ValueError(f"{name} must hold floating-point numbers, got dtype {dtype}{at}")
    if sum(leaf.size for _, leaf in leaves) == 0:
        raise ValueError(f"{name} must hold at least one number, got none")
