"""Singular values of deep Jacobians: measured networks under free-probability predictions.

Writes OUT/jacobian_spectrum.zarr, .png and .pdf (histograms of ln s under predicted densities, and
how the top edge and the variance grow with depth), OUT/deep_spectrum.png and .pdf (every singular
value of a network of 1000 layers), and OUT/conditioning_map.zarr, .png and .pdf (the spread of the
spectrum over the phase diagram). The same command again re-plots; other settings refuse to
overwrite. Each activation stands at its critical weight_var unless --weight-var says otherwise.

Examples:
  python experiments/jacobian_spectrum.py
  python experiments/jacobian_spectrum.py --preset small --activation hard_tanh --out results/hard
  python experiments/jacobian_spectrum.py --activation tanh erf --initialiser orthogonal \
      --bias-var 0.001 --depth 128 --out results/isometric
"""

import dataclasses
import time
from collections.abc import Sequence

import command_line
import numpy as np
import xarray as xr

from sigprop import plots, studies

PRESETS = {
    "small": {
        "activation": ("tanh",),
        "depth": 16,
        "width": 128,
        "seeds": 4,
        "bins": 24,
        "deep_width": 64,
        "map_depth": 8,
        "map_weight_var_points": 12,
        "map_bias_var_points": 7,
    },
    "default": {},
    "paper": {
        "activation": ("tanh", "relu", "hard_tanh", "erf"),
        "depth": 128,
        "width": 1000,
        "seeds": 16,
        "bins": 60,
        "deep_width": 256,
        "map_width": 512,
        "map_seeds": 16,
        "map_weight_var_points": 31,
        "map_bias_var_points": 16,
    },
}


@dataclasses.dataclass(frozen=True)
class Config(command_line.Options, studies.JacobianSpectrum):
    """Options of this script."""

    activation: tuple[str, ...] = ("tanh", "relu")
    """One or several of the named activations, or module:function for your own."""

    initialiser: tuple[str, ...] = ("gaussian", "orthogonal")
    """One or several of gaussian, truncated_normal, uniform, orthogonal, or recipes (which lend
    their distribution)."""

    bias_var: float = 0.05
    """Bias variance, >= 0."""

    map_depth: int = 16
    """Square layers spanned in the map over (weight_var, bias_var), >= 1."""

    map_width: int = 128
    """Units a layer in the map, >= 4. Networks of half the width are measured too."""

    map_seeds: int = 8
    """Networks a cell and width of the map, >= 2. The error of few is hardly known."""

    map_weight_var: tuple[float, float] = (0.25, 4.0)
    """First and last weight variance of the map, >= 0."""

    map_weight_var_points: int = 16
    """How many values from the first to the last."""

    map_bias_var: tuple[float, float] = (0.0, 0.5)
    """First and last bias variance of the map, >= 0."""

    map_bias_var_points: int = 11
    """How many values from the first to the last."""

    input_file: command_line.InputFile = None

    def grid(self) -> dict[str, Sequence | np.ndarray]:
        """Where to ask it."""
        return {
            **command_line.distinct_networks(self.activation, self.initialiser),
            "bias_var": [self.bias_var],
        }

    def map_study(self) -> studies.ConditioningMap:
        """The question over the plane, checked."""
        return studies.ConditioningMap(
            depth=self.map_depth,
            width=self.map_width,
            seeds=self.map_seeds,
            seed=self.seed,
            input_file=self.input_file,
            input_second_moment=self.input_second_moment,
        )

    def map_grid(self) -> dict[str, Sequence | np.ndarray]:
        """Where to ask it."""
        weight_var = self.map_weight_var, self.map_weight_var_points
        bias_var = self.map_bias_var, self.map_bias_var_points
        return {
            **command_line.distinct_networks(self.activation, self.initialiser),
            "weight_var": command_line.spaced("map_weight_var", *weight_var),
            "bias_var": command_line.spaced("map_bias_var", *bias_var),
        }


def main() -> None:
    """Predict, measure, store, draw, and say the few numbers that answer the question."""
    begin = time.perf_counter()
    config = command_line.parse(Config, PRESETS, __doc__ or "")
    stores = [config.out / f"{name}.zarr" for name in ("jacobian_spectrum", "conditioning_map")]
    spectra, plane = command_line.swept(
        config,
        (config.study(), config.grid(), stores[0]),
        (config.map_study(), config.map_grid(), stores[1]),
    )
    paths = stores
    for name, draw, ds in (
        ("jacobian_spectrum", plots.spectrum_figure, spectra),
        ("deep_spectrum", plots.log_spectra_figure, spectra),
        ("conditioning_map", plots.conditioning_map, plane),
    ):
        paths += command_line.save_figure(draw(ds), config.out / name)
    command_line.finish(begin, [*summary(spectra), agreement(plane)], paths, spectra, plane)


def summary(ds: xr.Dataset) -> list[str]:
    """For every network, over the longest span: the top edge and the spread, told and found."""
    at = ds.isel(depth=-1, bias_var=0)
    lines = [
        f"over {int(at['depth'])} square layers, measured ± standard error (predicted):",
        f"  (predicted for infinite width; of the {ds.attrs['width']} values of a finite one the "
        "largest falls short of the edge, the more the deeper)",
    ]
    for activation in ds["activation"].values:
        for initialiser in ds["initialiser"].values:
            network = at.sel(activation=activation, initialiser=initialiser)
            lines.append(
                f"  {activation}, {initialiser}, weight_var {float(network['weight_var']):.4g}: "
                f"ln s_max {_compared(network, 'log_largest')}, "
                f"Var/mean² of s² {_compared(network, 'relative_variance')}"
            )
    return lines


def agreement(plane: xr.Dataset) -> str:
    """How far measured and predicted spread are apart over the map."""
    raw, corrected = (
        float(abs(plane[f"disagreement_{kind}"]).median()) for kind in ("raw", "corrected")
    )
    return (
        f"over the map of {plane.attrs['depth']} layers: median |measured - predicted| spread "
        f"{corrected:.2f} standard errors ({raw:.2f} before the finite-width correction)"
    )


def _compared(network: xr.Dataset, name: str) -> str:
    measured, stderr, theory = (
        float(network[f"{name}_{kind}"]) for kind in ("measured", "stderr", "theory")
    )
    return f"{measured:.3g} ± {stderr:.2g} ({theory:.3g})"


if __name__ == "__main__":
    command_line.run_script(main)
