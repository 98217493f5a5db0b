"""How deep a network trains, against the correlation depth scale xi_c of mean-field theory.

Accuracy over depth and weight variance after a fixed number of updates, each at its own best step
size, with multiples of xi_c drawn over it; the depth at which accuracy is half of its peak against
xi_c, and the fitted multiple, on both sides of criticality and at two budgets. Writes
OUT/trainability.zarr (every run), .png and .pdf, and OUT/trainability_boundaries.zarr (boundaries
and fits), and prints the table. The same command again re-plots.

Examples:
  python experiments/trainability.py --preset small
  python experiments/trainability.py --activation erf --steps 600 --out results/erf
  python experiments/trainability.py --weight-var 1.2 2.5 --depth 8 16 32 --seeds 1 --out few
"""

import dataclasses
import time
from collections.abc import Sequence

import command_line
import numpy as np
import xarray as xr

from sigprop import plots, studies, theory

PRESETS = {
    "small": {
        "width": 64,
        "steps": 200,
        "depth": (6, 10, 16, 24, 36, 54, 81),
        "learning_rate": (0.003, 0.01, 0.03, 0.1),
    },
    "default": {},
    "paper": {"width": 300, "steps": 1000, "seeds": 5},
}
# Eight steps on either side of the critical weight variance, as multiples of it.
RELATIVE_TO_CRITICAL = (*np.linspace(0.55, 0.85, 8), *np.linspace(1.2, 2.4, 8))


@dataclasses.dataclass(frozen=True)
class Config(command_line.Options, studies.Trainability):
    """Options of this script."""

    activation: str = "tanh"
    """One of the named activations, or module:function for your own."""

    weight_var: tuple[float, ...] = ()
    """Weight variances (times fan-in), >= 0; by default eight from 0.55 to 0.85 and eight from 1.2
    to 2.4 times the critical one."""

    depth: tuple[int, ...] = (6, 10, 16, 24, 36, 54, 81, 120)
    """Weight layers, ascending, at least two."""

    learning_rate: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03, 0.1)
    """Step sizes to choose from at every (depth, weight_var), > 0."""

    seeds: int = 1
    """Runs of each, >= 1."""

    def grid(self) -> dict[str, Sequence | np.ndarray]:
        """Where to ask it."""
        if len(self.depth) < 2 or list(self.depth) != sorted(self.depth):
            raise ValueError(f"depth must be at least two, ascending, got {self.depth}")
        if self.seeds < 1:
            raise ValueError(f"seeds must be >= 1, got {self.seeds}")
        return {
            "activation": (self.activation,),
            "depth": self.depth,
            "weight_var": self.weight_var or self.around_criticality(),
            "learning_rate": self.learning_rate,
            "seed": np.arange(self.seeds),
        }

    def around_criticality(self) -> np.ndarray:
        """Weight variances on both sides of the critical one."""
        point = theory.critical_weight_var(self.activation, bias_var=self.bias_var)
        if not np.isfinite(point.weight_var):
            raise ValueError(
                f"weight_var must be given where no critical one exists: {self.activation} at "
                f"bias_var {self.bias_var}"
            )
        return np.round(float(point.weight_var) * np.asarray(RELATIVE_TO_CRITICAL), 4)


def main() -> None:
    """Train, store, draw, and print the table."""
    begin = time.perf_counter()
    config = command_line.parse(Config, PRESETS, __doc__ or "")
    stem = config.out / "trainability"
    store = stem.with_suffix(".zarr")
    (stored,) = command_line.swept(config, (config.study(), config.grid(), store))
    ds = studies.with_boundaries(stored)
    figure = plots.trainability_figure(ds)
    boundaries = stem.with_name("trainability_boundaries.zarr")
    derived = ds.drop_vars(list(stored.data_vars))
    derived.to_zarr(boundaries, mode="w", zarr_format=2, consolidated=True)
    paths = [store, boundaries, *command_line.save_figure(figure, stem)]
    command_line.finish(begin, [*table(ds), "", *fits(ds)], paths, ds)


def table(ds: xr.Dataset) -> list[str]:
    """Boundary depth beside xi_c, a row for every weight variance."""
    ds = ds.isel(activation=0)
    heads = [f"L* at {budget} steps   (/xi_c)" for budget in ds["budget"].values]
    lines = [f"{'weight_var':>10s}  {'phase':8s} {'xi_c':>7s}  " + "  ".join(heads)]
    for weight_var in ds["weight_var"].values:
        at = ds.sel(weight_var=weight_var)
        scale = float(at["depth_scale_correlation_theory"])
        phase = theory.Phase(int(at["phase_theory"])).name.lower()
        found = [_found(at.sel(budget=budget), scale) for budget in ds["budget"].values]
        lines.append(f"{weight_var:10.4f}  {phase:8s} {scale:7.2f}  " + "  ".join(found))
    return lines


def _found(at: xr.Dataset, scale: float) -> str:
    status = studies.BoundaryStatus(int(at["boundary_status"]))
    mark = {"ABOVE_RANGE": ">", "BELOW_RANGE": "<"}.get(status.name, " ")
    depth = float(at["boundary_depth"])
    return f"{mark}{depth:13.1f}   ({depth / scale:5.2f})"


def fits(ds: xr.Dataset) -> list[str]:
    """The multiple of xi_c, by side and budget."""
    lines = ["L* = k xi_c, and L* ~ xi_c^a:"]
    for budget in ds["budget"].values:
        for side in ds["side"].values:
            fit = ds.isel(activation=0).sel(budget=budget, side=side)
            k, k_err, a, a_err, rank, points = (
                float(fit[f"fit_{name}"])
                for name in ("k", "k_stderr", "exponent", "exponent_stderr", "spearman", "points")
            )
            lines.append(
                f"  {budget} steps, {side:8s} k = {k:.2f} ± {k_err:.2f}, a = {a:.2f} ± {a_err:.2f},"
                f" Spearman {rank:.3f}, {points:.0f} boundaries found"
            )
    return lines


if __name__ == "__main__":
    command_line.run_script(main)
