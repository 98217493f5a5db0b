"""Argument checks: a static mistake is one clear line that names argument, value and range."""

import difflib
import functools
import inspect
import operator
from collections.abc import Callable, Collection
from typing import ParamSpec, TypeVar

import jax
import numpy as np

from sigprop._precision import is_traced

__all__ = [
    "check_below_one",
    "check_finite",
    "check_known",
    "check_non_negative",
    "check_one_of",
    "check_positive",
    "check_whole_number",
    "of_variances",
]

Given = ParamSpec("Given")
Returned = TypeVar("Returned")


def check_whole_number(name: str, value: object, minimum: int = 1) -> int:
    """``value`` as an int, if it is a whole number of at least ``minimum``.

    Examples
    --------
    >>> check_whole_number("depth", 3)
    3
    >>> check_whole_number("depth", 0)
    Traceback (most recent call last):
    ...
    ValueError: depth must be an integer >= 1, got 0
    """
    problem = ValueError(f"{name} must be an integer >= {minimum}, got {value!r}")
    if isinstance(value, bool | np.bool_) or is_traced(value):
        raise problem
    try:
        number = operator.index(value)  # type: ignore[arg-type]  # TypeError is the answer looked for
    except TypeError:
        raise problem from None
    if number < minimum:
        raise problem
    return number


def check_one_of(name: str, value: object, accepted: Collection[object]) -> None:
    """Raise unless ``value`` is one of ``accepted``.

    Examples
    --------
    >>> check_one_of("draws", "both", ("shared", "independent"))
    Traceback (most recent call last):
    ...
    ValueError: draws must be one of 'shared', 'independent', got 'both'
    """
    if not any(value is each or value == each for each in accepted):
        choices = ", ".join(repr(each) for each in accepted)
        raise ValueError(f"{name} must be one of {choices}, got {value!r}")


def check_known(name: str, value: object, accepted: Collection[object]) -> None:
    """As `check_one_of`, naming the nearest of ``accepted`` as well.

    Examples
    --------
    >>> check_known("block", "residaul", ("plain", "residual"))
    Traceback (most recent call last):
    ...
    ValueError: block must be one of 'plain', 'residual', got 'residaul'; did you mean 'residual'?
    """
    try:
        check_one_of(name, value, accepted)
    except ValueError as error:
        known = [each for each in accepted if isinstance(each, str)]
        near = difflib.get_close_matches(str(value), known, n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ValueError(f"{error}{hint}") from None


def check_below_one(name: str, value: object) -> None:
    """Raise unless every entry is a number in [0, 1); a value being traced is let through.

    Examples
    --------
    >>> check_below_one("dropout", 1.0)
    Traceback (most recent call last):
    ...
    ValueError: dropout must be >= 0 and < 1, got 1.0
    """
    array = _concrete(name, value)
    if array is not None:
        _raise_at_first(name, ">= 0 and < 1", array, ~((array >= 0) & (array < 1)))


def check_non_negative(name: str, value: object) -> None:
    """Raise unless every entry is a finite number >= 0; a value being traced is let through.

    Examples
    --------
    >>> check_non_negative("weight_var", [1.0, -0.5])
    Traceback (most recent call last):
    ...
    ValueError: weight_var must be finite and >= 0, got -0.5 at index (1,)
    """
    array = _concrete(name, value)
    if array is not None:
        _raise_at_first(name, "finite and >= 0", array, ~(np.isfinite(array) & (array >= 0)))


def check_positive(name: str, value: object) -> None:
    """Raise unless every entry is a finite number > 0; a value being traced is let through.

    Examples
    --------
    >>> check_positive("learning_rate", 0.0)
    Traceback (most recent call last):
    ...
    ValueError: learning_rate must be finite and > 0, got 0.0
    """
    array = _concrete(name, value)
    if array is not None:
        _raise_at_first(name, "finite and > 0", array, ~(np.isfinite(array) & (array > 0)))


def check_finite(name: str, value: object) -> None:
    """Raise unless every entry is a finite number; a value being traced is let through.

    Examples
    --------
    >>> check_finite("inputs", [[0.0, float("nan")]])
    Traceback (most recent call last):
    ...
    ValueError: inputs must be finite, got nan at index (0, 1)
    """
    array = _concrete(name, value)
    if array is not None:
        _raise_at_first(name, "finite", array, ~np.isfinite(array))


def _concrete(name: str, value: object) -> np.ndarray | None:
    """``value`` as a real NumPy array, None while it is traced."""
    if is_traced(value):
        return None
    try:
        array = np.asarray(value)
    except ValueError:  # ragged lists
        array = np.asarray([None])
    if isinstance(value, jax.Array):
        array = array.astype(np.float64)  # bfloat16 and friends have no isfinite of their own
    if array.dtype.kind not in "fiu":
        given = "a " + type(value).__name__ if array.ndim else repr(value)
        raise ValueError(f"{name} must be a real number or an array of them, got {given}")
    return array


def _raise_at_first(
    name: str, accepted: str, array: np.ndarray, wrong: np.ndarray | np.bool_
) -> None:
    if not wrong.any():
        return
    index = tuple(int(i) for i in np.argwhere(wrong)[0])
    where = f" at index {index}" if index else ""
    raise ValueError(f"{name} must be {accepted}, got {array[index]}{where}")


# Standard deviations, as other libraries and papers call them, and what each is the root of.
_DEVIATIONS: dict[str, str] = dict.fromkeys(
    ("weight_std", "w_std", "W_std", "sigma_w", "std_w"), "weight_var"
)
_DEVIATIONS |= dict.fromkeys(("bias_std", "b_std", "sigma_b", "std_b"), "bias_var")
_NUMBERS = ("variance", "variance_b", "variance0", "correlation", "correlation0", "weight_var",
            "bias_var")  # fmt: skip


def of_variances(call: Callable[Given, Returned]) -> Callable[Given, Returned]:
    """A function of variances, that says so to who gives it a standard deviation.

    Its numbers are checked to broadcast.

    Examples
    --------
    >>> slope = of_variances(lambda *, weight_var=1.0, bias_var=0.0: weight_var + bias_var)
    >>> slope(sigma_w=1.5)
    Traceback (most recent call last):
    ...
    TypeError: sigma_w must be given as a variance: weight_var = sigma_w**2
    >>> slope(weight_var=np.ones(3), bias_var=np.ones(4))
    Traceback (most recent call last):
    ...
    ValueError: weight_var and bias_var must broadcast, got shapes (3,) and (4,)
    """
    signature = inspect.signature(call)

    @functools.wraps(call)
    def checked(*args: Given.args, **kwargs: Given.kwargs) -> Returned:
        for name in kwargs.keys() & _DEVIATIONS.keys() - signature.parameters.keys():
            variance = _DEVIATIONS[name]
            raise TypeError(f"{name} must be given as a variance: {variance} = {name}**2")
        _check_broadcast(signature, args, kwargs)
        return call(*args, **kwargs)

    return checked


def _check_broadcast(signature: inspect.Signature, args: tuple, kwargs: dict) -> None:
    try:
        given = signature.bind(*args, **kwargs).arguments
        shapes = {name: np.shape(given[name]) for name in _NUMBERS if given.get(name) is not None}
    except (TypeError, ValueError):
        return  # the call itself says what is missing, or no array
    try:
        np.broadcast_shapes(*shapes.values())
    except ValueError:
        *names, last = (name for name, shape in shapes.items() if shape)
        listed = " and ".join(str(shape) for shape in shapes.values() if shape)
        raise ValueError(
            f"{', '.join(names)} and {last} must broadcast, got shapes {listed}"
        ) from None
