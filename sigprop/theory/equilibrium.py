"""Where a deep network goes: the fixed points of its variance and correlation maps.

Poole et al. 2016; Schoenholz et al. 2017; Hayou, Doucet and Rousseau 2019.
"""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpy.typing import ArrayLike

from sigprop import activations
from sigprop._checks import check_non_negative, of_variances
from sigprop._precision import ambient_arrays, exact_float64, float64_when_eager, is_traced
from sigprop.activations import Activation
from sigprop.gaussian import pair, single
from sigprop.gaussian.limits import limits
from sigprop.theory.chunks import by_nodes, over_cells
from sigprop.theory.correlation_roots import correlation_deficit
from sigprop.theory.maps import ActivationLike, Theory
from sigprop.theory.statuses import CorrelationStatus, Phase, VarianceStatus
from sigprop.theory.variance_roots import attractor

__all__ = ["FixedPoint", "fixed_point"]

CRITICAL_TOLERANCE = 1e-8
Code = Array | np.ndarray | np.integer


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FixedPoint:
    """Where the layers of a network tend to; every field has the broadcast shape of the inputs.

    Attributes
    ----------
    variance, correlation, one_minus_correlation
        q*, c* and 1 - c* (which keeps its digits near 1).
    chi_1, chi_q, chi_c
        σ_w² E[φ'(z)²], slope of the variance map, σ_w² E[φ'(u) φ'(v)] at c*. Where q tends to 0
        or to infinity, their limits along the trajectory.
    depth_scale_variance, depth_scale_correlation, depth_scale_gradient
        Layers over which a perturbation falls by e: -1/ln χ_q, -1/ln χ_c, -1/ln χ₁; negative for
        growth, inf at χ = 1, 0 at χ = 0.
    phase, variance_status, correlation_status
        Codes: `Phase`, `VarianceStatus`, `CorrelationStatus`.
    condition
        1/|1 - χ_q|: relative change of q* per relative change of the variance map.
    """

    variance: Theory
    correlation: Theory
    one_minus_correlation: Theory
    chi_1: Theory
    chi_q: Theory
    chi_c: Theory
    depth_scale_variance: Theory
    depth_scale_correlation: Theory
    depth_scale_gradient: Theory
    phase: Code
    variance_status: Code
    correlation_status: Code
    condition: Theory

    @property
    def stable(self) -> Array | np.ndarray | np.bool_:
        """Whether networks near this variance flow to it: |χ_q| < 1."""
        return abs(self.chi_q) < 1  # type: ignore[return-value]


@of_variances
def fixed_point(
    activation: ActivationLike,
    *,
    weight_var: ArrayLike,
    bias_var: ArrayLike,
    variance0: ArrayLike = 1.0,
    critical_tolerance: float = CRITICAL_TOLERANCE,
) -> FixedPoint:
    r"""The fixed point that a network with q¹ = variance0 flows to.

    Parameters
    ----------
    activation
        A name, a callable or an `Activation`.
    weight_var, bias_var, variance0
        σ_w², σ_b², q¹, each >= 0 and finite; arrays broadcast.
    critical_tolerance
        \\|χ₁ - 1\\| up to which the phase is called critical.

    Returns
    -------
    A `FixedPoint`. What does not exist is nan with a status that says why.

    Raises
    ------
    ValueError
        For a negative or non-finite variance, or an unknown activation.

    Notes
    -----
    Under jit, vmap and grad it computes at the ambient precision; q* and c* differentiate by the
    implicit function theorem. Of several stable fixed points (gelu with biases) the start decides.

    Examples
    --------
    >>> point = fixed_point("tanh", weight_var=2.25, bias_var=0.0025)
    >>> float(round(point.variance, 10)), float(round(point.chi_1, 10)), Phase(point.phase).name
    (0.7983871143, 1.1367077841, 'CHAOTIC')
    """
    for name, value in (("weight_var", weight_var), ("bias_var", bias_var)):
        check_non_negative(name, value)
    check_non_negative("variance0", variance0)
    kind = activations.get(activation)
    arguments = (weight_var, bias_var, variance0, critical_tolerance)
    if is_traced(arguments):
        return _traced(kind, *ambient_arrays(*arguments))
    return _eager(kind, *np.broadcast_arrays(*(np.asarray(a, float) for a in arguments)))


@functools.partial(jax.jit, static_argnums=0)
def _traced(kind: Activation, weight_var, bias_var, variance0, tolerance) -> FixedPoint:
    arrays = jnp.broadcast_arrays(weight_var, bias_var, variance0, tolerance)
    flat = [jnp.ravel(a) for a in arrays]

    def cell(weight_var, bias_var, variance0, tolerance):
        fixed = map(jax.lax.stop_gradient, (weight_var, bias_var, variance0))
        located = attractor(kind, *fixed)
        slopes = _slopes(kind, weight_var, bias_var, variance0, tolerance, *located)
        chi_1, chaotic = slopes[1], slopes[3]
        q = jnp.where(chaotic, slopes[0], 1.0)
        gain = jnp.where(chaotic, weight_var, 2 / single.slope_square(kind, q))
        e = correlation_deficit(kind, gain, q)
        chi_c = weight_var * pair.slope_product(kind, q, q, e)
        return located[1], slopes, jnp.where(chaotic, e, 0.0), jnp.where(chaotic, chi_c, chi_1)

    status, slopes, e, chi_c = jax.vmap(cell)(*flat)
    record = _assemble(kind, flat[0], flat[1], flat[3], status, slopes, e, chi_c, jnp)
    return jax.tree.map(lambda leaf: jnp.reshape(leaf, arrays[0].shape), record)


