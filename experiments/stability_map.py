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
import numpy as np

from sigprop import plots
from sigprop.architecture import recipe
from sigprop.studies import stability_table

# Smaller networks than one diagram's, as there are many panels.
SIZES = {
    "activation": ("tanh", "relu", "gelu"),
    "initialiser": ("gaussian", "orthogonal", "uniform"),
    "depth": 50,
    "width": 256,
    "weight_var_points": 21,
    "bias_var_points": 6,
}
PRESETS = {
    "small": {
        **SIZES,
        **{"depth": 30, "width": 128, "seeds": 4, "weight_var_points": 11, "bias_var_points": 5},
    },
    "default": SIZES,
    "paper": {
        **SIZES,
        "activation": ("tanh", "relu", "gelu", "selu", "silu", "erf", "sin", "sigmoid"),
        "width": 512,
        "seeds": 16,
        "weight_var_points": 61,
        "bias_var_points": 21,
    },
}


@dataclasses.dataclass(frozen=True)
class Config(command_line.DiagramConfig):
    """Options of this script: those of every diagram."""

    def grid(self):
        """Also the cells that the table names."""
        grid = super().grid()
        recipes = [recipe(name).weight_var(self.width, self.width) for name in ("he", "xavier")]
        return {
            **grid,
            "weight_var": np.union1d(grid["weight_var"], recipes),
            "bias_var": np.union1d(grid["bias_var"], stability_table.REFERENCE_BIAS_VARS),
        }


TABLES = {".csv": stability_table.write_csv}


def main() -> None:
    """Predict, measure, store, draw, and print the table."""
    begin = time.perf_counter()
    config = command_line.parse(Config, PRESETS, __doc__ or "")
    store = config.out / "stability_map.zarr"
    command_line.check_own_tables(store, TABLES)
    (ds,) = command_line.swept(config, (config.study(), config.grid(), store))
    figure = plots.stability_map(ds)
    paths = [store, *command_line.save_figure(figure, config.out / "stability_map")]
    rows = stability_table.stability_table(ds)
    paths += command_line.save_tables(store, rows, TABLES)
    same = ds["growth_measured"] == ds["growth_theory"]
    share = f"class as predicted in {float(same.mean()):.1%} of {same.size} cells"
    lines = [*stability_table.as_lines(rows), "", share]
    command_line.finish(begin, lines, paths, ds)


if __name__ == "__main__":
    command_line.run_script(main)
