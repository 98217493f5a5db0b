"""The table of patients and remedies: who is cured, who is helped, and why, in theory's words."""

import csv
import enum
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
import xarray as xr

from sigprop._tables import markdown_table, number, text_table
from sigprop.studies.remedies.patients import Budget, patient
from sigprop.studies.remedies.remedy_theory import reason
from sigprop.studies.remedies.treatments import NotApplicable, treated
from sigprop.studies.variables import flags

__all__ = [
    "Row",
    "Verdict",
    "as_markdown",
    "as_text",
    "remedies_table",
    "verdict",
    "with_verdicts",
    "write_csv",
]

CURED_ACCURACY = 0.9  # of the control's
CURED_LOSS = 2.0  # times the control's
STANDARD_ERRORS = 2.0


class Verdict(enum.IntEnum):
    """What a remedy did for a patient."""

    CURED = 0
    HELPED = 1
    NO_EFFECT = 2
    WORSE = 3
    NOT_APPLICABLE = 4

    @property
    def words(self) -> str:
        """As tables have it."""
        return self.name.lower().replace("_", " ")


@dataclass(frozen=True)
class Row:
    """One run; the verdict and the reason are of all seeds together.

    Attributes
    ----------
    ratio_before, ratio_after
        Gradient norm by z^1 over that by z^depth before training, untreated and treated.
    loss, accuracy
        On test examples after training; inf if it diverged, nan for no classes.
    """

    patient: str
    remedy: str
    seed: int
    ratio_before: float
    ratio_after: float
    loss: float
    accuracy: float
    verdict: str
    reason: str


def verdict(treated: xr.Dataset, untreated: xr.Dataset, control: xr.Dataset) -> Verdict:
    """From the means over seeds.

    Cured: at least 0.9 of the control's accuracy (a regression: at most twice its loss). Otherwise
    helped or worse: beyond two standard errors of an untreated run, which are its spread over
    seeds and, for an accuracy, the binomial error of a finite test set, in quadrature: a verdict
    says what to expect of one more run. Where every run diverges and no untreated one does, it is
    worse whatever the accuracy. A regression is compared by its loss; runs among which one diverges
    are worth the same, and less than any others.

    Parameters
    ----------
    treated, untreated, control
        ``applicable``, ``loss`` and ``accuracy`` by ``seed``, and ``test_examples``.
    """
    if not bool(treated["applicable"]):
        return Verdict.NOT_APPLICABLE
    if bool(np.isnan(control["accuracy"]).all()):
        return _by_loss(*(run["loss"].values for run in (treated, untreated, control)))
    means = [float(run["accuracy"].mean()) for run in (treated, untreated, control)]
    if means[0] >= CURED_ACCURACY * means[2]:
        return Verdict.CURED
    if np.isinf(treated["loss"]).all() and np.isfinite(untreated["loss"]).all():
        return Verdict.WORSE
    binomial = means[1] * (1 - means[1]) / int(untreated["test_examples"])
    error = np.sqrt(float(untreated["accuracy"].var(ddof=1)) + binomial)
    return _beyond(means[0] - means[1], float(STANDARD_ERRORS * error))


def _by_loss(treated: np.ndarray, untreated: np.ndarray, control: np.ndarray) -> Verdict:
    gone = [not np.isfinite(run).all() for run in (treated, untreated)]
    if not gone[0] and np.mean(treated) <= CURED_LOSS * np.mean(control):
        return Verdict.CURED
    if any(gone):
        return _beyond(float(gone[1]) - float(gone[0]), 0.5)
    error = STANDARD_ERRORS * np.std(untreated, ddof=1)
    return _beyond(float(np.mean(untreated) - np.mean(treated)), float(error))


def _beyond(gain: float, allowed: float) -> Verdict:
    if abs(gain) <= allowed:
        return Verdict.NO_EFFECT
    return Verdict.HELPED if gain > 0 else Verdict.WORSE


def remedies_table(ds: xr.Dataset) -> list[Row]:
    """A row for every patient, remedy and seed of a dataset that the `Remedies` study gave.

    Raises
    ------
    ValueError
        If it lacks "untreated" or "control", or has fewer than two seeds.
    """
    missing = [name for name in ("untreated", "control") if name not in ds["remedy"].values]
    if missing or ds.sizes["seed"] < 2:
        raise ValueError(
            "ds must hold the remedies 'untreated' and 'control' and at least 2 seeds, got "
            f"{ds.sizes['seed']} seeds and no {' and no '.join(missing) or 'gap'}"
        )
    return [
        row
        for name in ds["patient"].values
        for remedy in ds["remedy"].values
        if remedy not in ("untreated", "control")
        for row in _rows(ds, str(name), str(remedy))
    ]


