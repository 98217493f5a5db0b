"""Singular values of deep Jacobians: free probability beside measured networks."""

import functools
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from sigprop import theory
from sigprop.jacobian import cumulative_log_singular_values
from sigprop.studies import jacobian_spectrum_outputs as outputs
from sigprop.studies import plane_theory, spectrum_statistics, square_jacobians
from sigprop.studies.base_study import Arrays, Study, positive_if_given, whole
from sigprop.studies.spectrum_prediction import SpectrumPrediction
from sigprop.studies.square_jacobians import SquareNetwork
from sigprop.studies.variables import Variable

__all__ = ["JacobianSpectrum"]

_DEEP_ROWS = 48  # layers at which the deep network's spectrum is kept
_FINER = 2  # of the predicted curve in every bin


@dataclass(frozen=True)
class JacobianSpectrum(Study):
    """Spectra over depth, activation and initialiser, as predicted and as measured.

    Handed to `sigprop.sweeps.run` with a grid of ``activation``, ``initialiser`` (strings) and
    ``bias_var`` (numbers). The Jacobian is ∂z^{k+1}/∂z¹ over k square layers
    (`studies.square_jacobians`); the input layer is reported apart.

    Parameters
    ----------
    depth
        Square layers of the longest span, >= 4.
    width
        Units a layer, >= 4.
    seeds
        Networks, each with an input of its own, >= 2.
    seed
        Decides the draws and which digits are shown.
    weight_var
        Of every network, > 0; None: each activation's critical one at each bias_var.
    bins
        Of the histograms, >= 2.
    deep_depth
        Layers of the one network whose spectrum is followed much deeper, >= 1.
    deep_width
        Its units a layer, >= 2.
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
    >>> study = JacobianSpectrum(depth=32, width=64)
    >>> study.coordinates["depth"].tolist(), study.coordinates["histogram_depth"].tolist()
    ([1, 2, 3, 4, 6, 8, 11, 16, 23, 32], [2, 8, 32])
    """

    depth: int = whole(32, least=4)
    width: int = whole(512, least=4)
    seeds: int = whole(8, least=2)
    seed: int = whole(0, least=0)
    weight_var: float | None = positive_if_given()
    bins: int = whole(32, least=2)
    deep_depth: int = whole(1000, least=1)
    deep_width: int = whole(128, least=2)
    input_file: str | Path | None = None
    input_second_moment: float | None = positive_if_given()

    name = "jacobian_spectrum"
    version = 1
    title = "singular values of deep Jacobians: free probability and measured networks"
    static_axes = ("activation", "initialiser")
    traced_axes = ("bias_var",)
    meanings = outputs.MEANINGS
    dtype = "networks in float32, products of their layers in float64"
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
    def bytes_per_cell(self) -> int:
        """The layers of one network in float32 on JAX's side and on NumPy's."""
        shallow, deep = self.depth * self.width**2, self.deep_depth * self.deep_width**2
        return 12 * max(shallow, deep)

    @property
    def coordinates(self) -> dict[str, np.ndarray]:
        """Depths about half an octave apart; every other dimension counts from 0."""
        steps = np.arange(2 * np.log2(self.depth) + 1) / 2
        shown = np.maximum(np.round(self.depth / np.asarray([16, 4, 1])).astype(int), 2)
        depths = np.unique([1, *np.round(self.depth / 2**steps).astype(int), *shown])
        rows = np.geomspace(1, self.deep_depth, min(_DEEP_ROWS, self.deep_depth))
        entries = self.images.shape[1]
        return {
            "depth": depths,
            "histogram_depth": np.unique(shown),
            "layer": np.unique(np.round(rows).astype(int)),
            "seed": np.arange(self.seeds),
            "singular_index": np.arange(self.width),
            "deep_index": np.arange(self.deep_width),
            "input_index": np.arange(min(entries, self.width)),
            "bin": np.arange(self.bins),
            "edge": np.arange(self.bins + 1),
            "point": np.arange(self.bins * _FINER + 1),
        }

    @property
    def variables(self) -> dict[str, Variable]:
        """Every output."""
        return outputs.variables()

    def check(self, grid: Mapping[str, Any]) -> None:
        """Raise ValueError for networks that cannot be, or have no critical weight variance."""
        super().check(grid)
        for name, bias_var in itertools.product(grid["activation"], grid["bias_var"]):
            self._weight_var(name, float(bias_var))

    def _weight_var(self, activation: str, bias_var: float) -> float:
        if self.weight_var is not None:
            return self.weight_var
        critical = float(theory.critical_weight_var(activation, bias_var=bias_var).weight_var)
        if not np.isfinite(critical):
            raise ValueError(
                f"weight_var must be given for {activation}, which has no critical one at "
                f"bias_var {bias_var:g}"
            )
        return critical

    def attributes(self) -> dict[str, Any]:
        """Also which names stand for others."""
        return super().attributes() | {"same_as": plane_theory.same_as()}

    def measured(self, static: Mapping[str, str], cells: Mapping[str, Any], told: Arrays) -> Arrays:
        """Prediction and measurement at every bias_var: bins and curves depend on both."""
        rows = [self._cell(static, float(bias_var)) for bias_var in cells["bias_var"]]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def _cell(self, static: Mapping[str, str], bias_var: float) -> dict[str, Any]:
        weight_var = self._weight_var(static["activation"], bias_var)
        start = square_jacobians.start_variance(
            static["activation"],
            np.asarray(weight_var),
            np.asarray(bias_var),
            self.input_second_moment,
        )
        network = SquareNetwork(
            **static,
            layers=self.depth,
            width=self.width,
            weight_var=weight_var,
            bias_var=bias_var,
            variance0=float(start),
        )
        predicted = self._predicted(network)
        spectra, input_layer = self._spectra(network)
        return {
            "weight_var": np.asarray(weight_var),
            "variance0_theory": predicted.variances[0],
            "variance_last_theory": predicted.variances[-1],
            "log_singular_value_measured": spectra,
            "input_layer_log_singular_value_measured": input_layer,
            **self._growth(predicted, spectra),
            **self._histograms(predicted, spectra),
            **self._deep(network),
        }

    def _spectra(
        self, network: SquareNetwork
    ) -> tuple[Float[np.ndarray, "depth seed n"], Float[np.ndarray, "seed m"]]:
        """Logarithms at every depth of ``depth``, for each seed, and those of the input layer."""
        spectra, first = [], []
        for seed in range(self.seeds):
            key = jax.random.fold_in(jax.random.key(self.seed), seed)
            layers, weight = square_jacobians.factors_of(network, self.images[seed], key)
            spectra.append(cumulative_log_singular_values(layers, self.coordinates["depth"]))
            first.append(np.log(np.linalg.svd(weight, compute_uv=False)))
        return np.stack(spectra, axis=1), np.stack(first)

    def _growth(
        self, predicted: SpectrumPrediction, spectra: Float[np.ndarray, "depth seed n"]
    ) -> dict[str, np.ndarray]:
        """Mean, relative variance, largest value and zeros at every depth."""
        depths = self.coordinates["depth"].tolist()
        log_mean, relative = (along[np.asarray(depths) - 1] for along in predicted.moments())
        told = {
            "log_mean_square_theory": log_mean,
            "relative_variance_theory": relative,
            "log_largest_theory": np.asarray([predicted.log_largest(k) for k in depths]),
            "zero_fraction_theory": np.asarray([predicted.zero_fraction(k) for k in depths]),
        }
        return told | spectrum_statistics.over_seeds(spectrum_statistics.statistics(spectra))

    def _histograms(
        self, predicted: SpectrumPrediction, spectra: Float[np.ndarray, "depth seed n"]
    ) -> dict[str, np.ndarray]:
        """Density of ln s at the depths to be shown, and the predicted curve."""
        shown = self.coordinates["histogram_depth"].tolist()
        rows = []
        for depth in shown:
            found = spectra[int(np.flatnonzero(self.coordinates["depth"] == depth)[0])]
            top = predicted.log_largest(depth)
            edges = spectrum_statistics.bin_edges(found, top, self.bins)
            density, stderr = spectrum_statistics.histogram(found, edges)
            points = np.linspace(edges[0], edges[-1], self.bins * _FINER + 1)
            rows.append((edges, density, stderr, points, predicted.density(depth, points)))
        names = ("edge_log_singular_value", "density_measured", "density_stderr")
        names += ("point_log_singular_value", "density_theory")
        return dict(zip(names, map(np.stack, zip(*rows))))

    def _deep(self, network: SquareNetwork) -> dict[str, np.ndarray]:
        """Log s of one narrower network over many layers, and its predicted growth at last."""
        deep = replace(network, layers=self.deep_depth, width=self.deep_width)
        key = jax.random.fold_in(jax.random.key(self.seed), self.seeds)
        layers, _ = square_jacobians.factors_of(deep, self.images[0], key)
        predicted = self._predicted(deep)
        fraction = (np.arange(self.deep_width) + 0.5) / self.deep_width
        return {
            "log_singular_value_deep_measured": np.asarray(
                cumulative_log_singular_values(layers, self.coordinates["layer"])
            ),
            "lyapunov_exponent_theory": predicted.lyapunov_exponents(fraction),
        }

    def _predicted(self, network: SquareNetwork) -> SpectrumPrediction:
        return SpectrumPrediction(
            network.activation, network.weight_var, network.variances(), network.ensemble
        )
