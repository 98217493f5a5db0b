"""Two entries of a batch of Gaussian numbers, less its mean and over its standard deviation.

z - mean has an independent length and direction, so y = (z - mean)/std is √B times a uniformly
random direction orthogonal to (1, ..., 1). Two of its entries, all that is ever needed, have an
explicit density: every moment is a one- or two-dimensional integral, exact at any B >= 4.
"""

import functools
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from sigprop._precision import exact_float64
from sigprop.activations import Activation
from sigprop.gaussian import single
from sigprop.gaussian.panels import legendre, resolving_cuts

__all__ = ["SMALLEST_BATCH", "BatchMoments", "moments"]

SMALLEST_BATCH = 4  # inputs; below, E[1/std²] is infinite
_MOST_LEVELS = 128  # panels of one entry; those of two multiply


@dataclass(frozen=True)
class BatchMoments:
    """E[φ_a²], E[φ_a φ_b], E[φ'_a²], E[φ'_a φ'_b], and the last two with y_a, y_b as factors."""

    square: float
    product: float
    slope: float
    slope_product: float
    pulled: float  # E[y_a² φ'_a²]
    pulled_product: float  # E[y_a φ'_a y_b φ'_b]
    batch: int | None


@functools.lru_cache(maxsize=256)
@exact_float64
def moments(activation: Activation, batch: int | None) -> BatchMoments:
    """The `BatchMoments` of an activation, for a batch of B >= 4 or (None) of very many."""
    if batch is None:
        return _many(activation)
    y_a, w_a, y_b, w_b = _two_entries(activation, batch)
    value_a, slope_a = (np.asarray(v) for v in activation.value_and_derivative(jnp.asarray(y_a)))
    value_b, slope_b = (np.asarray(v) for v in activation.value_and_derivative(jnp.asarray(y_b)))
    inner = lambda f_b: np.sum(w_b * f_b, axis=1)  # noqa: E731
    return BatchMoments(
        square=float(w_a @ value_a**2),
        product=float(w_a @ (value_a * inner(value_b))),
        slope=np.inf if activation.infinite_slope else float(w_a @ slope_a**2),
        slope_product=float(w_a @ (slope_a * inner(slope_b))),
        pulled=float(w_a @ (y_a * slope_a) ** 2),
        pulled_product=float(w_a @ (y_a * slope_a * inner(y_b * slope_b))),
        batch=batch,
    )


def _many(activation: Activation) -> BatchMoments:
    """Independent standard normals."""
    one = jnp.asarray(1.0)
    mean = single.monomial(activation, one, value=1)
    slope = single.slope_square(activation, one)
    square = single.mean_square(activation, one)
    # The rest is of order 1/B in what it enters.
    return BatchMoments(float(square), float(mean) ** 2, float(slope), 0.0, 0.0, 0.0, None)


def _two_entries(activation: Activation, batch: int):
    """Nodes and weights of the joint law of (y_a, y_b): y_b's, given y_a, along axis 1.

    In angles, y_a = r cos α with density ∝ sin^(B-3) α and, with cos β = -1/(B - 1) between the
    two entries' axes, y_b = r (cos β cos α + sin β sin α cos ψ) with density ∝ sin^(B-4) ψ; r² =
    B - 1. Panels are cut where φ bends and on the scale of its standard deviation, 1.
    """
    radius = np.sqrt(batch - 1.0)
    cos_beta = -1.0 / (batch - 1.0)
    sin_beta = np.sqrt(1 - cos_beta**2)
    felt = [c for c in resolving_cuts(activation) if abs(c) < radius]
    if len(felt) > _MOST_LEVELS:
        raise ValueError(
            f"activation must be resolved by {_MOST_LEVELS} panels for a batch of {batch}, "
            f"{activation.name} takes {len(felt)}"
        )
    levels = np.unique(np.concatenate([felt, np.linspace(-9.5, 9.5, 20)]))
    kinks = np.asarray(activation.kinks) / radius
    kinks = np.arccos(kinks[np.abs(kinks) < 1])
    beta = np.arccos(cos_beta)
    # Where y_b's reach, r cos(α ± β), meets a kink, what is integrated over ψ bends in α.
    bends = np.abs(np.add.outer([-beta, beta], np.concatenate([kinks, -kinks])).ravel())
    bends = np.concatenate([bends, 2 * np.pi - bends])
    alpha, w_a = _panels(_angles(levels / radius)[None], bends[None], batch - 3)
    alpha, w_a = alpha[0], w_a[0]
    reach, centre = sin_beta * np.sin(alpha)[:, None], cos_beta * np.cos(alpha)[:, None]
    cuts = _angles((levels / radius - centre) / np.maximum(reach, 1e-30))
    psi, w_b = _panels(cuts, cuts[:, :0], batch - 4)
    return radius * np.cos(alpha), w_a, radius * (centre + reach * np.cos(psi)), w_b


def _angles(cosines):
    return np.arccos(np.clip(cosines, -1.0, 1.0))


def _panels(cuts, more, power: int):
    """Gauss-Legendre between cuts of [0, π], row by row, under a density ∝ sin^power."""
    rows = len(cuts)
    ends = np.zeros((rows, 1)), np.full((rows, 1), np.pi)
    edges = np.sort(np.concatenate([*ends, cuts, np.clip(more, 0.0, np.pi)], axis=1), axis=1)
    nodes, weights = legendre()
    half = np.diff(edges, axis=1)[..., None] / 2
    angle = (edges[:, :-1, None] + half * (1 + nodes)).reshape(rows, -1)
    with np.errstate(divide="ignore"):
        density = np.exp(power * np.log(np.sin(angle))) if power else np.ones_like(angle)
    weight = (half * weights).reshape(rows, -1) * density
    return angle, weight / weight.sum(1, keepdims=True)
