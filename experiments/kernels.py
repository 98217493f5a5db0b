"""How well conditioned NNGP and NTK are at every depth: ordered, critical and chaotic.

Theory to depth 1000 over the tangent kernels of finite networks, for digits brought to equal norm
and correlation. Writes OUT/kernels.zarr, .png and .pdf, and prints the condition number at the
last depth beside its limit. The same command again re-plots.

Examples:
  python experiments/kernels.py
  python experiments/kernels.py --preset small --activation relu --weight-var 1.6 2 2.4
  python experiments/kernels.py --activation gelu --bias-var 0.3 --depth 300 --out results/gelu
"""

import dataclasses
import time
from collections.abc import Sequence

import command_line
import numpy as np
import xarray as xr

from sigprop import plots, studies, theory

PRESETS = {
    "small": {"depth": 200, "measured_depth": 16, "width": 128, "seeds": 4, "outputs": 8},
    "default": {},
    "paper": {"depth": 3000, "measured_depth": 128, "width": 1024, "seeds": 16},
}
RELATIVE_TO_CRITICAL = (0.7, 1.0, 1.5)


@dataclasses.dataclass(frozen=True)
class Config(command_line.Options, studies.KernelCondition):
    """Options of this script."""

    activation: tuple[str, ...] = ("tanh",)
    """One or several of the named activations, or module:function for your own."""

    weight_var: tuple[float, ...] = ()
    """At most six weight variances (times fan-in), >= 0; by default 0.7, 1 and 1.5 times the
    critical one of the first activation at bias_var."""

    bias_var: float = 0.05
    """Bias variance, >= 0."""

    def grid(self) -> dict[str, Sequence | np.ndarray]:
        """Where to ask it."""
        chosen = np.asarray(self.weight_var, float)
        if not chosen.size:
            point = theory.critical_weight_var(self.activation[0], bias_var=self.bias_var)
            if not np.isfinite(point.weight_var):
                raise ValueError(
                    f"weight_var must be given where no critical one exists: {self.activation[0]} "
                    f"at bias_var {self.bias_var}"
                )
            chosen = float(point.weight_var) * np.asarray(RELATIVE_TO_CRITICAL)
        if chosen.size > 6:
            raise ValueError(f"weight_var must be at most six values, got {chosen.size}")
        return {"activation": self.activation, "weight_var": chosen, "bias_var": [self.bias_var]}


def main() -> None:
    """Predict, measure, store, draw, and print where the condition number ends."""
    begin = time.perf_counter()
    config = command_line.parse(Config, PRESETS, __doc__ or "")
    store = config.out / "kernels.zarr"
    (ds,) = command_line.swept(config, (config.study(), config.grid(), store))
    figure = plots.kernel_condition_figure(ds)
    paths = [store, *command_line.save_figure(figure, config.out / "kernels")]
    command_line.finish(begin, summary(ds), paths, ds)


def summary(ds: xr.Dataset) -> list[str]:
    """Condition numbers at the last depth, and how far networks are from theory."""
    lines = [f"{ds.attrs['count']} inputs, {ds.sizes['depth']} layers:"]
    for name in ds["activation"].values:
        for weight_var in ds["weight_var"].values:
            cell = ds.sel(activation=name, weight_var=weight_var).isel(bias_var=0)
            last = cell.isel(depth=-1)
            lines.append(
                f"  {name}, weight_var {weight_var:.4g} "
                f"({theory.Phase(int(cell['phase_theory'])).name.lower()}): "
                f"NTK {float(last['ntk_condition_theory']):.4g}, "
                f"NNGP {float(last['nngp_condition_theory']):.4g}; "
                f"{agreement(cell)}"
            )
    return lines


def agreement(cell: xr.Dataset) -> str:
    """How far the networks' NTK is from theory where it is furthest, and how much is width."""
    told = np.log(cell["ntk_condition_theory"].sel(depth=cell["measured_depth"].values).values)
    off = cell["log_ntk_condition_measured"] - told
    if not np.isfinite(off).any():
        return "no network's is resolved in float32"
    at = off.isel(measured_depth=int(np.nanargmax(abs(off.values))))
    depth = at["measured_depth"]
    limit, stderr = (
        cell[f"log_ntk_condition_infinite_width_{kind}"].sel(measured_depth=depth)
        for kind in ("measured", "stderr")
    )
    told_there = np.log(float(cell["ntk_condition_theory"].sel(depth=depth)))
    return (
        f"networks' NTK at most {np.expm1(float(at)):+.0%} off (depth {int(depth)}), "
        f"{float(limit) - told_there:+.2f} ± {float(stderr):.2f} in ln of it "
        "once extrapolated to infinite width"
    )


if __name__ == "__main__":
    command_line.run_script(main)
