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
from pathlib import Path

import command_line
import matplotlib.pyplot as plt
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
class Config(command_line.SweepOptions):
    """Options of this script."""

    activation: tuple[str, ...] = ("linear", "tanh")
    """One or several of the named activations that have a critical point at the variance."""

    initialiser: tuple[str, ...] = ("orthogonal", "gaussian")
    """One or both of orthogonal, gaussian."""

    depth: tuple[int, ...] = (8, 16, 32, 64)
    """Weight layers, each >= 2; at least three make a fit."""

    width: int = 64
    """Units a layer, >= 2."""

    examples: int = 128
    """Digits, all in every step, 2 to 1257."""

    variance: float = 1 / 64
    """Variance q* > 0 of the pre-activations, on the critical line."""

    steps: int = 800
    """Most updates of a run, >= 1."""

    threshold: float = 0.05
    """Mean squared error to reach, > 0; outputs 0 have 0.1."""

    rates: int = 10
    """Learning rates tried at every depth, >= 3."""

    lowest_rate: float = 2.0
    """The smallest of them times depth, > 0."""

    rate_factor: float = 1.4
    """The ratio of one to the next, > 1."""

    seeds: int = 4
    """Networks at every depth, >= 2."""

    seed: int = 0
    """Decides the random draws."""

    out: Path = Path("results")
    """Folder to write to."""

    preset: command_line.Preset = "default"
    """Sizes to start from; every other option overrides."""

    def study(self) -> studies.IsometryTraining:
        """The question, checked."""
        names = [field.name for field in dataclasses.fields(studies.IsometryTraining)]
        return studies.IsometryTraining(**{name: getattr(self, name) for name in names})

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
    plt.close(figure)
    print(f"steps to loss {config.threshold:g}, learning rate tuned for every network:")
    for line in isometry_fits.fits_table(fitted):
        print(line)
    edge, censored = (int(fitted[f"networks_{name}"].sum()) for name in ("at_edge", "censored"))
    runs = fitted["steps_tuned"].size
    print(f"of {runs} networks {censored} never got there, {edge} did best at an end of the rates")
    for path in paths:
        print(f"wrote {path}")
    print(f"took {time.perf_counter() - begin:.0f} s ({ds.attrs['wall_seconds']:.0f} s computing)")


if __name__ == "__main__":
    command_line.run_script(main)
