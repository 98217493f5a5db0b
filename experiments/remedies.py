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

import command_line
import numpy as np

from sigprop import plots, studies
from sigprop.studies.remedies import verdicts

PRESETS = {
    "small": {"steps": 300},
    "default": {},
    "paper": {"seeds": 16, "steps": 1000},
}


@dataclasses.dataclass(frozen=True)
class Config(command_line.Options, studies.Remedies):
    """Options of this script."""

    patient: tuple[str, ...] = tuple(studies.PATIENTS)
    """One or several of sigmoid_unit_entries, sigmoid_xavier, tanh_ordered, relu_exploding,
    unscaled_regression."""

    remedy: tuple[str, ...] = tuple(studies.REMEDIES)
    """One or several of the remedies."""

    seeds: int = 8
    """Runs of every patient and remedy, >= 2."""

    def grid(self) -> dict[str, Sequence | np.ndarray]:
        """Where to ask it."""
        if self.seeds < 2:
            raise ValueError(f"seeds must be >= 2, got {self.seeds}")
        return {
            "patient": self.patient,
            "remedy": ("control", "untreated", *self.remedy),
            "seed": np.arange(self.seeds),
        }


TABLES = {
    ".csv": verdicts.write_csv,
    ".md": lambda rows, path: path.write_text(verdicts.as_markdown(rows) + "\n"),
}


def main() -> None:
    """Train, store, draw, and print the table."""
    begin = time.perf_counter()
    config = command_line.parse(Config, PRESETS, __doc__ or "")
    stem = config.out / "remedies"
    store = stem.with_suffix(".zarr")
    command_line.check_own_tables(stem, TABLES)
    (ds,) = command_line.swept(config, (config.study(), config.grid(), store))
    rows = verdicts.remedies_table(ds)
    figure = plots.remedies(verdicts.with_verdicts(ds))
    paths = [stem.with_suffix(".zarr"), *command_line.save_figure(figure, stem)]
    paths += command_line.save_tables(stem, rows, TABLES)
    command_line.finish(begin, [verdicts.as_text(rows)], paths, ds)


if __name__ == "__main__":
    command_line.run_script(main)
