"""What a measurement is: per-layer statistics over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import jax
import numpy as np
from jaxtyping import Float, Int

from sigprop.propagation.passes import Passed

__all__ = ["Measurement", "MeasurementStatus", "SeedReadings", "over_seeds", "seed_readings"]

PerLayer = Float[np.ndarray, "*grid layer"]
PerCell = Float[np.ndarray, "*grid"]


class MeasurementStatus(IntEnum):
    """Whether readings mean what their names say."""

    OK = 0
    DEGENERATE = 1
    """Batch norm over three inputs or fewer: 1 and 2 become constants, and with 3 the mean of the
    squared gradient is infinite."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Measurement:
    """Means over seeds (and inputs, where a quantity belongs to one) with standard errors.

    Leading axes are those of the grid of (weight_var, bias_var); the last axis of a per-layer field
    is the layer, index 0 being z¹. Float64 NumPy arrays; with one seed every ``_stderr`` and
    ``log_gradient_variance`` are nan. A "gradient" is the natural log of a squared norm. From a
    cell's first non-finite layer on, readings are nan (variance: inf or nan).

    Attributes
    ----------
    variance, log_variance
        q^l = |z^l|²/width, and the mean of its log; for homogeneous activations the log is right
        even where q^l is beyond any floating-point number.
    correlation, one_minus_correlation
        c^l between inputs 0 and 1, and 1 − c^l from a difference of unit vectors, so that it keeps
        its digits as c tends to 1. nan with a single input or a vanished signal.
    log_gradient_z
        log |∂⟨u_a, z^L_a⟩/∂z^l_a|², u_a ~ N(0, I) drawn for each input.
    log_gradient_w, log_gradient_b
        log of the squared norm of the gradient of Σ_a ⟨u_a, z^L_a⟩ with respect to W^l (as it
        acts, in either parameterisation) and b^l. -inf for a bias that batch norm takes out again.
    gradient_rate
        (log g²_1 − log g²_L)/(L − 1) of ``log_gradient_z``; L is the last finite layer. nan where
        there are fewer than two.
    log_gradient_variance
        Variance over seeds of log g²_1 − log g²_L of one input, averaged over inputs.
    diverged_at_layer
        First layer, counted from 1, that is not finite in some seed; 0 if there is none.
    status
        `MeasurementStatus`.
    """

    variance: PerLayer
    variance_stderr: PerLayer
    log_variance: PerLayer
    log_variance_stderr: PerLayer
    correlation: PerLayer
    correlation_stderr: PerLayer
    one_minus_correlation: PerLayer
    one_minus_correlation_stderr: PerLayer
    log_gradient_z: PerLayer
    log_gradient_z_stderr: PerLayer
    log_gradient_w: PerLayer
    log_gradient_w_stderr: PerLayer
    log_gradient_b: PerLayer
    log_gradient_b_stderr: PerLayer
    gradient_rate: PerCell
    gradient_rate_stderr: PerCell
    log_gradient_variance: PerCell
    diverged_at_layer: Int[np.ndarray, "*grid"]
    status: Int[np.ndarray, "*grid"]


@dataclass(frozen=True)
class SeedReadings:
    """What one seed shows, averaged over inputs, in the precision it was measured in."""

    log_variance: Float[np.ndarray, "cells layer"]
    variance: Float[np.ndarray, "cells layer"]
    correlation: Float[np.ndarray, "cells layer"]
    one_minus_correlation: Float[np.ndarray, "cells layer"]
    log_gradient_z: Float[np.ndarray, "cells layer"]
    log_gradient_w: Float[np.ndarray, "cells layer"]
    log_gradient_b: Float[np.ndarray, "cells layer"]
    gradient_rate: Float[np.ndarray, " cells"]
    log_growth: Float[np.ndarray, "cells inputs"]  # log g²_1 − log g²_L
    finite_layers: Int[np.ndarray, " cells"]


_PER_LAYER = (
    "variance", "log_variance", "correlation", "one_minus_correlation",
    "log_gradient_z", "log_gradient_w", "log_gradient_b",
)  # fmt: skip


def seed_readings(passed: Passed, cells: int) -> SeedReadings:
    """The cells without the padding; averages over inputs."""
    by_cell = {name: np.asarray(v)[:cells] for name, v in passed._asdict().items()}
    with np.errstate(all="ignore"):  # infinite and undefined readings are data
        log_variance = by_cell["log_variance"].astype(np.float64)
        of_z = by_cell["log_gradient_z"]
        growth = _log_growth(of_z, by_cell["finite_layers"])
        layers = np.maximum(by_cell["finite_layers"] - 1, 1)
        return SeedReadings(
            log_variance=log_variance.mean(-1),
            variance=np.exp(log_variance).mean(-1),
            correlation=1.0 - by_cell["one_minus_correlation"].astype(np.float64),
            one_minus_correlation=by_cell["one_minus_correlation"],
            log_gradient_z=of_z.mean(-1, dtype=np.float64),
            log_gradient_w=by_cell["log_gradient_w"],
            log_gradient_b=by_cell["log_gradient_b"],
            gradient_rate=growth.mean(-1) / layers,
            log_growth=growth,
            finite_layers=by_cell["finite_layers"],
        )


def _log_growth(
    of_z: Float[np.ndarray, "cells layer inputs"], finite_layers: Int[np.ndarray, " cells"]
) -> Float[np.ndarray, "cells inputs"]:
    last = np.clip(finite_layers - 1, 0, None)[:, None, None]
    at_last = np.take_along_axis(of_z, last, axis=1)[:, 0].astype(np.float64)
    growth = of_z[:, 0].astype(np.float64) - at_last
    return np.where(finite_layers[:, None] > 1, growth, np.nan)


def over_seeds(
    seeds: Sequence[SeedReadings], grid_shape: tuple[int, ...], status: MeasurementStatus
) -> Measurement:
    """Means and standard errors over seeds, cells laid out as the grid."""
    stacked = {
        name: np.stack([np.asarray(getattr(s, name), np.float64) for s in seeds])
        for name in (*_PER_LAYER, "gradient_rate", "log_growth")
    }
    with np.errstate(all="ignore"):
        found = {}
        for name in (*_PER_LAYER, "gradient_rate"):
            found[name] = stacked[name].mean(0)
            found[f"{name}_stderr"] = np.sqrt(_variance(stacked[name]) / len(seeds))
        found["log_gradient_variance"] = _variance(stacked["log_growth"]).mean(-1)
    found["diverged_at_layer"] = _diverged(np.stack([s.finite_layers for s in seeds]), seeds)
    found["status"] = np.full_like(found["diverged_at_layer"], status)
    return Measurement(**{k: v.reshape(grid_shape + v.shape[1:]) for k, v in found.items()})


def _variance(values: np.ndarray) -> np.ndarray:
    if len(values) < 2:
        return np.full(values.shape[1:], np.nan)
    return values.var(0, ddof=1)


def _diverged(finite_layers: np.ndarray, seeds: Sequence[SeedReadings]) -> np.ndarray:
    earliest, depth = finite_layers.min(0).astype(np.int64), seeds[0].variance.shape[-1]
    return np.where(earliest == depth, 0, earliest + 1)
