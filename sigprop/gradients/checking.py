"""Gradient checking: is the gradient of a function what its values say?"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, UInt32

from sigprop._checks import check_whole_number
from sigprop.gradients import differences
from sigprop.gradients.directions import Line, lines, random_direction
from sigprop.gradients.objective import first_line
from sigprop.gradients.report import CheckStatus, GradientReport, Row
from sigprop.gradients.target import Target, target

__all__ = ["check"]

# A gradient is itself rounded: what back-propagation through a well-conditioned model of some
# hundred layers leaves, in machine epsilons of the size of its terms.
_GRADIENT_ROUNDING = 1000

# A comparison says something if its error bar is below this fraction of the slope: a wrong sign,
# a factor of 2 and a missing path are then told from a right one.
_RESOLVED = 0.5


def check(
    fn: Callable[[Any], Any],
    params: Any,
    *,
    key: Key[Array, ""] | UInt32[Array, "2"],
    grad: Callable[[Any], Any] | None = None,
    directions: int = 2,
    entries: int = 3,
) -> GradientReport:
    """Compare a gradient with differences of the function's values, array by array.

    Slopes along random directions through all parameters and through each array alone, and along
    single entries of each array. Step sizes, and error bars that hold both truncation and
    rounding, come from the values (`sigprop.gradients.differences`), in whatever precision ``fn``
    computes. Last, ⟨u, J v⟩ by forward mode is compared with ⟨Jᵀu, v⟩ by reverse mode.

    Parameters
    ----------
    fn
        ``fn(params)`` returns one real number or any pytree of them (of which a random
        combination is checked). Deterministic and JAX-traceable.
    params
        Any pytree with floating-point arrays, a Flax NNX module, or a bound Linen module.
    key
        Where the directions come from.
    grad
        ``grad(params)`` is the gradient to check, of the structure of ``params``; reverse mode of
        ``fn`` if None. Only for an ``fn`` that returns one number.
    directions
        Directions through all parameters, >= 1.
    entries
        Entries of each array that are checked one by one, >= 0: the one with the largest
        gradient and random others; all of them if the array has no more.

    Returns
    -------
    GradientReport
        ``.ok``, ``.table``, ``.wrong`` (names of the arrays), ``.assert_ok()``.

    Raises
    ------
    ValueError
        If there is nothing to differentiate by, ``fn`` fails or returns anything but real
        numbers, or the gradient given does not have the shapes of the parameters.

    Notes
    -----
    A row is *wrong* if gradient and differences are further apart than the error bar; *kink* if
    the slopes to the left and right differ at any step and the gradient lies between them;
    *cancellation* if the error bar exceeds half of the slope, so that the row says nothing. Where
    the function has corners all around (relu networks), the difference over a step is held against
    the mean of the gradient over that step, which are equal whatever the corners.

    Examples
    --------
    >>> params = {"w": jnp.array([0.5, -1.0]), "b": jnp.array(0.1)}
    >>> model = lambda p: jnp.tanh(jnp.sum(p["w"] ** 2) + p["b"])
    >>> check(model, params, key=jax.random.key(0)).ok
    True
    >>> detached = lambda p: jnp.tanh(jnp.sum(jax.lax.stop_gradient(p["w"]) ** 2) + p["b"])
    >>> check(detached, params, key=jax.random.key(0)).wrong
    ('w',)
    """
    directions = check_whole_number("directions", directions)
    entries = check_whole_number("entries", entries, minimum=0)
    key_output, key_rows = jax.random.split(key)
    checked = target(fn, params, grad, key_output)
    gradient = checked.gradient_at(checked.parameters.values)
    rng = np.random.default_rng(int(jax.random.randint(key_rows, (), 0, 2**31 - 1)))
    rows = [
        _compare(checked, gradient, line)
        for line in lines(checked.parameters.values, gradient, rng, directions, entries)
    ]
    return GradientReport((*rows, _adjoint(checked, gradient, rng)))


def _compare(checked: Target, gradient: list[np.ndarray], line: Line) -> Row:
    epsilon = checked.epsilon
    values = checked.values_along(line.direction, differences.steps(epsilon))
    found = differences.slope(values, epsilon)
    analytic, rounding = _product(gradient, line, epsilon)
    if not found.finite or not math.isfinite(analytic):
        where = "gradient" if found.finite else "function"
        remark = f"the {where} is not finite here"
        return _row(checked, line, analytic, found.value, math.nan, CheckStatus.NONFINITE, remark)
    error = found.error + rounding
    low, high = sorted((found.left, found.right))
    if found.kink and low - error <= analytic <= high + error:
        remark = f"slopes {low:.3g} and {high:.3g} on its two sides"
        return _row(checked, line, analytic, found.value, error, CheckStatus.KINK, remark)
    row = _judged(checked, line, analytic, found.value, error)
    uncertain = row.status == CheckStatus.WRONG or found.rough
    return _over_an_interval(checked, line, values) if uncertain else row


def _over_an_interval(checked: Target, line: Line, values: np.ndarray) -> Row:
    """The mean of F' over (−h, h), by the gradient under test, against (F(h) − F(−h)) / 2h."""
    h, difference, error = differences.secant(values, checked.epsilon)
    at = differences.midpoints(h)
    products = [
        _product(checked.gradient_at(checked.moved(line.direction, step)), line, checked.epsilon)
        for step in at
    ]
    slopes, roundings = np.asarray(products).T
    error += differences.integration_error(slopes) + float(roundings.mean())
    return _judged(checked, line, float(slopes.mean()), difference, error)


