"""One comparison: the slope along a line by the gradient and by differences."""

import math
from dataclasses import replace

import numpy as np

from sigprop.gradients import differences
from sigprop.gradients.check_report import CheckStatus, Row
from sigprop.gradients.differences import Slope, Values
from sigprop.gradients.directions import Line
from sigprop.gradients.points import Point
from sigprop.gradients.target import Target

__all__ = ["RESOLVED", "compare", "product", "rounding_of"]

# A gradient is itself rounded: what back-propagation through a well-conditioned model of some
# hundred layers leaves, in machine epsilons of the size of its terms; in bfloat16, a quarter.
_GRADIENT_ROUNDING, _MOST_ROUNDING = 1000, 0.25

# A comparison says something if its error bar is below this fraction of the slope: a wrong sign,
# a factor of 2 and a missing path are then told from a right one.
RESOLVED = 0.5
# Where three steps tell to this fraction, no more are taken.
_PRECISE = 1e-5


def compare(checked: Target, at: Point, line: Line, tolerance: float) -> Row:
    """The claimed slope along a line against differences of the function's values."""
    row, values, found = _by_differences(checked, at, line, tolerance)
    if not found.finite or not math.isfinite(row.gradient):
        remark = f"the {'gradient' if found.finite else 'function'} is not finite here"
        return replace(row, status=CheckStatus.NONFINITE, remark=remark)
    if row.status == CheckStatus.OK and not found.rough:
        return row
    if found.jump:
        return replace(row, status=CheckStatus.JUMP, remark="the function jumps here")
    low, high = sorted((found.left, found.right))
    if found.kink and low - row.error <= row.gradient <= high + row.error:
        remark = f"slopes {low:.3g} and {high:.3g} on its two sides"
        return replace(row, status=CheckStatus.KINK, remark=remark)
    uncertain = row.status == CheckStatus.WRONG or found.rough
    return _over_an_interval(checked, at, line, values, tolerance) if uncertain else row


def _by_differences(
    checked: Target, at: Point, line: Line, tolerance: float
) -> tuple[Row, Values, Slope]:
    """From a few steps if those tell, else from the whole ladder."""
    analytic, size = product(at.gradient, line)
    slack = (tolerance + rounding_of(checked.gradient_epsilon)) * size
    for h in (differences.quick(checked.epsilon), differences.full(checked.epsilon)):
        values = _sampled(checked, at, line, h)
        found = differences.slope(values)
        row = _row_of(checked, at, line, analytic, found.value, found.error + slack)
        if row.status == CheckStatus.OK and found.error <= _PRECISE * abs(found.value):
            return row, values, replace(found, rough=False)
    return row, values, found


def product(gradient: tuple[np.ndarray, ...], line: Line) -> tuple[float, float]:
    """Re ⟨gradient, direction⟩, in JAX's convention, and the root sum square of its terms."""
    terms = [np.real(gradient[i] * line.direction[i]) for i in line.members]
    size = math.sqrt(sum(float(np.sum(term**2)) for term in terms))
    return float(sum(term.sum() for term in terms)), size


def rounding_of(epsilon: float) -> float:
    """What a gradient computed at this precision may be off by, as a part of its terms."""
    return min(_GRADIENT_ROUNDING * epsilon, _MOST_ROUNDING)


def _row_of(
    checked: Target, at: Point, line: Line, analytic: float, difference: float, error: float
) -> Row:
    """Judged by the error bar alone."""
    largest = max(abs(analytic), abs(difference))
    status, remark = CheckStatus.OK, ""
    if not abs(analytic - difference) <= error:
        status, remark = (
            CheckStatus.WRONG,
            _suspicion(checked, at, line, analytic, difference, error),
        )
    elif analytic == 0 and abs(difference) <= error:
        status, remark = CheckStatus.ZERO, "0 against 0"
    elif error > RESOLVED * largest:
        status, remark = CheckStatus.CANCELLATION, "rounding of the values hides the slope"
    name = checked.parameters.names[line.members[0]] if line.single else None
    return Row(name, line.along, at.name, analytic, difference, error, status, remark)


def _sampled(checked: Target, at: Point, line: Line, h: np.ndarray) -> Values:
    right, left = checked.values_along(at.values, line.direction, np.concatenate([h, -h])).reshape(
        2, -1
    )
    return Values(h, right, left, at.center, at.noise, checked.epsilon)


def _over_an_interval(
    checked: Target, at: Point, line: Line, values: Values, tolerance: float
) -> Row:
    """The mean of F' over (−h, h), by the gradient under test, against (F(h) − F(−h)) / 2h."""
    h, difference, error = differences.secant(values)
    points = differences.midpoints(h)
    products = [product(_gradient_along(checked, at, line, step), line) for step in points]
    slopes, sizes = np.asarray(products).T
    slack = (tolerance + rounding_of(checked.gradient_epsilon)) * float(sizes.mean())
    error += differences.integration_error(slopes) + slack
    return _row_of(checked, at, line, float(slopes.mean()), difference, error)


def _gradient_along(checked: Target, at: Point, line: Line, step: float) -> tuple[np.ndarray, ...]:
    moved = [np.asarray(v + step * d) for v, d in zip(at.values, line.direction)]
    return tuple(checked.gradient_at(moved))


def _suspicion(
    checked: Target, at: Point, line: Line, analytic: float, difference: float, error: float
) -> str:
    if not any(np.any(at.gradient[i]) for i in line.members):
        return "no gradient: is the path detached?"
    if abs(difference) <= error or not difference:
        return "should be 0"
    if abs(analytic + difference) <= error:
        return "wrong sign"
    conjugates = tuple(np.asarray(g.conj()) for g in at.gradient)
    conjugate, _ = product(conjugates, line)
    if conjugate != analytic and abs(conjugate - difference) <= error:
        return "complex conjugate of what JAX returns, which is df/dx - i df/dy"
    return f"{analytic / difference:.3g} times what it should be"
