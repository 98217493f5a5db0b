"""The exact back end: a program read once, every value as what it is at infinite width."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.extend.core
import numpy as np

from sigprop.limit import second_moments
from sigprop.limit.atoms import Atom, Form
from sigprop.limit.axes import Part, wide_axes
from sigprop.limit.constants import evaluated
from sigprop.limit.contractions import Contractor
from sigprop.limit.elementwise import NAMES, elementwise
from sigprop.limit.expressions import IDENTITY
from sigprop.limit.multiply import Multiplier
from sigprop.limit.refusals import NotClosed, Refused
from sigprop.limit.shapes import SHAPES
from sigprop.limit.signals import Const, Signal, Term, Unknown, of_form
from sigprop.limit.tracing import inner_program
from sigprop.limit.weights import Weight
from sigprop.program.nodes import CALLS, RULES

__all__ = ["Interpreter", "Later"]

_CONTRACTIONS = ("dot_general", "conv_general_dilated")
_OVER_UNITS = ("argmax", "argmin", "sort", "top_k", "reduce_max", "reduce_min", "cummax")


@dataclass(frozen=True)
class Later:
    """A cotangent of independent unit Gaussians, of the shape that an output turns out to have."""

    output: Any

    def found(self, env: Mapping[Any, Any]) -> Any:
        """Where the output is known."""
        end = env[self.output]
        if isinstance(end, Unknown):
            return end
        if not isinstance(end, Signal):
            return Unknown("gradient", "the output does not depend on drawn weights")
        count = end.places
        atom = Atom("cotangent", np.ones(count), 1.0 - np.eye(count))
        return of_form(end.axes, Form({(atom, ()): np.eye(count)}, count))


class Interpreter:
    """Reads equations; remembers what weights have met.

    Parameters
    ----------
    means
        Of arrays of one axis that are drawn around a number other than 0, by leaf.
    largest
        What stands for the largest of all units, in root mean squares. It has no limit: whoever
        gives it checks that nothing hangs on it. Without it, such a maximum is not known.
    """

    def __init__(
        self,
        shapes: Mapping[int, tuple[int, ...]],
        means: Mapping[int, float],
        largest: float | None = None,
    ):
        self._largest = largest
        self.multiplier = Multiplier()
        self._contract = Contractor(self.multiplier)
        self._shapes, self._means = shapes, means
        self._drawn: dict[int, Atom] = {}
        self._contracted: set[int] = set()
        self._known: dict[Any, Sequence[Any]] = {}
        self._kept: list[Any] = []

    def run(self, jaxpr: Any, consts: Sequence[Any], given: Sequence[Any]) -> list[Any]:
        """What comes out of a program."""
        env = dict(zip(jaxpr.constvars, (Const(c) for c in consts)))
        env |= dict(zip(jaxpr.invars, given))
        for equation in jaxpr.eqns:
            values = [_looked_up(v, env) for v in equation.invars]
            env.update(zip(equation.outvars, self._results(equation, values)))
        return [_looked_up(v, env) for v in jaxpr.outvars]

    def _results(self, equation: Any, given: Sequence[Any]) -> Sequence[Any]:
        name = equation.primitive.name
        lost = next((x for x in given if isinstance(x, Unknown)), None)
        if lost is not None:
            return [lost] * len(equation.outvars)
        key = self._key(equation, given)
        if key in self._known:
            return self._known[key]
        try:
            found = self._one(equation, name, given)
        except (NotClosed, Refused) as reason:
            found = [Unknown(name, str(reason))] * len(equation.outvars)
        if key is not None:
            self._known[key] = found
            self._kept.append(given)  # an id is one object's as long as it lives
        return found

    def _key(self, equation: Any, given: Sequence[Any]) -> Any:
        """Of one operation on the same values: repeated ones have one result."""
        if any(hasattr(v, "eqns") or hasattr(v, "jaxpr") for v in equation.params.values()):
            return None
        if not all(isinstance(x, Signal) for x in given):
            return None
        return equation.primitive.name, tuple(map(id, given)), str(equation.params)

    def _one(self, equation: Any, name: str, given: Sequence[Any]) -> Sequence[Any]:
        if name in CALLS or name in RULES:
            inner = inner_program(equation)
            return self.run(inner.jaxpr, inner.consts, given)
        if all(isinstance(x, Const) for x in given):
            return evaluated(equation, given)
        if name == "cond":
            return self._branch(equation, given)
        found = self._of_drawn(equation, name, given)
        return found if isinstance(found, list) else [found]

    def _of_drawn(self, equation: Any, name: str, given: Sequence[Any]) -> Any:
        if name in _CONTRACTIONS:
            for weight in given:
                if isinstance(weight, Weight):
                    self._check_not_drawn(weight)
            return self._contract(equation, given)
        if name in NAMES:
            return elementwise(equation, given, self.signal_of)
        if name in SHAPES:
            if name in ("gather", "concatenate", "cumsum", "stack"):
                given = [self.signal_of(x) if isinstance(x, Weight) else x for x in given]
            if name == "broadcast_in_dim" and _copied(given[0], equation.params["shape"]):
                given = [self.signal_of(given[0])]
            return SHAPES[name](equation, given)
        if name == "reduce_max" and self._largest is not None:
            return self._maximum(equation, *given)
        if name == "while":
            raise Refused("while whose course hangs on the signal")
        raise NotClosed(f"no exact rule for {name}")

    def _maximum(self, equation: Any, value: Any) -> Const:
        summed = equation.params["axes"]
        if not isinstance(value, Signal) or set(summed) != set(wide_axes(value.axes)):
            raise NotClosed("reduce_max over some of the units, or over places")
        size = np.sqrt(second_moments.variance(value)) * self._largest
        return Const(size.reshape(equation.outvars[0].aval.shape))

    def _branch(self, equation: Any, given: Sequence[Any]) -> Sequence[Any]:
        index, *operands = given
        if not isinstance(index, Const):
            raise Refused("cond whose branch hangs on the signal")
        branches = equation.params["branches"]
        chosen = branches[int(np.clip(int(index.array), 0, len(branches) - 1))]
        return self.run(chosen.jaxpr, chosen.consts, operands)

    # ------------------------------------------------------------------ weights as signals

    def _check_not_drawn(self, weight: Weight) -> None:
        if weight.leaf in self._drawn:
            raise NotClosed("a table of weights that is looked up and multiplied by as well")
        self._contracted.add(weight.leaf)

    def signal_of(self, weight: Weight) -> Signal:
        """Drawn numbers that are added, looked up or multiplied by: units along the last axis."""
        if weight.leaf in self._contracted:
            raise NotClosed("a table of weights that is looked up and multiplied by as well")
        shape = self._shapes[weight.leaf]
        order = [a for axis in weight.axes for a in axis if shape[a] > 1 or len(axis) == 1]
        if not shape or sorted(order) != order or weight.flipped:
            raise NotClosed("weights taken as a signal along other axes")
        last = len(shape) - 1
        if weight.length(last) != shape[last]:
            raise NotClosed("part of a table of weights along its units")
        rows = np.arange(int(np.prod(shape[:last]))).reshape(shape[:last])
        rows = rows[tuple(slice(*r) for r in weight.ranges[:last])]
        form = Form({(self._atom(weight, shape), ()): np.eye(rows.size)}, rows.size)
        if rows.size != int(np.prod(shape[:last])):
            form = Form({(self._atom(weight, shape), ()): _picked(rows, shape)}, rows.size)
        axes = tuple(tuple(_part(a, weight, last) for a in axis) for axis in weight.axes)
        axes = tuple(tuple(p for p in axis if p.size > 1 or p.wide) for axis in axes)
        found = Signal(axes, (Term({form: IDENTITY}),)).scaled(weight.scale)
        mean = self._means.get(weight.leaf, 0.0)
        return found.plus(Signal(axes, (Term({}, mean * weight.scale),))) if mean else found

    def _atom(self, weight: Weight, shape: tuple[int, ...]) -> Atom:
        if weight.leaf not in self._drawn:
            count = int(np.prod(shape[:-1]))
            variance = np.full(count, weight.variance)
            lack = weight.variance * (1 - np.eye(count))
            self._drawn[weight.leaf] = Atom(("drawn", weight.leaf), variance, lack)
        return self._drawn[weight.leaf]


def _copied(value: Any, shape: Sequence[int]) -> bool:
    """Whether a broadcast makes several of every drawn number."""
    return isinstance(value, Weight) and math.prod(value.shape) != math.prod(shape)


def _part(axis: int, weight: Weight, last: int) -> Part:
    return Part(weight.length(axis), axis == last)


def _picked(rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.eye(int(np.prod(shape[:-1])))[rows.ravel()]


def _looked_up(var: Any, env: dict[Any, Any]) -> Any:
    if isinstance(var, jax.extend.core.Literal):
        return Const(np.asarray(var.val), written=True)
    found = env[var]
    if isinstance(found, Later):
        found = env[var] = found.found(env)
    return found
