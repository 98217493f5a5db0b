"""The factor on a model's weights at which gradients neither grow nor shrink through it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import numpy as np
from scipy.optimize import brentq

from sigprop.limit.figures import exact_figures
from sigprop.limit.interpreting import Reading, read
from sigprop.limit.weights import Laws

__all__ = ["CriticalGain", "critical_gain"]

_STEP = 2**0.25  # of the gain, on the way to a change of sign
_MOST_STEPS = 16


@dataclass(frozen=True)
class CriticalGain:
    """Where gradients neither grow nor shrink.

    Attributes
    ----------
    gain
        What every chosen weight is to be multiplied by; its square multiplies variances.
    growth
        Of ln ‖g‖² towards the input, a row, with the weights as they are.
    slope
        D growth/d ln gain at the root: how sharp it is.
    weights
        The arrays that were scaled.
    """

    gain: float
    growth: float
    slope: float
    weights: tuple[str, ...]


def critical_gain(
    model: Any,
    inputs: Any,
    *,
    only: str | Sequence[str] = "*",
    apply: Callable | None = None,
    loss: Callable | None = None,
    laws: Laws = None,
) -> CriticalGain:
    r"""The factor on the weights at which squared gradients stay as they are through the model.

    Growth is the mean of ln ‖g_l‖² - ln ‖g_{l+1}‖² over the second half of the rows, where a deep
    model has forgotten how large its inputs are. The root nearest to 1 in the direction in which
    the growth's sign sends it is found by Brent's method, of exact figures only.

    Parameters
    ----------
    model, inputs, apply, loss, laws
        As for `predict`.
    only
        Paths of the arrays to scale ("layers/*/kernel"), or several; of two axes or more.

    Raises
    ------
    ValueError
        If the model's figures are not exact, ``only`` names no weight, there are fewer than three
        rows with a gradient, or growth does not change sign for gains within a factor of 16.

    Examples
    --------
    >>> import jax
    >>> weights = [np.ones((64, 64))] * 8
    >>> def net(w, x):
    ...     for n, kernel in enumerate(w):
    ...         x = (jax.nn.relu(x) if n else x) @ kernel
    ...     return x
    >>> found = critical_gain(weights, np.ones((1, 64)), apply=net, laws={"*": 0.5 / 64})
    >>> round(found.gain, 9), round(found.growth, 9), round(float(np.log(0.25)), 9)
    (2.0, -1.386294361, -1.386294361)
    """
    reading = read(model, inputs, apply, loss, laws)
    chosen = _chosen(reading, [only] if isinstance(only, str) else only)

    def growth(log_gain: float) -> float:
        factors = np.where(chosen, np.exp(2 * log_gain), 1.0)
        return _growth(reading.scaled(factors.tolist()))

    here = growth(0.0)
    near, far = _bracket(growth, here)
    low, high = sorted((near, far))
    root = low if low == high else float(brentq(growth, low, high, xtol=1e-12))  # type: ignore[arg-type]
    width = 1e-4
    slope = (growth(root + width) - growth(root - width)) / (2 * width)
    names = tuple(name for name, yes in zip(reading.opened.names, chosen) if yes)
    return CriticalGain(float(np.exp(root)), here, slope, names)


def _chosen(reading: Reading, patterns: Sequence[str]) -> np.ndarray:
    names = reading.opened.names
    chosen = [
        drawn and any(fnmatch(name, pattern) for pattern in patterns)
        for name, drawn in zip(names, reading.random)
    ]
    if not any(chosen):
        weights = [name for name, drawn in zip(names, reading.random) if drawn]
        raise ValueError(f"only names none of the weights {weights}, got {list(patterns)}")
    return np.asarray(chosen)


def _growth(reading: Reading) -> float:
    figures = exact_figures(reading)
    lost = [(n, f) for n, f in zip(reading.names, figures) if not f.complete]
    if lost:
        name, found = lost[0]
        reason = found.reason or found.gradient_reason
        raise ValueError(f"critical gain needs exact figures; {name}: {reason}")
    logs = np.asarray([f.log_gradient for f in figures])
    if len(logs) < 3 or not np.all(np.isfinite(logs)):
        raise ValueError("critical gain needs three rows, all with a gradient")
    half = logs[(len(logs) - 1) // 2 :]
    return float((half[0] - half[-1]) / (len(half) - 1))


def _bracket(growth: Callable[[float], float], here: float) -> tuple[float, float]:
    """Two log gains between which growth changes its sign, from 0 in the direction of its sign."""
    if here == 0.0:
        return 0.0, 0.0
    step = -np.sign(here) * np.log(_STEP)
    for n in range(1, _MOST_STEPS + 1):
        if growth(n * step) * here <= 0:
            return float((n - 1) * step), float(n * step)
    raise ValueError(
        f"growth {here:.3g} a row does not change sign for gains within a factor of "
        f"{_STEP**_MOST_STEPS:.3g}"
    )
