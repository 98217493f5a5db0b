"""Failing runs times remedies: what theory says of each, and how it trains."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from sigprop._checks import check_known
from sigprop.studies.base_study import Arrays, Study, whole
from sigprop.studies.remedies.patients import PATIENTS, Budget, Patient, Setup, patient
from sigprop.studies.remedies.remedy_theory import Prediction, prediction
from sigprop.studies.remedies.treated_runs import outcome, test_examples
from sigprop.studies.remedies.treatments import REMEDIES, NotApplicable, treated
from sigprop.studies.variables import Variable, quantity

__all__ = ["COURSES", "Remedies"]

COURSES = ("control", "untreated", *REMEDIES)
"""Coordinates of the axis ``remedy``: the two runs to compare with, and the remedies."""

_PAIR = ("patient", "remedy")
_RUN = (*_PAIR, "seed")


@dataclass(frozen=True)
class Remedies(Study):
    """Runs for every patient, remedy and seed.

    Handed to `sigprop.sweeps.run` with a grid of ``patient``, ``remedy`` (strings; among them
    "control" and "untreated") and ``seed`` (numbers). Everything of one patient has one budget.

    Parameters
    ----------
    depth
        Weight layers of the networks, >= 2.
    width
        Units a layer, >= 2.
    steps
        Updates, >= 20.
    batch_size
        Digits an update, >= 8.
    seed
        Decides, with the seed of the grid, draws and batches; the same seed has the same draws
        under every remedy.

    Raises
    ------
    ValueError
        For a value out of range.

    Examples
    --------
    >>> Remedies(depth=20, width=64).config()["steps"]
    500
    """

    depth: int = whole(20, least=2)
    width: int = whole(64, least=2)
    steps: int = whole(500, least=20)
    batch_size: int = whole(64, least=8)
    seed: int = whole(0, least=0)

    name = "remedies"
    version = 1
    title = "which remedy cures which failing training run"
    static_axes = _PAIR
    traced_axes = ("seed",)
    meanings = {  # noqa: RUF012
        "patient": ("run that fails when it is left untreated", None),
        "remedy": ("what was done, alone; or the healthy control", None),
    }
    matmul_precision = "default"

    @property
    def budget(self) -> Budget:
        """Of every run."""
        return Budget(self.depth, self.width, self.steps, self.batch_size)

    @property
    def seconds_per_cell(self) -> float:
        """Of one run, on two cores."""
        return 2e-10 * self.steps * self.batch_size * self.depth * self.width**2

    @property
    def bytes_per_cell(self) -> int:
        """Parameters a few times over, and the activations of two batches."""
        return 4 * self.depth * self.width * (8 * self.width + 4 * self.batch_size + 2048)

    @property
    def variables(self) -> dict[str, Variable]:
        """Every output."""
        whole = {"dtype": "int64"}
        return {
            "applicable": quantity(_PAIR, "1 where the remedy makes sense", dtype="int8"),
            "ratio": quantity(_RUN, "gradient norm by z^1 over that by z^depth before training"),
            "loss": quantity(_RUN, "test loss after training, inf if it diverged"),
            "accuracy": quantity(_RUN, "test accuracy after training, nan for a regression"),
            "diverged_at": quantity(_RUN, "step at which the run diverged, -1 if none", **whole),
            "stopped_at": quantity(_RUN, "step at which early stopping ended it", **whole),
            "test_examples": quantity(("patient",), "examples that loss is read on", dtype="int64"),
            "chi_1_theory": quantity(_PAIR, "chi_1 at the fixed point, nan with a norm or a skip"),
            "chi_q_theory": quantity(_PAIR, "chi_q at the fixed point, nan with a norm or a skip"),
            "growth_theory": quantity(_PAIR, "squared gradient, factor a layer, over the depth"),
            "learning_rate": quantity(_PAIR, "step size"),
            "stable_step_theory": quantity(_PAIR, "step size of a quadratic loss that diverges"),
        }

    def check(self, grid: Mapping[str, Any]) -> None:
        """Raise ValueError for unknown patients and remedies, and seeds that are no seeds."""
        super().check(grid)
        for name in grid["patient"]:
            check_known("patient", name, tuple(PATIENTS))
        for name in grid["remedy"]:
            check_known("remedy", name, COURSES)

    def measured(self, static: Mapping[str, str], cells: Mapping[str, Any], told: Arrays) -> Arrays:
        """One course of treatment, for every seed."""
        seeds = cells["seed"].astype(np.int64)
        case = patient(static["patient"], self.budget)
        setup = _course(static["remedy"], case)
        if isinstance(setup, NotApplicable):
            return self._rows(_not_run(len(seeds)), None, case.untreated)
        key = jax.random.key(self.seed)
        keys = jax.vmap(lambda seed: jax.random.fold_in(key, seed))(seeds.astype(np.uint32))
        return self._rows(vars(outcome(setup, keys)), prediction(setup), setup)

    def _rows(self, found: Mapping, told: Prediction | None, setup: Setup):
        blank = Prediction(*[np.nan] * 4)
        numbers = {
            "applicable": int(told is not None),
            "test_examples": test_examples(setup),
            "learning_rate": np.nan if told is None else setup.optimiser.learning_rate,
            "chi_1_theory": (told or blank).chi_1,
            "chi_q_theory": (told or blank).chi_q,
            "growth_theory": (told or blank).growth,
            "stable_step_theory": (told or blank).stable_step,
        }
        return dict(found) | {name: np.asarray(value) for name, value in numbers.items()}


def _course(remedy: str, case: Patient) -> Setup | NotApplicable:
    if remedy == "control":
        return case.control
    return case.untreated if remedy == "untreated" else treated(remedy, case.untreated)


def _not_run(seeds: int) -> dict[str, np.ndarray]:
    numbers = {name: np.full(seeds, np.nan) for name in ("loss", "accuracy", "ratio")}
    return numbers | {name: np.full(seeds, -1) for name in ("diverged_at", "stopped_at")}
