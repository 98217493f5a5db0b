"""Rules for operations that act entry by entry."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sigprop.limit.atoms import Form
from sigprop.limit.axes import Axes, alike, projected, sizes, spread
from sigprop.limit.constants import fixed, is_uniform
from sigprop.limit.expressions import IDENTITY, Expression, literal, node
from sigprop.limit.refusals import NotClosed, Refused
from sigprop.limit.signals import Const, Signal, Term
from sigprop.limit.weights import Weight

__all__ = ["NAMES", "of_weight", "elementwise", "same_axes"]

_LINEAR = ("add", "sub", "add_any", "neg", "mul", "div", "copy", "convert_element_type", "copy_p")
_KEPT = ("copy", "copy_p", "reduce_precision", "stop_gradient", "optimization_barrier")
NAMES = frozenset((
    "abs", "acos", "acosh", "add", "add_any", "and", "asin", "asinh", "atan", "atan2", "atanh",
    "cbrt", "ceil", "clamp", "convert_element_type", "copy", "copy_p", "cos", "cosh", "div", "eq",
    "erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "floor", "ge", "gt", "integer_pow",
    "is_finite", "le", "lgamma", "log", "log1p", "logistic", "lt", "max", "min", "mul", "ne",
    "neg", "nextafter", "not", "or", "pow", "reduce_precision", "rem", "round", "rsqrt",
    "select_n", "sign", "sin", "sinh", "sqrt", "square", "sub", "tan", "tanh", "xor",
    "stop_gradient", "optimization_barrier",
))  # fmt: skip


def elementwise(equation: Any, given: Sequence[Any], signal_of) -> Any:
    """One operation on signals, weights and known arrays; not on known arrays only."""
    name = equation.primitive.name
    if any(isinstance(x, Weight) for x in given):
        scaled = of_weight(name, equation, given)
        if scaled is not None:
            return scaled
        given = [signal_of(x) if isinstance(x, Weight) else x for x in given]
    shape = equation.outvars[0].aval.shape
    given = [_spread(x, shape) if isinstance(x, Signal) else x for x in given]
    signals = [x for x in given if isinstance(x, Signal)]
    axes = same_axes(name, signals)
    rule = _RULES.get(name)
    if rule is not None:
        found = rule(equation, given, axes)
        if found is not None:
            return found
    return _composed(equation, given, axes)


def _spread(signal: Signal, shape: tuple[int, ...]) -> Signal:
    """Axes of size 1 count for as many as the others have."""
    if sizes(signal.axes) == shape:
        return signal
    axes, index = spread(signal.axes, shape, range(len(shape)))
    return signal.at(index, axes)


def same_axes(name: str, signals: Sequence[Signal]) -> Axes:
    """The axes that all have in common."""
    axes = signals[0].axes
    for other in signals[1:]:
        if not alike(axes, other.axes):
            raise NotClosed(f"{name} of a signal's units with one number for many units")
    return axes


# ---------------------------------------------------------------------------- weights


def of_weight(name: str, equation: Any, given: Sequence[Any]) -> Weight | None:
    """A weight times a number is one still; None where it has to be taken as a signal."""
    first = next(x for x in given if isinstance(x, Weight))
    if name == "convert_element_type" or name in _KEPT:
        return first
    if name == "neg":
        return first.scaled(-1.0)
    others = [x for x in given if x is not first]
    if name in ("mul", "div") and len(others) == 1 and _is_number(others[0]):
        number = float(np.ravel(others[0].array)[0])
        if name == "mul" or given[0] is first:
            return first.scaled(number if name == "mul" else 1 / number)
    if name in ("add", "sub", "add_any", "mul", "select_n", "max"):
        return None
    if len(first.shape) < 2:
        return None
    raise Refused(f"{name} of a weight: its entries are no longer drawn independently")


def _is_number(value: Any) -> bool:
    return isinstance(value, Const) and is_uniform(value.array)


# ---------------------------------------------------------------------------- linear ones


def _add(equation, given, axes, sign=1.0):
    first, second = (as_signal(x, axes) for x in given)
    if equation.primitive.name == "sub":
        sign = -1.0
    return _folded(first, second, given, sign)


def _folded(first: Signal, second: Signal, given, sign: float) -> Signal:
    """A number that stands in the program belongs to the function."""
    known = [isinstance(x, Const) and x.written for x in given]
    if any(known):
        try:
            (form, f), (other, g) = (x.argument("add") for x in (first, second))
        except NotClosed:
            return first.plus(second, sign)
        if form is not None or other is not None:
            name, apply = ("add", jnp.add) if sign == 1.0 else ("sub", jnp.subtract)
            zero = f.constant == 0.0 or g.constant == 0.0
            if not zero:
                total = node(name, apply, (), (f, g))
                return _function(form or other, total, first.axes)
    return first.plus(second, sign)


def as_signal(value: Any, axes: Axes) -> Signal:
    """A known array as a signal: one number for all units of a place, or fixed ones."""
    if isinstance(value, Signal):
        return value
    columns = projected(np.asarray(value.array, float), axes)
    if np.all(columns == columns[:, :1]):
        numbers = columns[:, 0]
        if not np.any(numbers):
            return Signal(axes, ())
        if value.written and is_uniform(numbers):
            return Signal(axes, (Term({}, float(numbers[0])),))
        return Signal(axes, (Term({}, 1.0, numbers),))
    form = Form({(fixed(columns), ()): np.eye(len(columns))}, len(columns))
    return Signal(axes, (Term({form: IDENTITY}),))


def _known_factor(value: Const, axes: Axes, name: str) -> np.ndarray:
    columns = projected(np.asarray(value.array, float), axes)
    if not np.all(columns == columns[:, :1]):
        raise NotClosed(f"{name} by known numbers that differ from unit to unit")
    return columns[:, 0]


def _mul(equation, given, axes):
    first, second = given
    if isinstance(first, Signal) and isinstance(second, Signal):
        return first.times(second)
    signal, value = (first, second) if isinstance(first, Signal) else (second, first)
    return _multiplied(signal, value, _known_factor(value, axes, "mul"))


def _multiplied(signal: Signal, value: Const, factor: np.ndarray) -> Signal:
    if value.written and is_uniform(factor):
        return signal.scaled(float(factor[0]))
    return signal.weighted(factor)


def _div(equation, given, axes):
    first, second = given
    if isinstance(second, Signal):
        return None
    with np.errstate(divide="ignore"):
        factor = 1 / _known_factor(second, axes, "div")
    if not np.all(np.isfinite(factor)):
        raise NotClosed("div by 0")
    return _multiplied(first, second, factor)


def _square(equation, given, axes):
    if equation.primitive.name == "integer_pow" and equation.params["y"] != 2:
        return None
    try:
        return _composed(equation, given, axes)
    except NotClosed:
        return given[0].times(given[0])


def _select(equation, given, axes):
    """One of two: by a known mask, or by what a Gaussian is."""
    which, *cases = given
    if len(cases) != 2:
        return None
    if not isinstance(which, Signal):
        mask = np.broadcast_to(np.asarray(which.array), tuple(equation.outvars[0].aval.shape))
        chosen = _known_factor(Const(mask.astype(float)), axes, "select_n")
        off, on = (as_signal(x, axes) for x in cases)
        return off.weighted(1 - chosen).plus(on.weighted(chosen))
    try:
        return _composed(equation, given, axes)
    except NotClosed:
        form, f = which.argument("select_n")
    off, on = (as_signal(x, axes) for x in cases)
    one, zero = literal(1.0), literal(0.0)
    pick = functools.partial(node, "select_n", jax.lax.select_n, ())
    is_on, is_off = pick((f, zero, one)), pick((f, one, zero))
    as_term = lambda g: _function(form, g, axes)  # noqa: E731
    return off.times(as_term(is_off)).plus(on.times(as_term(is_on)))


def _kept(equation, given, axes):
    return given[0]


def _convert(equation, given, axes):
    """Rounding is left out; truth values become numbers."""
    old, new = (v.aval.dtype for v in (equation.invars[0], equation.outvars[0]))
    if jnp.issubdtype(old, jnp.floating) and jnp.issubdtype(new, jnp.floating):
        return given[0]
    return None


_RULES = {
    "add": _add, "add_any": _add, "sub": _add, "mul": _mul, "div": _div, "square": _square,
    "integer_pow": _square, "select_n": _select, "convert_element_type": _convert,
    "neg": lambda equation, given, axes: given[0].scaled(-1.0),
    **dict.fromkeys(_KEPT, _kept),
}  # fmt: skip


# ---------------------------------------------------------------------------- any other


def _composed(equation, given, axes) -> Signal:
    """A function of the one Gaussian that all arguments are functions of."""
    name = equation.primitive.name
    pairs = [_argument(x, axes, name) for x in given]
    forms = {form for form, _ in pairs if form is not None}
    if len(forms) > 1:
        raise NotClosed(f"{name} of several Gaussians at a place")
    (form,) = forms or (None,)
    f = node(name, _applied(equation), _params(equation), [f for _, f in pairs])
    return _function(form, f, axes)


def _function(form: Form | None, f: Expression, axes: Axes) -> Signal:
    """F of a Gaussian, or of nothing."""
    if form is None:
        return Signal(axes, (Term({}, float(f.constant or 0.0)),))
    return Signal(axes, (Term({form: f}),))


def _argument(value: Any, axes: Axes, name: str) -> tuple[Any, Expression]:
    if isinstance(value, Signal):
        return value.argument(name)
    array = np.asarray(value.array)
    if not is_uniform(array):
        raise NotClosed(f"{name} with known numbers that differ from place to place")
    return None, literal(array.ravel()[0])


def _params(equation: Any) -> str:
    return repr(sorted(equation.params.items(), key=lambda item: item[0]))


def _applied(equation: Any):
    """The primitive, for arrays of any shape and precision."""
    primitive, params = equation.primitive, equation.params
    if primitive.name == "convert_element_type":
        dtype = params["new_dtype"]
        floating = jnp.issubdtype(dtype, jnp.floating)
        return lambda x: x.astype(jnp.result_type(float) if floating else dtype)
    return lambda *arrays: primitive.bind(*arrays, **params)
