"""Any function of pytrees as a function of one vector, and its Jacobian's products with vectors."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.errors import TraceContextError
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from sigprop._precision import is_traced

__all__ = ["FlatFunction", "flat_function", "has_forward_mode", "inner_programs", "stateless"]


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
    forward_mode: bool

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
        """J v; where there is a rule for reverse mode alone, as the transpose of Jᵀ u."""
        tangent = tangent.astype(self.x.dtype)
        if self.forward_mode:
            return jax.jvp(self.fn, (self.x,), (tangent,))[1].astype(self.dtype)
        cotangent = jax.ShapeDtypeStruct((self.outputs,), self.out_dtype)
        pull = jax.vjp(self.fn, self.x)[1]
        try:
            (out,) = jax.linear_transpose(lambda u: pull(u)[0], cotangent)(tangent)
        except Exception as error:
            raise ValueError(
                "fn must have a forward mode for this, got one with a rule for reverse mode alone "
                "that cannot be transposed; singular_values makes do with reverse mode"
            ) from error
        return out.astype(self.dtype)

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
    fn = stateless(fn)
    x = jnp.asarray(x) if _is_nested_list(x) else jax.tree.map(jnp.asarray, x)
    _check_real("x", x)
    _check_real("what fn returns", _shapes(fn, x))
    vector, unravel = _raveled(x)
    if not is_traced(vector) and not bool(jnp.isfinite(vector).all()):
        raise ValueError("x must be finite, got nan or infinity in it")

    def flat(v):
        with jax.default_matmul_precision("highest"):
            return _raveled(fn(unravel(v)))[0]

    after = jax.eval_shape(flat, vector)
    return FlatFunction(flat, vector, after.size, after.dtype, has_forward_mode(flat, vector))


def stateless(fn: Callable) -> Callable:
    """An NNX module, or a method of one, rebuilt at each call: what it writes to is let go.

    Dropout then draws the same masks at each call, and running statistics stay as they are; loops
    of `nnx.scan` meet variables of the trace they are in.

    Examples
    --------
    >>> dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))
    >>> always = stateless(dropout)
    >>> bool(jnp.array_equal(always(jnp.ones(9)), always(jnp.ones(9))))
    True
    """
    module = fn if isinstance(fn, nnx.Module) else getattr(fn, "__self__", None)
    if not isinstance(module, nnx.Module):
        return fn
    graph, state = nnx.split(module)

    def call(*args, **kwargs):
        # Fresh variables: those of `state` may be written to only where they were made.
        again = nnx.merge(graph, jax.tree.map(lambda leaf: leaf, state))
        method = again if fn is module else getattr(again, fn.__name__)
        return method(*args, **kwargs)

    return call


def _shapes(fn: Callable, x: Any) -> Any:
    """What ``fn`` returns, as shapes."""
    try:
        return jax.eval_shape(fn, x)
    except Exception as error:
        if isinstance(error, TraceContextError) or "trace level" in str(error):
            raise ValueError(
                "fn must not change an NNX module from outside (dropout draws, batch statistics "
                "move), got one that does: give the module itself, or put it in eval mode"
            ) from error
        raise


def has_forward_mode(fn: Callable, x: Any) -> bool:
    """Not where a custom rule is for reverse mode alone."""
    return not _holds(jax.make_jaxpr(lambda v: jax.jvp(fn, (v,), (v,))[1])(x).jaxpr, "custom_lin")


def _holds(program: Any, primitive: str) -> bool:
    return any(
        equation.primitive.name == primitive
        or any(_holds(inner, primitive) for inner in inner_programs(equation.params))
        for equation in program.eqns
    )


def inner_programs(params: dict[str, Any]) -> Iterator[Any]:
    """Bodies of loops, branches and calls."""
    for value in jax.tree.leaves(list(params.values()), is_leaf=lambda v: hasattr(v, "eqns")):
        inner = getattr(value, "jaxpr", value)
        if hasattr(inner, "eqns"):
            yield inner


def _is_nested_list(x: Any) -> bool:
    """Plain numbers in lists, which are an array: in a function, 2 * [1.0] is something else."""
    if isinstance(x, list | tuple):
        return bool(x) and all(_is_nested_list(e) or type(e) in (int, float) for e in x)
    return False


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
