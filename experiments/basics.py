"""From gradient descent to a cure: five classic demonstrations, with their numbers.

Gradient descent recovers a line; y = x² overflows and is cured twice; a 1000-100-1 tanh network has
flat units; back-propagation is checked by differences; a relu classifier learns digits. Writes
OUT/basics.zarr, .png and .pdf. The same command again re-plots; other settings refuse to overwrite.

Examples:
  python experiments/basics.py --preset small
  python experiments/basics.py --data mnist --epochs 10 --out results/mnist
"""

import dataclasses
import time
from collections.abc import Sequence

import command_line
import numpy as np
import xarray as xr

from sigprop import plots, studies

PRESETS = {
    "small": {"epochs": 10, "steps": 200},
    "default": {},
    "paper": {"epochs": 50, "steps": 1000},
}


@dataclasses.dataclass(frozen=True)
class Config(command_line.Options, studies.Basics):
    """Options of this script."""

    def grid(self) -> dict[str, Sequence | np.ndarray]:
        """Where to ask it."""
        return {"seed": [0]}


def main() -> None:
    """Compute, store, draw, and say the numbers."""
    begin = time.perf_counter()
    config = command_line.parse(Config, PRESETS, __doc__ or "")
    store = config.out / "basics.zarr"
    (ds,) = command_line.swept(config, (config.study(), config.grid(), store))
    figure = plots.basics(ds)
    paths = [store, *command_line.save_figure(figure, config.out / "basics")]
    command_line.finish(begin, summary(ds.isel(seed=0)), paths, ds)


def summary(ds: xr.Dataset) -> list[str]:
    """Every demonstration in a line or two."""
    number = {name: float(ds[name]) for name in ds.data_vars if ds[name].ndim == 0}
    lines = [
        f"line: y = {number['line_slope']:.4f} x + {number['line_intercept']:.4f} by gradient "
        f"descent, {number['line_slope_exact']:.4f} x + {number['line_intercept_exact']:.4f} by "
        "least squares (3 x + 2 and noise)"
    ]
    for course in ds["course"].values:
        one = ds.sel(course=course)
        at = int(one["parabola_diverged_at"])
        end = (
            f"diverges at update {at}" if at >= 0 else f"loss {one['parabola_loss'].values[-1]:.3g}"
        )
        lines.append(f"parabola, {course}: step size {float(one['parabola_step_size']):.3g}, {end}")
    for entries in ds["entries"].values:
        one = ds.sel(entries=entries)
        lines.append(
            f"1000-100-1, {entries}: mean squared slope {float(one['wide_mean_square_slope']):.4f} "
            f"(theory {float(one['wide_mean_square_slope_theory']):.4f}), "
            f"{float(one['wide_dead_share']):.1%} of units flatter than 0.01"
        )
    for kind in ds["gradient"].values:
        one = ds.sel(gradient=kind)
        compared = int(np.isfinite(one["check_difference"]).sum())
        lines.append(f"{kind} gradient: {int(one['check_wrong'].sum())} of {compared} rows wrong")
    lines.append(
        f"classifier: test accuracy {number['classifier_test_accuracy']:.4f} after "
        f"{ds.sizes['epoch'] - 1} epochs"
    )
    return lines


if __name__ == "__main__":
    command_line.run_script(main)
