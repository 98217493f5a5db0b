"""Which initialisation lets gradients through which activation, predicted and measured.

A panel for every (activation, initialiser): colours show what measured networks do over their
depth, lines where theory puts the borders. A table names each activation's critical weight_var
and where the named recipes land. Writes OUT/stability_map.zarr, .png, .pdf and .csv.

Examples:
  python experiments/stability_map.py
  python experiments/stability_map.py --preset small --activation relu tanh --initialiser he xavier
  python experiments/stability_map.py --depth 200 --weight-var 0.5 3 --out results/deep
"""

import dataclasses
import time

import command_line
import matplotlib.pyplot as plt
import numpy as np

from sigprop import plots
from sigprop.architecture import recipe
from sigprop.studies import stability_table

PRESETS = {
    "small": {"depth": 30, "width": 128, "seeds": 4, "weight_var_points": 11, "bias_var_points": 5},
    "default": {},
    "paper": {
        "activation": ("tanh", "relu", "gelu", "selu", "silu", "erf", "sin", "sigmoid"),
        "width": 512,
        "seeds": 16,
        "weight_var_points": 61,
        "bias_var_points": 21,
    },
}


@dataclasses.dataclass(frozen=True)
class Config(command_line.DiagramConfig):
    """Options of this script: smaller networks than one diagram's, as there are many panels."""

    activation: tuple[str, ...] = ("tanh", "relu", "gelu")
    """One or several of the named activations."""

    initialiser: tuple[str, ...] = ("gaussian", "orthogonal", "uniform")
    """One or several of gaussian, truncated_normal, uniform, orthogonal, or recipes, which lend
    their distribution; where their own weight_var lies is marked."""

    depth: int = 50
    """Weight layers, >= 2."""

    width: int = 256
    """Units a layer, >= 4. Networks of half the width are measured too."""

    weight_var_points: int = 21
    """How many values from the first to the last; those of the recipes are added."""

    bias_var_points: int = 6
    """How many values from the first to the last; 0 and 0.05 are added."""

    def grid(self):
        """Also the cells that the table names."""
        grid = super().grid()
        recipes = [recipe(name).weight_var(self.width, self.width) for name in ("he", "xavier")]
        return {
            **grid,
            "weight_var": np.union1d(grid["weight_var"], recipes),
            "bias_var": np.union1d(grid["bias_var"], stability_table.REFERENCE_BIAS_VARS),
        }


def main() -> None:
    """Predict, measure, store, draw, and print the table."""
    begin = time.perf_counter()
    config = command_line.parse(Config, PRESETS, __doc__ or "")
    store = config.out / "stability_map.zarr"
    (ds,) = command_line.swept(config, (config.study(), config.grid(), store))
    figure = plots.stability_map(ds)
    paths = [store, *command_line.save_figure(figure, config.out / "stability_map")]
    plt.close(figure)
    rows = stability_table.stability_table(ds)
    with command_line.replacing(config.out / "stability_map.csv") as path:
        stability_table.write_csv(rows, path)
    same = ds["growth_measured"] == ds["growth_theory"]
    for line in stability_table.as_lines(rows):
        print(line)
    print(f"\nclass as predicted in {float(same.mean()):.1%} of {same.size} cells")
    for path in [*paths, config.out / "stability_map.csv"]:
        print(f"wrote {path}")
    print(f"took {time.perf_counter() - begin:.0f} s ({ds.attrs['wall_seconds']:.0f} s computing)")


if __name__ == "__main__":
    command_line.run_script(main)
