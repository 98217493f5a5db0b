"""Singular values of deep Jacobians: measured networks under free-probability predictions.

Writes OUT/jacobian_spectrum.zarr, .png and .pdf (histograms of ln s under predicted densities, and
how the top edge and the variance grow with depth), and OUT/deep_spectrum.png and .pdf (every
singular value of a network of 1000 layers). The same command again re-plots; other settings refuse
to overwrite. Each activation stands at its critical weight_var unless --weight-var says otherwise.

Examples:
  python experiments/jacobian_spectrum.py
  python experiments/jacobian_spectrum.py --preset small --activation hard_tanh --out results/hard
  python experiments/jacobian_spectrum.py --activation tanh erf --initialiser orthogonal \
      --bias-var 0.001 --depth 128 --out results/isometric
"""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import command_line
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

from sigprop import plots, studies, sweeps

PRESETS = {
    "small": {"depth": 16, "width": 128, "seeds": 4, "bins": 24, "deep_width": 64},
    "default": {},
    "paper": {
        "activation": ("tanh", "relu", "hard_tanh", "erf"),
        "depth": 128,
        "width": 1000,
        "seeds": 16,
        "bins": 60,
        "deep_width": 256,
    },
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of this script."""

    activation: tuple[str, ...] = ("tanh", "relu")
    """One or several of the named activations."""

    initialiser: tuple[str, ...] = ("gaussian", "orthogonal")
    """One or several of gaussian, truncated_normal, uniform, orthogonal, or recipes (which lend
    their distribution)."""

    weight_var: float | None = None
    """Weight variance (times fan-in) of every network, > 0; each activation's critical one if not
    given."""

    bias_var: float = 0.05
    """Bias variance, >= 0."""

    depth: int = 32
    """Square layers of the longest span, >= 4."""

    width: int = 512
    """Units a layer, >= 4. Predictions are for a width much larger than the depth."""

    seeds: int = 8
    """Networks, each with an input of its own, >= 2."""

    seed: int = 0
    """Decides the random draws."""

    bins: int = 32
    """Of every histogram, >= 2."""

    deep_depth: int = 1000
    """Layers of the heat map, >= 1."""

    deep_width: int = 128
    """Units a layer of the heat map, >= 2."""

    inputs: Path | None = None
    """A .npy of inputs, shape (2, entries) or (pairs, 2, entries), the first of each pair is used;
    digit images if not given."""

    input_second_moment: float | None = None
    """Mean square of the entries that inputs are brought to, > 0; if not given, as much as makes
    the first layer's variance the one that layers keep."""

    out: Path = Path("results")
    """Folder to write to."""

    preset: command_line.Preset = "default"
    """Sizes to start from; every other option overrides."""

    def study(self) -> studies.JacobianSpectrum:
        """The question, checked."""
        names = (
            "depth", "width", "seeds", "seed", "weight_var", "bins", "deep_depth", "deep_width",
            "input_second_moment",
        )  # fmt: skip
        options = {name: getattr(self, name) for name in names}
        return studies.JacobianSpectrum(**options, input_file=self.inputs)

    def grid(self) -> dict[str, Sequence | np.ndarray]:
        """Where to ask it."""
        return {
            "activation": self.activation,
            "initialiser": self.initialiser,
            "bias_var": [self.bias_var],
        }


def main() -> None:
    """Predict, measure, store, draw, and say the few numbers that answer the question."""
    begin = time.perf_counter()
    config = command_line.parse(Config, PRESETS, __doc__ or "")
    store = config.out / "jacobian_spectrum.zarr"
    ds = sweeps.run(config.study(), config.grid(), store=store)
    paths = [store]
    for name, draw in {
        "jacobian_spectrum": plots.spectrum_figure,
        "deep_spectrum": plots.log_spectra_figure,
    }.items():
        figure = draw(ds)
        paths += command_line.save_figure(figure, config.out / name)
        plt.close(figure)
    for line in [*summary(ds), "", *(f"wrote {path}" for path in paths)]:
        print(line)
    print(f"took {time.perf_counter() - begin:.0f} s ({ds.attrs['wall_seconds']:.0f} s computing)")


def summary(ds: xr.Dataset) -> list[str]:
    """For every network, over the longest span: the top edge and the spread, told and found."""
    at = ds.isel(depth=-1, bias_var=0)
    lines = [f"over {int(at['depth'])} square layers, measured ± standard error (predicted):"]
    for activation in ds["activation"].values:
        for initialiser in ds["initialiser"].values:
            network = at.sel(activation=activation, initialiser=initialiser)
            lines.append(
                f"  {activation}, {initialiser}, weight_var {float(network['weight_var']):.4g}: "
                f"ln s_max {_compared(network, 'log_largest')}, "
                f"Var/mean² of s² {_compared(network, 'relative_variance')}"
            )
    return lines


def _compared(network: xr.Dataset, name: str) -> str:
    measured, stderr, theory = (
        float(network[f"{name}_{kind}"]) for kind in ("measured", "stderr", "theory")
    )
    return f"{measured:.3g} ± {stderr:.2g} ({theory:.3g})"


if __name__ == "__main__":
    command_line.run_script(main)
