"""The order/chaos phase diagram of deep networks: mean-field theory over measured networks.

Writes OUT/phase_diagram.zarr (every layer of every cell, prediction and measurement under parallel
names), .png and .pdf. The same command again re-plots; other settings refuse to overwrite.

Examples:
  python experiments/phase_diagram.py
  python experiments/phase_diagram.py --activation tanh --depth 100 --width 512 --out results
  python experiments/phase_diagram.py --preset small --activation tanh relu gelu \
      --initialiser gaussian orthogonal he --out results/compared
  python experiments/phase_diagram.py --activation gelu --weight-var 1 3 --bias-var 0 1 \
      --inputs pairs.npy
"""

import dataclasses
import time

import command_line
import numpy as np
import xarray as xr

from sigprop import plots, theory

PRESETS = {
    "small": {
        "depth": 50,
        "width": 256,
        "seeds": 4,
        "weight_var_points": 16,
        "bias_var_points": 11,
    },
    "default": {},
    "paper": {
        "width": 1000,
        "seeds": 16,
        "weight_var_points": 61,
        "bias_var_points": 41,
    },
}


@dataclasses.dataclass(frozen=True)
class Config(command_line.DiagramConfig):
    """Options of this script: those of every diagram."""


def main() -> None:
    """Predict, measure, store, draw, and say the few numbers that answer the question."""
    begin = time.perf_counter()
    config = command_line.parse(Config, PRESETS, __doc__ or "")
    store = config.out / "phase_diagram.zarr"
    (ds,) = command_line.swept(config, (config.study(), config.grid(), store))
    figure = plots.phase_diagram_figure(ds)
    paths = [store, *command_line.save_figure(figure, config.out / "phase_diagram")]
    command_line.finish(begin, summary(ds), paths, ds)


def summary(ds: xr.Dataset) -> list[str]:
    """For every network: where it is critical, and how well prediction and measurement agree."""
    lines = []
    for activation in ds["activation"].values:
        lines.append(f"{activation}: critical weight_var {critical(str(activation))}")
        for initialiser in ds["initialiser"].values:
            network = ds.sel(activation=activation, initialiser=initialiser)
            lines.append(f"  {initialiser}: {agreement(network)}")
    return lines


def critical(activation: str) -> str:
    """The critical weight_var at two bias variances, in words."""
    found = {b: theory.critical_weight_var(activation, bias_var=b) for b in (0.0, 0.05)}
    return ", ".join(
        f"{point.weight_var:.6g} ({theory.CriticalStatus(point.status).name.lower()}) "
        f"at bias_var {bias_var:g}"
        for bias_var, point in found.items()
    )


def agreement(network: xr.Dataset) -> str:
    """How often the phase is as predicted, and by how many standard errors growth differs."""
    predicted = network["phase_theory"]
    judged = predicted.isin([theory.Phase.ORDERED, theory.Phase.CHAOTIC])
    judged &= np.isfinite(network["gradient_rate_measured"])
    grows = network["gradient_rate_measured"] > 0
    same = (grows == (predicted == theory.Phase.CHAOTIC)) & judged
    raw, corrected = (
        float(abs(network[f"disagreement_{kind}"]).median()) for kind in ("raw", "corrected")
    )
    diverged = int((network["diverged_at_layer_measured"] > 0).sum())
    return (
        f"phase as predicted in {float(same.sum() / max(int(judged.sum()), 1)):.1%} of cells; "
        f"median |measured - predicted| growth {corrected:.2f} standard errors "
        f"({raw:.2f} before the finite-width correction); {diverged} cells overflow"
    )


if __name__ == "__main__":
    command_line.run_script(main)
