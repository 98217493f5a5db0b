"""What mean-field theory says of a training run before it starts, and what a remedy changes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from sigprop import theory
from sigprop.kinds import compose
from sigprop.studies.remedies.patients import Setup
from sigprop.studies.remedies.treated_runs import curvature, input_second_moment

__all__ = ["Prediction", "prediction", "reason"]


@dataclass(frozen=True)
class Prediction:
    """Of a network at initialisation; nan where theory has no such number.

    Attributes
    ----------
    chi_1, chi_q
        At the fixed point that a plain network of this start flows to.
    growth
        Factor a layer of the squared gradient on its way down, mean of ln over the depth along the
        trajectory; of every block that has a theory.
    stable_step
        Of a quadratic loss: the step size 2/λ from which gradient descent diverges.
    """

    chi_1: float
    chi_q: float
    growth: float
    stable_step: float


def prediction(setup: Setup) -> Prediction:
    """For one run.

    Examples
    --------
    >>> from sigprop.studies.remedies.patients import Budget, patient
    >>> sick = prediction(patient("sigmoid_unit_entries", Budget()).untreated)
    >>> round(sick.chi_1, 2), round(sick.growth, 2)
    (0.79, 0.81)
    """
    if not setup.is_deep:
        return Prediction(np.nan, np.nan, np.nan, 2 / curvature(setup))
    network = setup.architecture
    variances: Any = {"weight_var": network.weight_var, "bias_var": network.bias_var}
    variance0 = theory.input_variance(input_second_moment(setup), **variances)
    batch = setup.batch_size if compose(network).layer.couples_inputs else None
    path = theory.predict(network, variance0=variance0, batch=batch)
    chi_1 = chi_q = np.nan
    if network.is_plain:
        point = theory.fixed_point(network.activation, variance0=variance0, **variances)
        chi_1, chi_q = float(point.chi_1), float(point.chi_q)
    return Prediction(chi_1, chi_q, float(np.exp(path.gradient_rate)), np.nan)


_SAME = 1e-3  # relative: closer numbers are not told apart in words

_BESIDES = {
    "weight_norm": "the length of every row of weights is trained apart from its direction",
    "dropout": "masks on what a hidden layer passes on",
    "l2": "weights are pulled towards 0",
    "clip_by_norm": "an update has length step size at most, however large the gradient",
    "clip_by_value": "no entry of a gradient is above 0.01, however large it was",
    "adam": "steps are divided by the gradient's own size, down to 1e-8",
    "rmsprop": "steps are divided by the gradient's own size, down to 1e-4",
    "adagrad": "steps are divided by the root of all squared gradients so far and 0.1",
    "small_batch": "noisier gradients of the same size",
    "early_stopping": "goes back to the best parameters seen",
}
"""What a remedy does besides the numbers that theory has for it."""


def reason(remedy: str, treated: xr.Dataset, untreated: xr.Dataset) -> str:
    """Which of χ_1, χ_q, growth and step size a remedy changes, from what to what.

    Parameters
    ----------
    remedy
        Its name, for what it does besides.
    treated, untreated
        The `Prediction` and ``learning_rate`` of both.
    """
    told = [
        *_network_words(treated, untreated),
        *_changed("step size", treated["learning_rate"], untreated["learning_rate"]),
        *_changed(
            "step size that diverges",
            treated["stable_step_theory"],
            untreated["stable_step_theory"],
        ),
    ]
    if not told:
        told = [_kept(untreated)]
    return "; ".join([*told, *([_BESIDES[remedy]] if remedy in _BESIDES else [])])


def _network_words(treated: xr.Dataset, untreated: xr.Dataset) -> list[str]:
    """Of a network with a norm or a skip, which has no chi_1, what its layers do on average."""
    told = [
        words
        for name in ("chi_1", "chi_q")
        for words in _changed(name, treated[f"{name}_theory"], untreated[f"{name}_theory"])
    ]
    if told or np.isfinite(treated["chi_1_theory"]):
        return told
    growth = [run["growth_theory"] for run in (treated, untreated)]
    return _changed("squared gradient a layer, factor", *growth)


def _changed(name: str, after: xr.DataArray, before: xr.DataArray) -> list[str]:
    old, new = float(before), float(after)
    if not np.isfinite([old, new]).all() or abs(new - old) <= _SAME * abs(old):
        return []
    return [f"{name} {_three(old)} → {_three(new)}"]


def _kept(untreated: xr.Dataset) -> str:
    if np.isfinite(untreated["chi_1_theory"]):
        return f"chi_1 stays {_three(float(untreated['chi_1_theory']))}"
    rate, limit = (float(untreated[n]) for n in ("learning_rate", "stable_step_theory"))
    return f"step size stays {_three(rate)}, above the {_three(limit)} that diverges"


def _three(value: float) -> str:
    """Three significant digits, trailing zeros too: "1.00" says more than "1"."""
    return f"{value:#.3g}"
