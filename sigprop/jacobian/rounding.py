"""How rounding made along a chain moves the scales of the product, to first order.

With the frame off by a small matrix E, ``Q (I + E) diag(s) T``, the part of E that is a rotation K
goes on to the next factor as ``R K R⁻¹`` and the upper triangular rest moves the scales (its
diagonal) and the right part. Whether K dies out (scales that separate) or grows (scales that come
back together, Jordan blocks, a product followed by its inverse) depends on the whole chain, so a
few random realisations of the rounding are carried along with the product. They estimate the error
that was made; they do not bound it.
"""

import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32

from sigprop.jacobian.scales import Scales
from sigprop.jacobian.triangular import EPSILON, Triangularised

__all__ = ["Rounding", "carried", "no_rounding", "reordered", "with_right_error"]

_SAMPLES = 4  # realisations where they cost little
_SMALL = 64  # ... that is, up to this size; one beyond
_NEIGHBOURS = 2  # scales on either side that lend their error, in case one sample is small by luck
_HUGE = 1e30  # errors beyond it mean the same; likewise those below the next, in units of eps
_NOTHING = 1e-12


@dataclass(frozen=True)
class Rounding:
    """``tilt[k]`` the rotation of the frame, ``drift[k]`` that of the log scales, over eps.

    ``local_variance`` is what each step's own rounding adds to the log scales, ``right_variance``
    that of a relative error from the right; ``steps`` numbers the random draws.
    """

    tilt: Float32[np.ndarray, "samples rank rank"]
    drift: Float[np.ndarray, "samples rank"]
    local_variance: Float[np.ndarray, " rank"]
    right_variance: float
    steps: int

    @property
    def variance(self) -> Float[np.ndarray, " rank"]:
        """Of every log scale, from all causes."""
        largest = np.max(np.square(EPSILON * self.drift), axis=0)
        padded = np.pad(largest, _NEIGHBOURS)
        shifts = range(2 * _NEIGHBOURS + 1)
        lent = np.max([padded[k : k + largest.size] for k in shifts], axis=0)
        return lent + self.local_variance + self.right_variance


def no_rounding(size: int) -> Rounding:
    """Nothing has happened yet."""
    samples = _SAMPLES if size <= _SMALL else 1
    tilt = np.zeros((samples, size, size), np.float32)
    drift = np.zeros((samples, size))
    return Rounding(tilt, drift, np.zeros(size), 0.0, 0)


def reordered(rounding: Rounding, order) -> Rounding:
    """The same with the scales in another order, or only some of them."""
    tilt = rounding.tilt[:, order][:, :, order]
    drift, local = rounding.drift[:, order], rounding.local_variance[order]
    return Rounding(tilt, drift, local, rounding.right_variance, rounding.steps)


def with_right_error(rounding: Rounding, variance: float) -> Rounding:
    """The same with more relative error from the right."""
    total = rounding.right_variance + variance
    return Rounding(rounding.tilt, rounding.drift, rounding.local_variance, total, rounding.steps)


def carried(rounding: Rounding, step: Triangularised, scales: Scales) -> Rounding:
    """After one more factor, which leaves the scales at ``scales``."""
    rank = len(step.diagonal)
    permuted = bool(np.any(step.order[1:] < step.order[:-1]))
    if permuted:
        rounding = reordered(rounding, step.order)
    with np.errstate(over="ignore", invalid="ignore"):
        error = _through(rounding, step, rank)
        lower = error * _strictly_lower(rank)
        tilt = lower - lower.transpose(0, 2, 1)
        drift = rounding.drift[:, :rank] + np.einsum("kii->ki", error)
        right = 0.0
        if permuted or rank <= _SMALL:
            beside = (error - tilt) * _strictly_lower(rank).T * scales.rough_ratios(rank)
            right = float(np.square(EPSILON * np.max(np.abs(beside), initial=0.0)))
        local = rounding.local_variance[:rank] + np.square(step.relative_error)
    total = rounding.right_variance + right
    return Rounding(tilt, np.clip(drift, -_HUGE, _HUGE), local, total, rounding.steps + 1)


def _through(rounding, step, rank):
    """``R (tilt + fresh rounding) R⁻¹`` over eps, as it acts on the new frame.

    One digit of it matters: in float32, and cut off above what those numbers can be denormal from.
    """
    unit, inverse, fresh = (
        np.asarray(part, np.float32)
        for part in (step.bare_unit, step.inverse, step.rounding / EPSILON)
    )
    error = (unit @ rounding.tilt)[:, :, :rank]
    error += fresh[:, None] * _noise(rounding.steps, (len(rounding.tilt), rank, rank))
    error = error @ inverse
    error *= step.diagonal.rough_ratios(rank).T
    np.clip(error, -_HUGE, _HUGE, out=error)
    error[np.abs(error) < _NOTHING] = 0.0
    return np.nan_to_num(error, copy=False, nan=_HUGE)


def _noise(seed: int, shape) -> Float[np.ndarray, "..."]:
    """Uniform numbers of mean 0 and variance 1, the same for the same step of any chain."""
    return (np.random.default_rng(seed).random(shape, np.float32) - 0.5) * np.float32(12.0**0.5)


@functools.lru_cache(maxsize=8)
def _strictly_lower(size: int) -> Bool[np.ndarray, "size size"]:
    return np.tri(size, k=-1, dtype=bool)
