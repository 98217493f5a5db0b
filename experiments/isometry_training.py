"""How many steps a deep network needs, by depth: orthogonal weights against Gaussian ones.

Steps of gradient descent to a fixed loss on digits, the learning rate tuned for every network, and
the power laws in depth of steps and best rate. Writes OUT/isometry_training.zarr, .png and .pdf,
and prints the table. The same command again re-plots; a run that was killed is resumed.

Examples:
  python experiments/isometry_training.py --preset small
  python experiments/isometry_training.py --activation tanh --variance 0.1 --out results/wide
  python experiments/isometry_training.py --depth 8 16 32 64 128 --steps 1500
"""

import dataclasses
import time
from collections.abc import Sequence

import command_line
import numpy as np

from sigprop import plots, studies
from sigprop.studies import isometry_fits

PRESETS = {
    "small": {
        "steps": 400,
        "rates": 8,
        "rate_factor": 1.5,
        "seeds": 3,
    },
    "default": {},
    "paper": {
        "depth": (8, 16, 32, 64, 128),
        "steps": 4000,
        "rates": 16,
        "rate_factor": 1.25,
        "seeds": 8,
    },
}


@dataclasses.dataclass(frozen=True)
class Config(command_line.Options, studies.IsometryTraining):
    """Options of this script."""

    activation: tuple[str, ...] = ("linear", "tanh")
    """One or several that have a critical point at the variance; module:function for your own."""

    initialiser: tuple[str, ...] = ("orthogonal", "gaussian")
    """One or both of orthogonal, gaussian."""

    depth: tuple[int, ...] = (8, 16, 32, 64)
    """Weight layers, each >= 2; at least three make a fit."""

    def grid(self) -> dict[str, Sequence | np.ndarray]:
        """Where to ask it."""
        return {
            "activation": self.activation,
            "initialiser": self.initialiser,
            "depth": np.asarray(self.depth),
        }


def main() -> None:
    """Train, store, fit, draw, and print the table."""
    begin = time.perf_counter()
    config = command_line.parse(Config, PRESETS, __doc__ or "")
    study, stem = config.study(), config.out / "isometry_training"
    store = stem.with_suffix(".zarr")
    (ds,) = command_line.swept(config, (study, config.grid(), store))
    fitted = isometry_fits.with_fits(ds)
    figure = plots.isometry_training_figure(fitted)
    paths = [stem.with_suffix(".zarr"), *command_line.save_figure(figure, stem)]
    edge, censored = (int(fitted[f"networks_{name}"].sum()) for name in ("at_edge", "censored"))
    lines = [
        f"steps to loss {config.threshold:g}, learning rate tuned for every network:",
        *isometry_fits.fits_table(fitted),
        f"of {fitted['steps_tuned'].size} networks {censored} never got there, "
        f"{edge} did best at an end of the rates",
    ]
    command_line.finish(begin, lines, paths, ds)


if __name__ == "__main__":
    command_line.run_script(main)
