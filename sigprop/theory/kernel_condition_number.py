r"""How well conditioned the kernels of m inputs are, layer by layer.

For m inputs of one variance q, every two at correlation 1 - ε, the NNGP is q[ε 1 + (1 - ε) 11ᵀ]
and the NTK likewise p (diagonal) and r (elsewhere), so the condition numbers are

    κ_NNGP = 1 + m (1 - ε)/ε,   κ_NTK = 1 + m r/(p - r).

At χ₁ = 1, κ_NTK tends to (m + 2)/2 for smooth φ, where r/p → 1/3, and to (m + 3)/3 for relu, where
r/p → 1/4. In the ordered phase both grow exponentially, as χ₁^-l and χ₁^-l/l; in the chaotic one
κ_NTK tends to 1 (Xiao, Pennington and Schoenholz 2020).
"""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from sigprop import activations
from sigprop._checks import check_non_negative, check_whole_number, of_variances
from sigprop._precision import exact_float64, is_traced
from sigprop.activations import Activation
from sigprop.gaussian import pair, resolution, single
from sigprop.theory.maps import ActivationLike, Theory, check_correlation

__all__ = ["KernelConditioning", "kernel_conditioning"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class KernelConditioning:
    """Condition numbers for networks of 1..depth affine layers; last axis ``layer``.

    Attributes
    ----------
    nngp, ntk
        κ of either kernel; inf where it is singular (inputs that coincide).
    ntk_diagonal, ntk_gap
        p, and p - r (which keeps its digits where r comes close to p).
    """

    nngp: Theory
    ntk: Theory
    ntk_diagonal: Theory
    ntk_gap: Theory


@of_variances
def kernel_conditioning(
    activation: ActivationLike,
    *,
    inputs: int,
    depth: int,
    weight_var: ArrayLike,
    bias_var: ArrayLike,
    variance0: ArrayLike = 1.0,
    correlation0: ArrayLike = 0.0,
) -> KernelConditioning:
    """Condition numbers of NNGP and NTK of ``inputs`` inputs at every depth up to ``depth``.

    Parameters
    ----------
    activation
        A name, a callable or an `Activation`.
    inputs
        m >= 2.
    depth
        Affine layers D >= 1.
    weight_var, bias_var, variance0
        σ_w², σ_b² and the q¹ of every input, >= 0; arrays broadcast.
    correlation0
        c¹ of every two inputs, in [-1/(m - 1), 1].

    Returns
    -------
    `KernelConditioning` of arrays (..., depth); NumPy float64.

    Raises
    ------
    ValueError
        For values out of range, or traced ones.

    Examples
    --------
    >>> relu = kernel_conditioning("relu", inputs=3, depth=3000, weight_var=2.0, bias_var=0.0)
    >>> round(float(relu.ntk[0]), 12), round(float(relu.ntk[-1]), 1)  # to (m + 3)/3
    (1.0, 2.0)
    """
    inputs, depth = check_whole_number("inputs", inputs, 2), check_whole_number("depth", depth)
    numbers = {"weight_var": weight_var, "bias_var": bias_var, "variance0": variance0}
    if is_traced(list(numbers.values()), correlation0):
        raise ValueError("kernel_conditioning must be called outside jit, vmap and grad")
    for name, value in numbers.items():
        check_non_negative(name, value)
    check_correlation("correlation0", correlation0)
    if np.any(np.asarray(correlation0, float) < -1 / (inputs - 1)):
        raise ValueError(
            f"correlation0 must be >= -1/(inputs - 1) = {-1 / (inputs - 1):g} for all pairs of "
            f"{inputs} inputs, got {correlation0}"
        )
    arrays = np.broadcast_arrays(
        *(np.asarray(value, float) for value in (*numbers.values(), correlation0))
    )
    kind = activations.get(activation)
    _, apart, diagonal, gap = _layers(kind, depth, *map(np.ravel, arrays))
    shape = (*arrays[0].shape, depth)
    with np.errstate(divide="ignore", invalid="ignore"):
        return KernelConditioning(
            nngp=(1 + inputs * (1 - apart) / apart).reshape(shape),
            ntk=(1 + inputs * (diagonal - gap) / gap).reshape(shape),
            ntk_diagonal=diagonal.reshape(shape),
            ntk_gap=gap.reshape(shape),
        )


@exact_float64
def _layers(kind: Activation, depth: int, *cells):
    """Q, ε, p and p - r of every layer, cells along axis 0."""
    nodes = resolution.uniform_nodes(kind, float(np.max(cells[2])))
    return [np.asarray(a) for a in _compiled(kind, depth, nodes, *map(jnp.asarray, cells))]


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _compiled(kind, depth, nodes, *cells):
    one = functools.partial(_cell, kind, depth, None if nodes is None else 2 * nodes)
    return jax.lax.map(lambda cell: one(*cell), cells)


def _cell(kind, depth, nodes, weight_var, bias_var, variance0, correlation0):
    def layer(state, _):
        q, e, diagonal, gap = state
        square, slope = single.squares(kind, q)
        after = weight_var * square + bias_var
        lost = weight_var * pair.deficit(kind, q, e, nodes)
        slope_lost = _slope_lost(kind, q, e, slope, nodes)
        gap = lost + weight_var * ((slope - slope_lost) * gap + slope_lost * diagonal)
        return (after, lost / after, after + weight_var * slope * diagonal, gap), state

    e = 1 - correlation0
    start = variance0, e, variance0, variance0 * e
    return jax.lax.scan(layer, start, length=depth)[1]


def _slope_lost(kind: Activation, q, e, slope, nodes):
    """E[φ'²] - E[φ'(u) φ'(v)]: where φ' is smooth, without cancelling as ε -> 0.

    Where φ' jumps it is of order √ε, and the difference is good enough.
    """
    if kind.kinks:
        return slope - pair.slope_product(kind, q, q, e, nodes)
    return pair.deficit(_slope_of(kind), q, e, nodes)


@functools.lru_cache(maxsize=64)
def _slope_of(kind: Activation) -> Activation:
    """φ' as an activation of its own."""
    return Activation(kind.derivative, name=f"slope of {kind.name}", kinks=())
