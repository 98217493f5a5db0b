"""How evenly a deep network stretches its inputs, over (weight_var, bias_var)."""

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sigprop import activations, architecture, theory
from sigprop._checks import check_non_negative, check_whole_number
from sigprop.jacobian import one_blas_thread
from sigprop.networks.initialisers import unit_bias, unit_weight
from sigprop.studies import conditioning_map_outputs as outputs
from sigprop.studies import finite_width, prediction, spectrum_statistics, square_jacobians
from sigprop.studies.spectrum_prediction import moments_along
from sigprop.studies.variables import Variable

__all__ = ["ConditioningMap"]


@dataclass(frozen=True)
class ConditioningMap:
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

    depth: int = 16
    width: int = 128
    seeds: int = 8
    seed: int = 0
    input_file: str | os.PathLike | None = None
    input_second_moment: float | None = None

    name = "conditioning_map"
    version = 2
    static_axes = ("activation", "initialiser")
    traced_axes = ("weight_var", "bias_var")
    cell_multiple = 1

    def __post_init__(self):
        for name, minimum in {"depth": 1, "width": 4, "seeds": 2, "seed": 0}.items():
            check_whole_number(name, getattr(self, name), minimum)
        moment = self.input_second_moment
        if moment is not None and not (np.isfinite(moment) and moment > 0):
            raise ValueError(f"input_second_moment must be > 0 and finite, got {moment}")
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
        return prediction.LINE_COORDINATES

    @property
    def axis_attrs(self) -> dict[str, dict[str, str]]:
        """What the axes mean."""
        return outputs.AXES

    @property
    def variables(self) -> dict[str, Variable]:
        """Every output."""
        return outputs.variables()

    def check(self, grid: Mapping[str, Any]) -> None:
        """Raise ValueError for names or variances that no network can have."""
        for name in grid["activation"]:
            activations.get(name)
        for name in grid["initialiser"]:
            architecture.distribution_of(name)
        for axis in self.traced_axes:
            check_non_negative(axis, grid[axis])

    def config(self) -> dict[str, Any]:
        """What decides the results; inputs of the user's by their content, not their place."""
        names = ("depth", "width", "seeds", "seed", "input_second_moment")
        inputs = {"inputs": square_jacobians.content_of(self.input_file)}
        return {name: getattr(self, name) for name in names} | inputs

    def attributes(self) -> dict[str, Any]:
        """Settings a reader wants at hand, and the machine."""
        device = jax.devices()[0]
        names = ("depth", "width", "seeds", "seed")
        return {name: getattr(self, name) for name in names} | {
            "same_as": prediction.same_as(),
            "title": "conditioning of deep Jacobians: free probability and measured networks",
            "device": f"{len(jax.devices())} x {device.platform} ({device.device_kind})",
            "matmul_precision": "highest",
            "dtype": "float32",
        }

    def compute(
        self, static: Mapping[str, str], cells: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Prediction, measurement and their disagreement at every cell."""
        activation, weight_var, bias_var = static["activation"], *cells.values()
        start = square_jacobians.start_variance(
            activation, weight_var, bias_var, self.input_second_moment
        )
        told = self._predicted(static, weight_var, bias_var, start)
        fixed = theory.fixed_point(
            activation, weight_var=weight_var, bias_var=bias_var, variance0=start
        )
        own = 1.0 if self.input_second_moment is None else self.input_second_moment
        return {
            "chi_1_theory": np.asarray(fixed.chi_1),
            "variance_status_theory": np.asarray(fixed.variance_status),
            **prediction.lines(activation, own, len(bias_var)),
            **told,
            **self._measured(static, weight_var, bias_var, start, told["relative_variance_theory"]),
        }

    def _predicted(self, static, weight_var, bias_var, start) -> dict[str, np.ndarray]:
        path = theory.propagate(
            static["activation"],
            depth=self.depth,
            weight_var=weight_var,
            bias_var=bias_var,
            variance0=start,
        )
        ensemble = square_jacobians.ensemble_of(static["initialiser"])
        log_mean, relative = moments_along(
            static["activation"],
            np.asarray(path.chi),
            np.asarray(path.variance),
            weight_var[:, None],
            ensemble,
        )
        return {
            "log_mean_square_theory": log_mean[:, -1],
            "relative_variance_theory": relative[:, -1],
        }

    def _measured(self, static, weight_var, bias_var, start, expected) -> dict[str, np.ndarray]:
        wide, narrow = (
            self._statistics(static, weight_var, bias_var, start, width)
            for width in (self.width, self.width // 2)
        )
        spread, spread_stderr = (f"relative_variance_{kind}" for kind in ("measured", "stderr"))
        limit, stderr = finite_width.extrapolated(
            (self.width, self.width // 2),
            (wide[spread], narrow[spread]),
            (wide[spread_stderr], narrow[spread_stderr]),
        )
        off = finite_width.standard_errors_off
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
