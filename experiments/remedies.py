"""Which remedy cures which failing training run: every patient, every remedy, several seeds.

Five runs that fail, each beside a healthy control of equal shape and budget, times 22 remedies,
each alone. Writes OUT/remedies.zarr (every run), .csv (a row for every run, with verdict and
reason), .md (means over seeds), .png and .pdf. The same command again re-plots; other settings
refuse to overwrite.

Examples:
  python experiments/remedies.py --preset small
  python experiments/remedies.py --seed 1 --out results/again
  python experiments/remedies.py --patient relu_exploding --remedy he xavier batch_norm --out few
"""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import command_line
import matplotlib.pyplot as plt
import numpy as np

from sigprop import plots, studies
from sigprop.studies import verdicts

PRESETS = {
    "small": {"steps": 300},
    "default": {},
    "paper": {"seeds": 16, "steps": 1000},
}


@dataclasses.dataclass(frozen=True)
class Config(command_line.SweepOptions):
    """Options of this script."""

    patient: tuple[str, ...] = tuple(studies.PATIENTS)
    """One or several of sigmoid_unit_entries, sigmoid_xavier, tanh_ordered, relu_exploding,
    unscaled_regression."""

    remedy: tuple[str, ...] = tuple(studies.REMEDIES)
    """One or several of the remedies."""

    depth: int = 20
    """Weight layers of the networks, >= 2."""

    width: int = 64
    """Units a layer, >= 2."""

    steps: int = 500
    """Updates of every run, >= 20."""

    batch_size: int = 64
    """Digits an update, >= 8."""

    seeds: int = 8
    """Runs of every patient and remedy, >= 2."""

    seed: int = 0
    """Decides the random draws."""

    out: Path = Path("results")
    """Folder to write to."""

    preset: command_line.Preset = "default"
    """Sizes to start from; every other option overrides."""

    def study(self) -> studies.Remedies:
        """The question, checked."""
        names = ("depth", "width", "steps", "batch_size", "seed")
        return studies.Remedies(**{name: getattr(self, name) for name in names})

    def grid(self) -> dict[str, Sequence | np.ndarray]:
        """Where to ask it."""
        if self.seeds < 2:
            raise ValueError(f"seeds must be >= 2, got {self.seeds}")
        return {
            "patient": self.patient,
            "remedy": ("control", "untreated", *self.remedy),
            "seed": np.arange(self.seeds),
        }


def main() -> None:
    """Train, store, draw, and print the table."""
    begin = time.perf_counter()
    config = command_line.parse(Config, PRESETS, __doc__ or "")
    stem = config.out / "remedies"
    store = stem.with_suffix(".zarr")
    (ds,) = command_line.swept(config, (config.study(), config.grid(), store))
    rows = verdicts.remedies_table(ds)
    figure = plots.remedies(verdicts.with_verdicts(ds))
    paths = [stem.with_suffix(".zarr"), *command_line.save_figure(figure, stem)]
    plt.close(figure)
    with command_line.replacing(stem.with_suffix(".csv")) as path:
        verdicts.write_csv(rows, path)
    with command_line.replacing(stem.with_suffix(".md")) as path:
        path.write_text(verdicts.as_markdown(rows) + "\n")
    print(verdicts.as_text(rows), end="\n\n")
    for path in [*paths, stem.with_suffix(".csv"), stem.with_suffix(".md")]:
        print(f"wrote {path}")
    print(f"took {time.perf_counter() - begin:.0f} s ({ds.attrs['wall_seconds']:.0f} s computing)")


if __name__ == "__main__":
    command_line.run_script(main)