def _eager(kind: Activation, weight_var, bias_var, variance0, tolerance) -> FixedPoint:
    flat = [np.ravel(a) for a in (weight_var, bias_var, variance0, tolerance)]
    record = records_at(kind, *flat, *attractors(kind, *flat[:3]))
    return jax.tree.map(lambda leaf: np.reshape(leaf, weight_var.shape)[()], record)


def records_at(kind: Activation, weight_var, bias_var, variance0, tolerance, root, status):
    """The eager record of cells whose variance root and status are known; 1-D float64 arrays."""
    slopes = _slope_cells(kind, weight_var, bias_var, variance0, tolerance, root, status)
    q, chi_1, _, chaotic = slopes
    e, chi_c = np.zeros_like(q), chi_1.copy()
    cells = np.flatnonzero(chaotic)
    e[cells], chi_c[cells] = _correlation_cells(kind, weight_var[cells], q[cells])
    with np.errstate(all="ignore"):
        return _assemble(kind, weight_var, bias_var, tolerance, status, slopes, e, chi_c, np)


# ---------------------------------------------------------------------------- variance


@float64_when_eager("kind")
def attractors(kind, weight_var, bias_var, variance0):
    """`variance_roots.attractor` of every cell: q* reached from ``variance0``, and its status."""
    return jax.vmap(functools.partial(attractor, kind))(weight_var, bias_var, variance0)


@float64_when_eager("kind")
def _slope_cells(kind, weight_var, bias_var, variance0, tolerance, root, status):
    one = functools.partial(_slopes, kind)
    return jax.vmap(one)(weight_var, bias_var, variance0, tolerance, root, status)


def _slopes(kind: Activation, weight_var, bias_var, variance0, tolerance, root, status):
    """q*, χ₁, χ_q, and whether two near inputs part (χ₁ > 1 at a finite q*)."""
    settled = (status == VarianceStatus.FINITE) | (status == VarianceStatus.CONTINUUM)
    usual = settled & (root > 0)
    moves = (status == VarianceStatus.CONTINUUM).astype(root.dtype)
    q = _attached(kind, jnp.where(usual, root, 1.0), moves, weight_var, bias_var, variance0)
    ends = limits(kind)
    square = jnp.where(root == 0, ends.square_zero, ends.square_infinity)
    unknown = (status == VarianceStatus.NOT_CONVERGED) | (status == VarianceStatus.UNRESOLVED)
    square = jnp.where(unknown, jnp.nan, square).astype(q.dtype)
    limit = single.gained(weight_var, jnp.where(usual, 0.0, square))
    chi_1 = jnp.where(usual, single.gained(weight_var, single.slope_square(kind, q)), limit)
    growth = jnp.where(unknown, jnp.nan, _growth_limit(kind, weight_var, root))
    chi_q = jnp.where(usual, weight_var * single.mean_square_slope(kind, q), growth)
    return jnp.where(usual, q, root), chi_1, chi_q, usual & (chi_1 > 1 + tolerance)


def _growth_limit(kind: Activation, weight_var, root):
    """Slope of the variance map as q tends to 0 or to infinity: that of φ without its jumps."""
    ends = limits(kind)
    zero, infinity = (np.mean(np.square(s)) for s in (ends.slopes_zero, ends.slopes_infinity))
    return single.gained(weight_var, jnp.where(root == 0, zero, infinity).astype(root.dtype))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _attached(kind, root, moves, weight_var, bias_var, variance0):
    """``root``, with the derivatives of the implicit function q = σ_w² E[φ²] + σ_b².

    Where every variance is a fixed point (``moves`` = 1) q* is the start itself.
    """
    return root


@_attached.defjvp
def _attached_jvp(kind, primals, tangents):
    root, moves, weight_var, bias_var, variance0 = primals
    _, _, weight_var_dot, bias_var_dot, variance0_dot = tangents
    q = _attached(kind, root, moves, weight_var, bias_var, variance0)
    slope = weight_var * single.mean_square_slope(kind, q)
    moved = single.mean_square(kind, q) * weight_var_dot + bias_var_dot
    room = jnp.where(moves == 1, 1.0, 1 - slope)
    return q, jnp.where(moves == 1, variance0_dot, moved / room)


# ---------------------------------------------------------------------------- correlation


