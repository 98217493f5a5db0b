"""How evenly a deep network stretches its inputs, over (weight_var, bias_var)."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sigprop import activations, architecture, theory
from sigprop.jacobian import one_blas_thread
from sigprop.networks.initialisers import unit_bias, unit_weight
from sigprop.studies import conditioning_map_outputs as outputs
from sigprop.studies import infinite_width, plane_theory, spectrum_statistics, square_jacobians
from sigprop.studies.base_study import Arrays, Study, positive_if_given, whole
from sigprop.studies.spectrum_prediction import moments_along
from sigprop.studies.variables import Variable

__all__ = ["ConditioningMap"]


@dataclass(frozen=True)
class ConditioningMap(Study):
    """Mean and spread of the squared singular values of ∂z^{depth+1}/∂z¹, told and found.

    Handed to `sigprop.sweeps.run` with a grid of ``activation``, ``initialiser`` (strings),
    ``weight_var`` and ``bias_var`` (numbers). The spread is Var[λ]/E[λ]², 0 for an isometry. All
    cells share each seed's unit draw of the weights, so neighbouring cells err together. Networks
    of half the width are measured too: r(∞) = 2 r(N) - r(N/2) up to 1/N².

    Parameters
    ----------
    depth
        Square layers spanned, >= 1.
    width
        Units a layer, >= 4.
    seeds
        Networks, each with an input of its own, >= 2.
    seed
        Decides the draws and which digits are shown.
    input_file
        A ``.npy`` of input pairs, the first of each is shown; digit images if None.
    input_second_moment
        |x|²/N₀ > 0 that inputs are scaled to; None: as much as makes q¹ the variance that layers
        keep (1 where there is none).

    Raises
    ------
    ValueError
        For a value out of range or unusable inputs.

    Examples
    --------
    >>> ConditioningMap(depth=8, width=32).variables["relative_variance_measured"].axes
    ('activation', 'initialiser', 'weight_var', 'bias_var')
    """

    depth: int = whole(16, least=1)
    width: int = whole(128, least=4)
    seeds: int = whole(8, least=2)
    seed: int = whole(0, least=0)
    input_file: str | Path | None = None
    input_second_moment: float | None = positive_if_given()

    name = "conditioning_map"
    version = 2
    title = "conditioning of deep Jacobians: free probability and measured networks"
    static_axes = ("activation", "initialiser")
    traced_axes = ("weight_var", "bias_var")
    told_axes = ("activation", "initialiser", "weight_var", "bias_var")
    meanings = plane_theory.LINE_MEANINGS
    file_field = "input_file"

    def __post_init__(self):
        super().__post_init__()
        if self.input_file is not None:
            self.images  # noqa: B018  # raises for inputs that cannot be used

    @functools.cached_property
    def images(self) -> np.ndarray:
        """The inputs, (seeds, N₀), at |x|²/N₀ = 1."""
        return square_jacobians.images(self.seeds, seed=self.seed, input_file=self.input_file)

    @property
    def seconds_per_cell(self) -> float:
        """Decompositions and products of every seed, on two cores."""
        return self.seeds * self.width**3 * (4e-10 + 2e-11 * self.depth)

    @property
    def bytes_per_cell(self) -> int:
        """The product, its successor, a copy for the decomposition, and activations."""
        return 20 * self.width**2

    @property
    def coordinates(self) -> dict[str, np.ndarray]:
        """Along the lines of the phase diagram."""
        return plane_theory.LINE_COORDINATES

    @property
    def variables(self) -> dict[str, Variable]:
        """Every output."""
        return outputs.variables()

    def attributes(self) -> dict[str, Any]:
        """Also which names stand for others."""
        return super().attributes() | {"same_as": plane_theory.same_as()}

    def told(self, static: Mapping[str, str], cells: Mapping[str, Any]) -> Arrays:
        """Moments of the spectrum along the trajectory, and the lines of the phase diagram."""
        activation, start = static["activation"], self._start(static, cells)
        fixed = theory.fixed_point(activation, variance0=start, **cells)
        path = theory.propagate(activation, depth=self.depth, variance0=start, **cells)
        log_mean, relative = moments_along(
            activation,
            np.asarray(path.chi),
            np.asarray(path.variance),
            cells["weight_var"][:, None],
            square_jacobians.ensemble_of(static["initialiser"]),
        )
        return {
            "chi_1_theory": np.asarray(fixed.chi_1),
            "variance_status_theory": np.asarray(fixed.variance_status),
            "log_mean_square_theory": log_mean[:, -1],
            "relative_variance_theory": relative[:, -1],
            **plane_theory.lines(activation, self.input_second_moment or 1.0),
        }

    def _start(self, static: Mapping[str, str], cells: Mapping[str, Any]) -> np.ndarray:
        return square_jacobians.start_variance(
            static["activation"], cells["weight_var"], cells["bias_var"], self.input_second_moment
        )

    def measured(self, static: Mapping[str, str], cells: Mapping[str, Any], told: Arrays) -> Arrays:
        """Two widths, what the spread tends to, and how far that is from theory."""
        expected, start = told["relative_variance_theory"], self._start(static, cells)
        wide, narrow = (
            self._statistics(static, cells["weight_var"], cells["bias_var"], start, width)
            for width in (self.width, self.width // 2)
        )
        spread, spread_stderr = (f"relative_variance_{kind}" for kind in ("measured", "stderr"))
        limit, stderr = infinite_width.extrapolated(
            (self.width, self.width // 2),
            (wide[spread], narrow[spread]),
            (wide[spread_stderr], narrow[spread_stderr]),
        )
        off = infinite_width.standard_errors_off
        return wide | {
            "relative_variance_half_width_measured": narrow[spread],
            "relative_variance_half_width_stderr": narrow[spread_stderr],
            "relative_variance_infinite_width_measured": limit,
            "relative_variance_infinite_width_stderr": stderr,
            "disagreement_raw": off(wide[spread], wide[spread_stderr], expected),
            "disagreement_corrected": off(limit, stderr, expected),
        }

    def _statistics(self, static, weight_var, bias_var, start, width) -> dict[str, np.ndarray]:
        """Mean over seeds and standard error of every statistic of the spectrum."""
        kind = activations.get(static["activation"])
        distribution = architecture.distribution_of(static["initialiser"])
        second_moment = np.maximum(start - bias_var, 0) / np.where(weight_var > 0, weight_var, 1)
        cells = [np.asarray(a, np.float32) for a in (weight_var, bias_var, second_moment)]
        logs = []
        for seed, image in enumerate(self.images.astype(np.float32)):
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(self.seed), width), seed)
            with one_blas_thread():
                product, log_scale = jax.block_until_ready(
                    _jacobians(kind, distribution, self.depth, width, key, image, *cells)
                )
                singular = np.asarray(_singular_values(product), np.float64)
            with np.errstate(divide="ignore"):
                logs.append(np.log(singular) + np.asarray(log_scale, np.float64)[:, None])
        found = spectrum_statistics.statistics(np.stack(logs, axis=1))
        return spectrum_statistics.over_seeds({name: found[name] for name in outputs.STATISTICS})


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _jacobians(kind, distribution, depth, width, key, image, weight_var, bias_var, second_moment):
    """∂z^{depth+1}/∂z¹ of every cell as (product, ln of its factor); drawn as `MLP` draws.

    A weight matrix meets the products of all cells in one multiply, and is not kept.
    """
    scale = jnp.sqrt(weight_var / width)[:, None]
    bias_scale = jnp.sqrt(bias_var)[:, None]
    first = unit_weight(key, 1, distribution, width, image.size)
    reach = jnp.sqrt(weight_var / image.size * second_moment)[:, None]
    z = reach * jnp.matmul(first, image, precision="highest")
    z = z + bias_scale * unit_bias(key, 1, width)

    def layer(state, number):
        z, product, log_scale = state
        weight = unit_weight(key, number, distribution, width, width)
        product = kind.derivative(z)[:, :, None] * product
        product = jnp.matmul(weight, product, precision="highest") * scale[:, :, None]
        size = jnp.max(jnp.abs(product), axis=(1, 2))
        size = jnp.where(size > 0, size, 1.0)
        z = scale * jnp.matmul(kind.fn(z), weight.T, precision="highest")
        z = z + bias_scale * unit_bias(key, number, width)
        return (z, product / size[:, None, None], log_scale + jnp.log(size)), None

    start = jnp.broadcast_to(jnp.eye(width), (z.shape[0], width, width))
    state = (z, start, jnp.zeros(z.shape[0]))
    (_, product, log_scale), _ = lax.scan(layer, state, jnp.arange(2, depth + 2))
    return product, log_scale


@jax.jit
def _singular_values(matrices):
    return jnp.linalg.svdvals(matrices)
