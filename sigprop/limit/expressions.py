"""Functions of one number, as they are put together by a program; equal ones are one object.

Every operation is a node with a number, and the same operation on the same nodes has the same
number, so that a layer's activation is recognised in the next layer, its cuts are looked for once
and its quadrature is compiled once.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sigprop import activations
from sigprop.activations import Activation

__all__ = [
    "IDENTITY", "Expression", "activation_of", "derivative_known_as", "integral_of", "known_as",
    "literal", "node",
]  # fmt: skip


@dataclass(frozen=True)
class _Node:
    name: str  # of the primitive, "z" or "literal"
    apply: Callable = jnp.asarray
    inputs: tuple[int, ...] = ()
    value: Any = None


_nodes: list[_Node] = []
_numbers: dict[Any, int] = {}


@dataclass(frozen=True)
class Expression:
    """A function of one number: the node that it ends in."""

    number: int

    def __call__(self, z):
        """Elementwise."""
        z = jnp.asarray(z)
        known = {}
        for number in _order(self.number):
            known[number] = _evaluated(_nodes[number], z, known)
        found = known[self.number]
        return jnp.broadcast_to(jnp.asarray(found, z.dtype), z.shape)

    @property
    def constant(self) -> float | None:
        """Its value where it is a literal."""
        here = _nodes[self.number]
        return here.value if here.name == "literal" else None


def _new(key: Any, made: Callable[[], _Node]) -> Expression:
    if key not in _numbers:
        _numbers[key] = len(_nodes)
        _nodes.append(made())
    return Expression(_numbers[key])


IDENTITY = _new("z", lambda: _Node("z"))


def literal(value: Any) -> Expression:
    """A constant."""
    number = np.asarray(value).item()
    return _new(("literal", type(number), number), lambda: _Node("literal", value=number))


def node(name: str, apply: Callable, params: Any, inputs: Sequence[Expression]) -> Expression:
    """``apply`` of arrays to expressions; ``params`` tell it from others of the same name."""
    given = tuple(each.number for each in inputs)
    if all(each.constant is not None for each in inputs):
        with jax.enable_x64(True):
            return literal(apply(*(jnp.asarray(each.constant) for each in inputs)))
    return _new((name, params, given), lambda: _Node(name, apply, given))


@functools.lru_cache(maxsize=4096)
def _order(number: int) -> tuple[int, ...]:
    """Nodes that one needs, each after what it is made of."""
    needed, stack = set(), [number]
    while stack:
        here = stack.pop()
        if here not in needed:
            needed.add(here)
            stack.extend(_nodes[here].inputs)
    return tuple(sorted(needed))  # a node is younger than its inputs


def _evaluated(here: _Node, z, known):
    if here.name == "z":
        return z
    if here.name == "literal":
        return here.value
    given = [known[number] for number in here.inputs]
    given = [_as_array(each, z) for each in given]
    return here.apply(*jnp.broadcast_arrays(*given))


def _as_array(value, z):
    """Literals in the precision of z; truth values and whole numbers as they are."""
    return jnp.asarray(value, z.dtype) if isinstance(value, float) else jnp.asarray(value)


# ---------------------------------------------------------------------------- what has a name

_known: dict[Expression, Activation | str] = {}
_derivatives: dict[Expression, tuple[str, float]] = {}


def known_as(expression: Expression, name: str) -> None:
    """Integrate this expression as the activation of that name, which is the same function."""
    _known.setdefault(expression, name)


def derivative_known_as(expression: Expression, name: str, factor: float) -> None:
    """Integrate this expression as ``factor`` times the derivative of that activation."""
    if expression.constant is None and expression not in _known:
        _derivatives.setdefault(expression, (name, factor))


def integral_of(expression: Expression) -> tuple[Activation, float] | None:
    """The activation of whose derivative it is known to be a multiple, and which."""
    if expression not in _derivatives:
        return None
    name, factor = _derivatives[expression]
    return activations.get(name), factor


def activation_of(expression: Expression) -> Activation:
    """The `Activation`: that of the table where the program is the same, else one of its own."""
    if expression not in _known:
        if expression == IDENTITY:
            _known[expression] = activations.get("linear")
        else:
            _known[expression] = Activation(expression, name=f"function {expression.number}")
    return activations.get(_known[expression])