def _product(gradient: list[np.ndarray], line: Line, epsilon: float) -> tuple[float, float]:
    """⟨gradient, direction⟩ and the rounding to expect in it."""
    terms = [gradient[i] * line.direction[i].astype(np.float64) for i in line.members]
    size = math.sqrt(sum(float(np.sum(term**2)) for term in terms))
    return float(sum(term.sum() for term in terms)), _GRADIENT_ROUNDING * epsilon * size


def _judged(checked: Target, line: Line, analytic: float, difference: float, error: float) -> Row:
    largest = max(abs(analytic), abs(difference))
    status, remark = CheckStatus.OK, ""
    if not abs(analytic - difference) <= error:
        status, remark = CheckStatus.WRONG, _suspicion(analytic, difference, error)
    elif largest > 0 and error > _RESOLVED * largest:
        status = CheckStatus.CANCELLATION
    return _row(checked, line, analytic, difference, error, status, remark)


def _suspicion(analytic: float, difference: float, error: float) -> str:
    if analytic == 0:
        return "no gradient: is the path detached?"
    if abs(difference) <= error:
        return "should be 0"
    if abs(analytic + difference) <= error:
        return "wrong sign"
    return f"{analytic / difference:.3g} times what it should be"


def _row(checked: Target, line: Line, *rest: Any) -> Row:
    name = checked.parameters.names[line.members[0]] if line.single else ""
    return Row(name, line.along, *rest)


def _adjoint(checked: Target, gradient: list[np.ndarray], rng: np.random.Generator) -> Row:
    """⟨u, J v⟩ by forward mode against ⟨Jᵀu, v⟩."""
    line = random_direction(checked.parameters.values, rng, along="adjoint")
    backward, rounding = _product(gradient, line, checked.epsilon)
    primal = list(checked.parameters.values)
    try:
        push = jax.jit(lambda v: jax.jvp(checked.outputs, (primal,), (v,))[1])
        tangent = push([jnp.asarray(d) for d in line.direction])
    except Exception as error:  # a custom rule for reverse mode alone
        unavailable = CheckStatus.UNAVAILABLE
        remark = f"no forward mode: {first_line(error)}"
        return _row(checked, line, backward, math.nan, math.nan, unavailable, remark)
    products = np.asarray(checked.weights, np.float64) * np.asarray(tangent).astype(np.float64)
    forward = float(products.sum())
    bar = rounding + _GRADIENT_ROUNDING * checked.epsilon * float(np.linalg.norm(products))
    if not (math.isfinite(forward) and math.isfinite(backward)):
        return _row(checked, line, backward, forward, bar, CheckStatus.NONFINITE)
    status = CheckStatus.OK if abs(forward - backward) <= bar else CheckStatus.WRONG
    remark = "forward and reverse mode differ" if status else ""
    return _row(checked, line, backward, forward, bar, status, remark)