def _correlation_cells(kind: Activation, weight_var, variance) -> tuple[np.ndarray, np.ndarray]:
    """ε* and χ_c of chaotic cells, grouped by how many quadrature nodes their variance needs."""
    e, chi_c = np.zeros_like(variance), np.zeros_like(variance)
    for nodes, cells in by_nodes(kind, variance):
        solve = functools.partial(_solve_chunk, kind, nodes)
        e[cells], chi_c[cells] = over_cells(solve, [weight_var[cells], variance[cells]])
    return e, chi_c


@exact_float64
def _solve_chunk(kind, nodes, weight_var, variance):
    return jax.tree.map(np.asarray, _solved_cells(kind, nodes, weight_var, variance))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _solved_cells(kind, nodes, weight_var, variance):
    def cell(pair_of):
        weight_var, q = pair_of
        e = correlation_deficit(kind, weight_var, q, nodes)
        return e, weight_var * pair.slope_product(kind, q, q, e, nodes)

    return jax.lax.map(cell, (weight_var, variance))


# ---------------------------------------------------------------------------- the record


def _assemble(kind, weight_var, bias_var, tolerance, status, slopes, e, chi_c, xp) -> FixedPoint:
    """Every field from the two roots; ``xp`` is numpy or jax.numpy."""
    q, chi_1, chi_q, _ = slopes
    correlation_status = _correlation_status(kind, weight_var, bias_var, status, chi_1, xp)
    known = correlation_status == CorrelationStatus.CONVERGED
    nan = xp.full_like(q, xp.nan)
    gap = xp.abs(1 - chi_q)
    return FixedPoint(
        variance=q,
        correlation=xp.where(known, _snapped(1 - e, xp), nan),
        one_minus_correlation=xp.where(known, e, nan),
        chi_1=chi_1,
        chi_q=chi_q,
        chi_c=xp.where(correlation_status == CorrelationStatus.UNDEFINED, nan, chi_c),
        depth_scale_variance=depth_scale(chi_q, xp),
        depth_scale_correlation=depth_scale(
            xp.where(correlation_status == CorrelationStatus.UNDEFINED, nan, chi_c), xp
        ),
        depth_scale_gradient=depth_scale(chi_1, xp),
        phase=_phase(chi_1, tolerance, xp),
        variance_status=xp.asarray(status).astype(xp.int32),
        correlation_status=correlation_status,
        condition=xp.where(gap > 0, 1 / xp.where(gap > 0, gap, 1.0), xp.inf),
    )


def _snapped(c, xp):
    """C with the rounding of 1 - ε at an exact 0 removed (odd φ without biases)."""
    return xp.where(xp.abs(c) < 8 * xp.finfo(c.dtype).eps, 0.0, c).astype(c.dtype)


def _correlation_status(kind, weight_var, bias_var, status, chi_1, xp):
    """Where q tends to 0, to infinity or stays put, slopes that are equal leave c where it is."""
    ends = limits(kind)
    slopes = kind.homogeneous_slopes
    straight = slopes is not None and slopes[0] == slopes[1]
    code = xp.full(xp.shape(chi_1), CorrelationStatus.CONVERGED, dtype=xp.int32)
    for where, (left, right) in (
        (status == VarianceStatus.ZERO, ends.slopes_zero),
        (status == VarianceStatus.UNBOUNDED, ends.slopes_infinity),
    ):
        defined = np.isfinite([left, right]).all() and (left, right) != (0.0, 0.0)
        kept = CorrelationStatus.DEPENDS_ON_START if left == right else CorrelationStatus.CONVERGED
        code = xp.where(where, int(kept if defined else CorrelationStatus.UNDEFINED), code)
    if straight:
        stays = status == VarianceStatus.CONTINUUM
        code = xp.where(stays, int(CorrelationStatus.DEPENDS_ON_START), code)
    silent = (weight_var == 0) & (bias_var == 0)
    unknown = (status == VarianceStatus.NOT_CONVERGED) | (status == VarianceStatus.UNRESOLVED)
    lost = silent | unknown | xp.isnan(chi_1)
    return xp.where(lost, int(CorrelationStatus.UNDEFINED), code).astype(xp.int32)


def depth_scale(chi, xp=np):
    """ξ = -1/ln χ: signed, inf at χ = 1, 0 where χ <= 0, nan where χ is nan."""
    positive = chi > 0
    log = xp.log(xp.where(positive, chi, 0.5))
    one = xp.abs(log) <= 4 * np.finfo(chi.dtype).eps
    scale = xp.where(one, xp.inf, -1 / xp.where(one, 1.0, log))
    return xp.where(positive, scale, xp.where(xp.isnan(chi), xp.nan, 0.0)).astype(chi.dtype)


def _phase(chi_1, tolerance, xp):
    ordered_or_chaotic = xp.where(chi_1 < 1, int(Phase.ORDERED), int(Phase.CHAOTIC))
    phase = xp.where(xp.abs(chi_1 - 1) <= tolerance, int(Phase.CRITICAL), ordered_or_chaotic)
    return xp.where(xp.isnan(chi_1), int(Phase.UNDEFINED), phase).astype(xp.int32)
