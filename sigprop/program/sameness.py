"""Whether two programs differ in nothing but numbers, so that one compile serves both."""

from collections.abc import Hashable, Sequence
from typing import Any

import jax
import jax.core
import jax.extend.core
import jax.numpy as jnp
import numpy as np

from sigprop.program.nodes import as_function

__all__ = ["same_program_key"]

_SMALL = 4096  # bytes, up to which constants are compared by their numbers
_RULES = ("jvp_jaxpr_fun", "fwd_jaxpr_thunk", "bwd", "out_trees")


def same_program_key(closed: Any) -> Hashable:
    """Equal for closed jaxprs that compute the same, whatever their outermost constants.

    Tracing makes new objects of the rules of functions with a derivative of their own, so that
    these are the same where the program and the program of its derivative are.

    Examples
    --------
    >>> import jax
    >>> one, other = (jax.make_jaxpr(lambda x: jax.nn.relu(x) + 1)(0.5) for _ in range(2))
    >>> same_program_key(one) == same_program_key(other)
    True
    >>> same_program_key(one) == same_program_key(jax.make_jaxpr(lambda x: x + 2)(0.5))
    False
    """
    return _of_jaxpr(closed.jaxpr, differentiated=True)


def _of_jaxpr(jaxpr: Any, differentiated: bool) -> Hashable:
    numbers: dict[Any, int] = {}

    def number(var):
        return numbers.setdefault(var, len(numbers))

    def atom(var):
        return _array(var.val) if isinstance(var, jax.extend.core.Literal) else number(var)

    entering = tuple((number(v), v.aval) for v in (*jaxpr.constvars, *jaxpr.invars))
    equations = tuple(
        (
            equation.primitive.name,
            tuple(atom(v) for v in equation.invars),
            tuple((number(v), v.aval) for v in equation.outvars),
            _params(equation, differentiated),
        )
        for equation in jaxpr.eqns
    )
    return (entering, equations, tuple(atom(v) for v in jaxpr.outvars))


def _params(equation: Any, differentiated: bool) -> Hashable:
    given = dict(equation.params)
    rules = [given.pop(name) for name in _RULES if name in given]
    found = [(name, _hashable(given[name], differentiated)) for name in sorted(given)]
    if rules and differentiated:
        found.append(("derivative", _derivative(equation)))
    return tuple(found)


def _derivative(equation: Any) -> Hashable:
    """The program of a derivative that is not JAX's own; it is not differentiated in its turn."""
    if equation.params.get("symbolic_zeros"):  # a rule that may look at what is 0
        return _This(equation)
    function, given = as_function(equation)
    floating = [place for place, x in enumerate(given) if jnp.issubdtype(x.dtype, jnp.inexact)]
    of_floating = lambda given: lambda *some: function(*_put(given, floating, some))  # noqa: E731
    some = tuple(given[place] for place in floating)
    results = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in equation.outvars]

    def forwards(given, some, tangents):
        return jax.jvp(of_floating(given), some, tangents)

    def backwards(given, some, cotangents):
        return jax.vjp(of_floating(given), *some)[1](cotangents)

    try:
        if equation.primitive.name == "custom_jvp_call":
            closed = jax.make_jaxpr(forwards)(given, some, some)
        else:
            closed = jax.make_jaxpr(backwards)(given, some, results)
    except Exception:  # what cannot be told apart is compiled anew
        return _This(equation)
    return _hashable(closed, differentiated=False)


def _put(given: Sequence[Any], places: Sequence[int], some: Sequence[Any]) -> list[Any]:
    filled = list(given)
    for place, value in zip(places, some):
        filled[place] = value
    return filled


class _This:
    """One object and no other; it is kept, so that no later one can be taken for it."""

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _This) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def _hashable(value: Any, differentiated: bool) -> Hashable:
    inner = getattr(value, "jaxpr", value)
    if hasattr(inner, "eqns"):
        consts = tuple(_array(const) for const in getattr(value, "consts", ()))
        return (_of_jaxpr(inner, differentiated), consts)
    if isinstance(value, tuple | list):
        return tuple(_hashable(each, differentiated) for each in value)
    if isinstance(value, np.ndarray | bool | int | float | complex):
        return _array(value)
    try:
        hash(value)
    except TypeError:
        return _This(value)
    return value


def _array(value: Any) -> Hashable:
    """By its numbers if they are few, else by being the same object."""
    if isinstance(value, bool | int | float | complex):
        return (type(value).__name__, repr(value))  # -0.0 is not 0.0
    known = isinstance(value, np.ndarray | np.generic | jax.Array)
    known = known and not isinstance(value, jax.core.Tracer)
    if not known or value.nbytes > _SMALL or jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return _This(value)
    array = np.asarray(value)
    return (array.tobytes(), str(array.dtype), array.shape)
