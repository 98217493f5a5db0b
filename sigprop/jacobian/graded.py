"""A long product kept as orthonormal · scales · well-conditioned, one factor at a time.

The partial product is held as ``A_k ⋯ A_1 = frame · diag(s) · right`` with orthonormal columns in
``frame``, scales ``s`` of any range and a well-conditioned ``right`` with rows of unit norm: the
stratification of determinant quantum Monte Carlo (Loh et al. 1992; Bai, Lee, Li and Xu 2011,
"Stable solutions of linear systems involving long chain of matrix multiplications"). Rounding in
``right`` acts from outside the product, where it moves every singular value by a few relative ulps
only; rounding in ``frame`` acts like a small relative perturbation of one factor.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from sigprop.jacobian import lapack
from sigprop.jacobian.rounding import (
    Rounding,
    carried,
    no_rounding,
    reordered,
    with_right_error,
)
from sigprop.jacobian.scales import Scales
from sigprop.jacobian.triangular import (
    EPSILON,
    Triangularised,
    householder,
    inverse,
    triangularise,
)

__all__ = ["Graded", "absorb", "checked", "identity", "reconditioned", "separated"]

_SKEWNESS_ALLOWED = 30.0  # of the right part; beyond it the scales are worked out afresh


@dataclass(frozen=True)
class Graded:
    """``frame @ diag(scales) @ right``, and what rounding has done to it."""

    frame: Float[np.ndarray, "rows rank"]
    scales: Scales
    right: Float[np.ndarray, "rank columns"]
    rounding: Rounding

    def descending_order(self) -> Int[np.ndarray, " rank"]:
        """Positions of the scales, largest first."""
        return np.argsort(-self.scales.log2, kind="stable")

    def descending(self) -> "Graded":
        """The same product with its scales in descending order."""
        order = self.descending_order()
        return Graded(
            self.frame[:, order],
            self.scales[order],
            self.right[order],
            reordered(self.rounding, order),
        )


def identity(size: int) -> Graded:
    """The empty product."""
    return Graded(np.eye(size), Scales.of(np.ones(size)), np.eye(size), no_rounding(size))


def absorb(state: Graded, step: Triangularised) -> Graded:
    """The product with ``step``, a triangularised ``factor @ state.frame @ diag(state.scales)``."""
    kept = step.order[: len(step.diagonal)]
    right = step.unit @ state.right[step.order]
    norms = np.sqrt(np.einsum("ij,ij->i", right, right))
    right /= norms[:, None]
    scales = step.diagonal * state.scales[kept] * Scales.of(norms)
    return Graded(step.frame, scales, right, carried(state.rounding, step, scales))


def reconditioned(state: Graded, steps: int) -> Graded:
    """The same product with a nearly orthogonal right part, if ``steps`` made it skew.

    With ``right = lower @ rest`` (LQ), ``diag(s) lower = (diag(s) lower diag(1/s)) diag(s)``: one
    more factor to absorb, close to the identity where the scales differ.
    """
    state, skew = checked(state, steps)
    if not skew:
        return state
    factor, based = separated(state)
    step = triangularise(factor, np.linalg.norm(factor, axis=1), based.scales)
    return absorb(based, replace(step, frame=based.frame @ step.frame))


def checked(state: Graded, steps: int) -> tuple[Graded, bool]:
    """Book the rounding in the right part over the last ``steps``; whether it has become skew."""
    if state.right.size == 0:
        return state, False
    upper, _, _, _ = lapack.dgeqrf(state.right.T, lwork=64 * len(state.right) + 1)
    inverted = inverse(np.triu(upper[: len(state.right)]))
    skewness = float(np.sqrt(np.max(np.einsum("ij,ij->j", inverted, inverted))))
    # Nothing was rounded over no steps, however skew (0 times inf would be nan).
    booked = steps * np.square(EPSILON * skewness) if steps else 0.0
    rounding = with_right_error(state.rounding, booked)
    return replace(state, rounding=rounding), skewness > _SKEWNESS_ALLOWED


def separated(state: Graded) -> tuple[Float[np.ndarray, "rank rank"], Graded]:
    """``(factor, based)``: the product is ``based`` with ``factor`` between its frame and scales.

    ``based`` has descending scales and an orthonormal right part; ``factor`` is lower triangular,
    its entry (i, j) of the order of ``s_i / s_j``.
    """
    state = state.descending()
    orthonormal, upper = householder(state.right.T)
    factor = upper.T / state.scales.ratios(len(upper))
    return factor, replace(state, right=orthonormal.T)
