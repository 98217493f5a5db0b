"""Whether two programs differ in nothing but numbers, so that one compile serves both."""

from collections.abc import Hashable
from typing import Any

import jax.extend.core
import numpy as np

__all__ = ["same_program_key"]


def same_program_key(closed: Any) -> Hashable:
    """Equal for closed jaxprs that compute the same, whatever their constants.

    Functions with a derivative of their own are the same if they are the same object.

    Examples
    --------
    >>> import jax
    >>> one, other = (jax.make_jaxpr(lambda x: x + 1)(0.5) for _ in range(2))
    >>> same_program_key(one) == same_program_key(other)
    True
    >>> same_program_key(one) == same_program_key(jax.make_jaxpr(lambda x: x + 2)(0.5))
    False
    """
    return _of_jaxpr(closed.jaxpr)


def _of_jaxpr(jaxpr: Any) -> Hashable:
    numbers: dict[Any, int] = {}

    def number(var):
        return numbers.setdefault(var, len(numbers))

    def atom(var):
        if isinstance(var, jax.extend.core.Literal):
            value = np.asarray(var.val)
            return (value.tobytes(), str(value.dtype), value.shape)
        return number(var)

    entering = tuple((number(v), str(v.aval)) for v in (*jaxpr.constvars, *jaxpr.invars))
    equations = tuple(
        (
            equation.primitive.name,
            tuple(atom(v) for v in equation.invars),
            tuple((number(v), str(v.aval)) for v in equation.outvars),
            tuple(sorted((name, _of_param(v)) for name, v in equation.params.items())),
        )
        for equation in jaxpr.eqns
    )
    return (entering, equations, tuple(atom(v) for v in jaxpr.outvars))


class _Param:
    """A parameter of an equation: compared by its value, ordered by nothing."""

    def __init__(self, value: Hashable):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Param) and bool(self.value == other.value)

    def __hash__(self) -> int:
        return hash(self.value)

    def __lt__(self, other: object) -> bool:
        return False


class _This:
    """One object and no other; it is kept, so that no later one can be taken for it."""

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _This) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def _of_param(value: Any) -> _Param:
    return _Param(_hashable(value))


def _hashable(value: Any) -> Hashable:
    inner = getattr(value, "jaxpr", value)
    if hasattr(inner, "eqns"):
        consts = tuple(_This(const) for const in getattr(value, "consts", ()))
        return (_of_jaxpr(inner), consts)
    if isinstance(value, tuple | list):
        return tuple(_hashable(each) for each in value)
    if isinstance(value, np.ndarray):
        return (value.tobytes(), str(value.dtype), value.shape)
    try:
        hash(value)
    except TypeError:
        return _This(value)
    return value
