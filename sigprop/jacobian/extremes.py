"""Largest and smallest singular values without the matrix, each with a bound on its error."""

import enum
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt32

from sigprop._checks import check_one_of, check_whole_number
from sigprop.jacobian.flat import flat_function
from sigprop.jacobian.golub_kahan import Bidiagonal, bidiagonalised

__all__ = ["ExtremeSingularValues", "ExtremeStatus", "extreme_singular_values"]

_VECTORS = {"largest": 160, "smallest": 480}  # Krylov vectors if nothing else is asked for


class ExtremeStatus(enum.IntEnum):
    """How each extreme singular value came out."""

    CONVERGED = 0  #: a singular value lies within ``residual_bound``, which is within tolerance
    NOT_CONVERGED = 1  #: a singular value lies within ``residual_bound``, which is not
    BELOW_RESOLUTION = 2  #: below ``residual_bound``; rounding hides where: the value is nan
    BREAKDOWN = 3  #: the vectors lost their orthogonality: the value is nan
    NOT_FINITE = 4  #: the Jacobian is not finite: the value is nan


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["singular_values", "residual_bound", "status", "invariant"],
    meta_fields=[],
)
@dataclass(frozen=True)
class ExtremeSingularValues:
    """What `extreme_singular_values` finds.

    Attributes
    ----------
    singular_values
        Descending; nan where there is no number to give.
    residual_bound
        A singular value lies within this of each; for ``BELOW_RESOLUTION``, below it.
    status
        An `ExtremeStatus` each.
    invariant
        Whether the Krylov space closed early, which is no failure: all that the start vectors have
        a part in was then found exactly.
    """

    singular_values: Float[Array, "*batch k"]
    residual_bound: Float[Array, "*batch k"]
    status: Int[Array, "*batch k"]
    invariant: Bool[Array, "*batch"]


def extreme_singular_values(
    fn: Callable,
    x: Any,
    k: int = 1,
    which: Literal["largest", "smallest"] = "largest",
    *,
    key: Key[Array, ""] | UInt32[Array, "2"],
    vectors: int | None = None,
    tolerance: float | None = None,
) -> ExtremeSingularValues:
    r"""The ``k`` largest or smallest singular values of the Jacobian of ``fn`` at ``x``.

    Block Golub-Kahan-Lanczos with full reorthogonalisation, from Jacobian-vector products only.
    For approximate triplets (u, s, v) the residuals r = J v - s u and r' = Jᵀu - s v are formed
    anew, and some singular value lies within sqrt((|r|² + |r'|²) / 2) of s (Weyl).

    Parameters
    ----------
    fn, x
        As for `singular_values`.
    k
        How many, 1..min(inputs, outputs). Values of multiplicity up to k are all found.
    which
        "largest", or "smallest": those converge slowly, unless ``vectors`` is the whole space.
    key
        For the start vectors.
    vectors
        Krylov vectors to build; memory is this times (inputs + outputs). By default 160 for the
        largest and 480 for the smallest, and at least 4 k. If the space has no more dimensions the
        result is that of the full matrix.
    tolerance
        Relative to the largest singular value; 1e3 machine epsilons by default.

    Returns
    -------
    ExtremeSingularValues

    Raises
    ------
    ValueError
        If k, vectors or which is out of range, or x or fn(x) is not of floating-point numbers.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> scales = jnp.linspace(1.0, 2.0, 1000)
    >>> key = jax.random.key(0)
    >>> top = extreme_singular_values(lambda x: scales * x, jnp.ones(1000), 2, key=key)
    >>> [round(float(value), 3) for value in top.singular_values]
    [2.0, 1.999]
    """
    check_one_of("which", which, tuple(_VECTORS))
    flat = flat_function(fn, x)
    smaller = min(flat.inputs, flat.outputs)
    k = check_whole_number("k", k)
    if k > smaller:
        raise ValueError(f"k must be at most {smaller}, the smaller dimension of J, got {k}")
    wanted = max(_VECTORS[which], 4 * k) if vectors is None else vectors
    wanted = check_whole_number("vectors", wanted, minimum=k)
    relative = 1e3 * float(jnp.finfo(flat.dtype).eps) if tolerance is None else tolerance
    return _extremes(flat, k, which, key, min(wanted, smaller), relative)


def _extremes(flat, k, which, key, vectors, tolerance):
    narrow = flat.inputs <= flat.outputs
    forward, backward = flat.forward, flat.backward
    inputs, outputs = flat.inputs, flat.outputs
    if not narrow:
        forward, backward, inputs, outputs = backward, forward, outputs, inputs

    @jax.jit
    def run(key):
        start_key, noise_key = jax.random.split(key)
        whole = vectors == inputs
        block = vectors if whole else k
        start = jax.random.normal(start_key, (block, inputs), flat.dtype)
        decomposition = bidiagonalised(
            forward, backward, start, outputs, vectors // block, noise_key
        )
        return _judged(decomposition, forward, backward, k, which, tolerance)

    return run(key)


def _judged(decomposition: Bidiagonal, forward, backward, k, which, tolerance):
    matrix = decomposition.matrix
    finite = jnp.isfinite(matrix).all()
    left, values, right = jnp.linalg.svd(jnp.where(finite, matrix, 0.0))
    chosen = slice(0, k) if which == "largest" else slice(len(values) - k, len(values))
    s = values[chosen]
    u = jnp.matmul(left.T[chosen], decomposition.left, precision="highest")
    v = jnp.matmul(right[chosen], decomposition.right, precision="highest")
    miss = jax.vmap(forward)(v) - s[:, None] * u, jax.vmap(backward)(u) - s[:, None] * v
    bound = jnp.sqrt(sum(jnp.sum(jnp.square(m), axis=1) for m in miss) / 2)
    return _with_status(s, bound, values[0], finite, decomposition, tolerance)


def _with_status(s, bound, largest, finite, decomposition, tolerance):
    eps = jnp.finfo(s.dtype).eps
    resolution = eps * largest
    converged = bound <= tolerance * largest
    hidden = ((s <= resolution) | (converged & (s <= bound))) & (largest > 0)
    lost = _orthogonality_lost(decomposition)
    status = jnp.where(converged, ExtremeStatus.CONVERGED, ExtremeStatus.NOT_CONVERGED)
    status = jnp.where(hidden, ExtremeStatus.BELOW_RESOLUTION, status)
    status = jnp.where(lost, ExtremeStatus.BREAKDOWN, status)
    status = jnp.where(finite, status, ExtremeStatus.NOT_FINITE)
    # The approximations are from above: what the bound has to cover is rounding.
    bound = jnp.where(hidden, jnp.maximum(s + jnp.minimum(bound, s), resolution), bound)
    coupling = jnp.max(jnp.abs(decomposition.coupling))
    known = status <= ExtremeStatus.NOT_CONVERGED
    return ExtremeSingularValues(
        jnp.where(known, s, jnp.nan),
        jnp.where(finite, bound, jnp.nan),
        status,
        finite & (coupling <= 10 * eps * jnp.maximum(largest, jnp.finfo(s.dtype).tiny)),
    )


def _orthogonality_lost(decomposition):
    eps = jnp.finfo(decomposition.matrix.dtype).eps
    off = [
        jnp.max(jnp.abs(jnp.matmul(b, b.T, precision="highest") - jnp.eye(len(b), dtype=b.dtype)))
        for b in (decomposition.left, decomposition.right)
    ]
    return jnp.maximum(*off) > jnp.sqrt(eps)