def with_verdicts(ds: xr.Dataset) -> xr.Dataset:
    """``ds`` and the `Verdict` of every patient and remedy, as figures take it.

    The two courses to compare with are left out of the dimension ``remedy`` and stand beside it:
    ``accuracy_control``, ``accuracy_untreated``, and the same for ``loss``.
    """
    rows = {(row.patient, row.remedy): row.verdict for row in remedies_table(ds)}
    apart = {course: ds.sel(remedy=course, drop=True) for course in ("control", "untreated")}
    beside = {
        f"{name}_{course}": run[name]
        for course, run in apart.items()
        for name in ("loss", "accuracy")
    }
    ds = ds.drop_sel(remedy=list(apart))
    codes = {each.words: int(each) for each in Verdict}
    table = [
        [codes[rows[str(p), str(r)]] for r in ds["remedy"].values] for p in ds["patient"].values
    ]
    attrs = flags((), "verdict", Verdict).attrs
    codes_of_pairs = xr.Variable(("patient", "remedy"), np.asarray(table, np.int8), attrs)
    return ds.assign({"verdict": codes_of_pairs, **beside})


def _rows(ds: xr.Dataset, name: str, remedy: str) -> list[Row]:
    of = {
        course: ds.sel(patient=name, remedy=course) for course in (remedy, "untreated", "control")
    }
    found = verdict(*of.values())
    budget = Budget(*(ds.attrs[field] for field in ("depth", "width", "steps", "batch_size")))
    sick = patient(name, budget).untreated
    after = treated(remedy, sick)
    why = (
        after.reason
        if isinstance(after, NotApplicable)
        else reason(remedy, of[remedy], of["untreated"])
    )
    return [
        Row(
            patient=name,
            remedy=remedy,
            seed=int(seed),
            ratio_before=float(of["untreated"]["ratio"].sel(seed=seed)),
            ratio_after=float(of[remedy]["ratio"].sel(seed=seed)),
            loss=float(of[remedy]["loss"].sel(seed=seed)),
            accuracy=float(of[remedy]["accuracy"].sel(seed=seed)),
            verdict=found.words,
            reason=why,
        )
        for seed in ds["seed"].values
    ]


_HEADINGS = ("patient", "remedy", "ratio before", "after", "loss", "accuracy", "verdict", "reason")


def as_text(rows: Sequence[Row]) -> str:
    """Aligned columns, a line for every patient and remedy, means over seeds."""
    return text_table(_HEADINGS, _lines(rows))


def as_markdown(rows: Sequence[Row]) -> str:
    """The same in Markdown."""
    return markdown_table(_HEADINGS, _lines(rows))


def _lines(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    pairs = dict.fromkeys((row.patient, row.remedy) for row in rows)
    return [_line([r for r in rows if (r.patient, r.remedy) == pair]) for pair in pairs]


def _line(runs: Sequence[Row]) -> tuple[str, ...]:
    """Ratios by their geometric mean: they spread over orders of magnitude."""
    first = runs[0]
    before, after = ([getattr(r, f"ratio_{when}") for r in runs] for when in ("before", "after"))
    loss, accuracy = [r.loss for r in runs], [r.accuracy for r in runs]
    return (
        first.patient,
        first.remedy,
        _number(_geometric_mean(before), 2),
        _number(_geometric_mean(after), 2),
        _number(float(np.mean(loss)), 3),
        _spread(accuracy),
        first.verdict,
        first.reason,
    )


def _geometric_mean(values: Sequence[float]) -> float:
    with np.errstate(divide="ignore"):
        return float(np.exp(np.mean(np.log(values))))


def _number(value: float, digits: int) -> str:
    return "-" if np.isnan(value) else number(value, digits)


def _spread(values: Sequence[float]) -> str:
    if np.isnan(values).any():
        return "-"
    return f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"


def write_csv(rows: Sequence[Row], path: str | os.PathLike) -> None:
    """Every run with full precision, one column for each attribute of `Row`."""
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
