"""What is predicted of a program: a row for every use of a weight."""

from dataclasses import dataclass

import numpy as np

from sigprop._tables import number, text_table
from sigprop.limit.refusals import Refusal

__all__ = ["Place", "Prediction"]


@dataclass(frozen=True)
class Place:
    r"""One product of a weight and a signal, behind the bias where one is added to it alone.

    Attributes
    ----------
    name
        Path of the layer; ``[i]`` for the i-th use of a weight that is used several times.
    weight
        Path of the weight.
    shape
        Of the places: inputs, pixels, tokens, in the order of the array's own axes.
    units
        Channels at a place.
    exact
        Whether every figure is an integral, not a sample, of laws that were told.
    second_moment
        E[z²] at every place.
    covariance, one_minus_correlation
        Between any two places, numbered in row-major order. 1 - c keeps its digits as c -> 1.
    log_gradient
        ln E\|∂ℓ/∂z\|², over all places and units; nan where there is none, -inf where it is 0.
    gradient_covariance
        E[g_i g_j] of one unit between places.
    *_stderr
        Standard errors; 0 for what is exact.
    transposed_share
        Largest part of a second moment, on either way, that the weight's meeting its own transpose
        makes.
    """

    name: str
    weight: str
    shape: tuple[int, ...]
    units: int
    exact: bool
    second_moment: np.ndarray
    covariance: np.ndarray
    one_minus_correlation: np.ndarray
    log_gradient: float
    gradient_covariance: np.ndarray
    second_moment_stderr: np.ndarray
    covariance_stderr: np.ndarray
    log_gradient_stderr: float
    transposed_share: float

    @property
    def variance(self) -> float:
        """Mean of E[z²] over all places."""
        return float(np.mean(self.second_moment))


@dataclass(frozen=True)
class Prediction:
    """The rows, and what stands behind them.

    Attributes
    ----------
    places
        A row for every use of a weight, in the order of the program.
    notes
        What was approximated or taken for granted.
    refused
        Operations and weights for which there is no law; their rows are not given.
    """

    places: tuple[Place, ...]
    notes: tuple[str, ...]
    refused: tuple[Refusal, ...]

    @property
    def exact(self) -> bool:
        """Whether all rows are, and none is missing."""
        return not self.refused and all(place.exact for place in self.places)

    def __getitem__(self, name: str) -> Place:
        """The row of that name.

        Raises
        ------
        KeyError
            If there is none; the names that there are stand in the message.
        """
        for place in self.places:
            if place.name == name:
                return place
        reason = next((str(r) for r in self.refused if r.operation == name), "")
        raise KeyError(reason or f"no row {name!r}; there are {[p.name for p in self.places]}")

    def correlation(self, name: str, first: int, second: int) -> float:
        """C of two places of a row."""
        return float(1 - self[name].one_minus_correlation[first, second])

    @property
    def growth(self) -> float:
        """(ln g² of the first row less that of the last)/(rows - 1), rows with a gradient only."""
        logs = [p.log_gradient for p in self.places if np.isfinite(p.log_gradient)]
        return (logs[0] - logs[-1]) / (len(logs) - 1) if len(logs) > 1 else float("nan")

    def __str__(self) -> str:
        """A table, the notes and what is refused."""
        headings = ["name", "E[z²]", "±", "ln |g|²", "±", "exact"]
        lines = [text_table(headings, [_row(place) for place in self.places])]
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"refused: {each}" for each in self.refused]
        return "\n".join(lines)


def _row(place: Place) -> list[str]:
    error = float(np.mean(place.second_moment_stderr))
    figures = [(place.variance, 6), (error, 1), (place.log_gradient, 6)]
    figures += [(place.log_gradient_stderr, 1)]
    texts = [number(value, digits) for value, digits in figures]
    return [place.name, *texts, "yes" if place.exact else "no"]
