"""Which operation stops a gradient, or gives what is not finite, and where it stands.

Between two layers every value is watched in a second pass: from a gradient of exactly 0 the way
goes on to the loss, up to the operation beyond which it is not 0; likewise where it is not finite.
What is not finite going forward is followed to the input, up to the operation all of whose operands
are finite.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np

from sigprop.diagnosis.profiles import Spot
from sigprop.diagnosis.reading import Reading, stands_of
from sigprop.diagnosis.structure import Structure
from sigprop.program import (
    Atom,
    Measured,
    Node,
    Note,
    Trail,
    aval_of,
    is_floating,
    measured,
    size,
)

__all__ = ["Closer", "Operation", "backward_cause", "forward_cause", "stops"]

_FLAT = ("sign", "round", "floor", "ceil", "stop_gradient", "argmax", "argmin", "is_finite")
_GATES = ("max", "min", "clamp", "custom_jvp_call", "select_n")
_LINEAR = ("mul", "dot_general", "conv_general_dilated", "div", "convert_element_type")


@dataclass(frozen=True, eq=False)
class Operation:
    """An operation that is to blame, and what it was given.

    Attributes
    ----------
    node
        The operation.
    low, high
        Smallest and largest number it was given; nan where that is not known.
    zero
        By operand: whether all of it is exactly 0.
    sources
        By operand: parameters it comes from.
    line
        Where the user has written it.
    """

    node: Node
    low: float
    high: float
    zero: tuple[bool, ...]
    dtype: str
    line: str

    @property
    def name(self) -> str:
        if self.node.name == "convert_element_type":
            return f"the cast to {self.node.equation.params['new_dtype']}"
        return _called(self.node)

    @property
    def where(self) -> str:
        """Name and line, as in "log at model.py:12"."""
        return f"{self.name} at {self.line}" if self.line else self.name

    @property
    def is_flat(self) -> bool:
        """Whether it has no slope anywhere, whatever it is given."""
        return self.node.name in _FLAT or self.leaves_floats

    @property
    def leaves_floats(self) -> bool:
        """Whether what comes out is no floating-point number."""
        return not any(is_floating(var.aval) for var in self.node.equation.outvars)

    @property
    def is_linear(self) -> bool:
        return self.node.name in _LINEAR and not self.leaves_floats


def _called(node: Node) -> str:
    """Name of the primitive, or of the function with a derivative of its own."""
    inner = node.equation.params.get("call_jaxpr")
    if inner is None:
        return node.name
    jaxpr = getattr(inner, "jaxpr", inner)
    for equation in jaxpr.eqns:
        if "name" in equation.params:
            return str(equation.params["name"])
    return str(getattr(jaxpr.debug_info, "func_name", node.name)) or node.name


@dataclass(frozen=True, eq=False)
class Closer:
    """A second pass that watches every value of a part of the program."""

    structure: Structure
    found: Measured

    def silent(self, value: int) -> bool:
        """Whether the gradient by a value is known to be exactly 0, at all steps."""
        return value in self.found.slopes and bool(np.all(self.found.slopes[value]["largest"] == 0))

    def broken(self, value: int, backwards: bool = False) -> np.ndarray:
        """Where it is not finite: the value or the gradient by it, by steps of the loops around."""
        table = self.found.slopes if backwards else self.found.noted
        if value not in table:
            return np.zeros(1, bool)
        return ~np.atleast_1d(
            table[value]["finite"] if backwards else table[value]["size"]["finite"]
        )

    def begins(self, node: Node, backwards: bool = False) -> bool:
        """Whether, at some step, what it gives on is not finite though all that it gets is."""
        given = [self.broken(a.value, backwards) for a in node.inputs if a.value is not None]
        made = [self.broken(value, backwards) for value in node.outputs]
        after, before = (given, made) if backwards else (made, given)
        return any(np.any(a & ~_any_of(before, a.shape)) for a in after)

    def is_zero(self, value: int) -> bool:
        """Whether a value is known to be exactly 0."""
        return value in self.found.noted and not np.any(self.found.noted[value]["size"]["largest"])

    def operation(self, node: Node) -> Operation:
        given = [atom.value for atom in node.inputs]
        noted = [None if value is None else self.found.noted.get(value) for value in given]
        known = [n for n in noted if n is not None]
        low = min((float(np.min(n["low"])) for n in known), default=math.nan)
        high = max((float(np.max(n["high"])) for n in known), default=math.nan)
        zero = tuple(
            bool(np.all(n["size"]["largest"] == 0)) if n is not None else _is_zero(atom)
            for n, atom in zip(noted, node.inputs)
        )
        dtypes = [
            aval_of(self.structure.graph, a).dtype
            for a in node.inputs
            if hasattr(aval_of(self.structure.graph, a), "dtype")
        ]
        dtypes += [var.aval.dtype for var in node.equation.outvars]
        floating = [d for d in dtypes if jnp.issubdtype(d, jnp.floating)]
        narrowest = min(floating, key=lambda d: (d.itemsize, str(d)), default="")
        return Operation(node, low, high, zero, str(narrowest), self.structure.line(node))


def _any_of(flags: Sequence[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """At which steps one of them holds, of values in fewer or the same loops."""
    found = np.zeros(shape, bool)
    for flag in flags:
        while flag.ndim < len(shape):
            flag = flag[..., None]
        found |= flag if flag.ndim == len(shape) else np.any(flag)
    return found


def _is_zero(atom: Atom) -> bool:
    return atom.value is None and not np.any(np.asarray(atom.literal, np.float64))


def _watched(reading: Reading, region: Iterable[int], trail: Trail) -> Closer:
    """The model's pass again, with a part of its values watched."""
    graph = reading.structure.graph
    floating = {value for value in region if is_floating(graph.avals[value])}
    makers = [trail.makers[value] for value in floating if value in trail.makers]
    beside = {a.value for node in makers for a in node.inputs if a.value is not None}
    noted = {v for v in floating | beside if is_floating(graph.avals[v])}
    part = (frozenset(floating), frozenset(noted))
    ran = reading.structure.closer.setdefault(
        part,
        replace(
            reading.structure.ran,
            notes={value: _note(value) for value in noted},
            slopes=dict.fromkeys(floating, size),
        ),
    )
    opened = {reading.structure.parameters.index(name) for name in reading.opened}
    stands = stands_of(ran, reading.values, opened)
    structure = reading.structure
    found = measured(ran, reading.values, structure.data, structure.constants, stands)
    return Closer(structure, found)


def _note(value: int) -> Note:
    """Of any value: its size, and its smallest and largest number."""

    def reduce(array, stacked):
        real = np.real(np.asarray(array)).astype(np.float64)
        low = np.min(real, initial=np.inf, where=~np.isnan(real))
        high = np.max(real, initial=-np.inf, where=~np.isnan(real))
        return {"size": size(array, stacked), "low": low, "high": high}

    return Note(lambda look: look(Atom(value)), reduce)


# ---------------------------------------------------------------------------- the three questions


def stops(
    reading: Reading, silent: Sequence[Spot], alive: Collection[int]
) -> list[tuple[Spot, list[Operation]]]:
    """Places without gradient, and operations right above each that let nothing through.

    In the order of the forward pass; but an operation of which nothing comes out but 0 comes first,
    since all that is 0 and flat above it may be so for that reason. ``alive`` are outputs of the
    sites that receive a gradient.
    """
    trail = reading.structure.trail
    starts = {spot: [spot.place.site.output] for spot in silent}
    order = {spot: place for place, spot in enumerate(silent)}
    region = trail.downstream([v for start in starts.values() for v in start], alive)
    closer = _watched(reading, region, trail)
    others = {spot.place.site.output for spot in silent}
    ends = others | set(alive)
    found = [(s, _blockers(closer, at, ends - {*at})) for s, at in starts.items()]
    stopping = [(spot, operations) for spot, operations in found if operations]
    emptied = [(s, _emptied(closer, at, ends - {*at})) for s, at in starts.items()]
    first = next(((s, operations) for s, operations in emptied if operations), None)
    if first is None or (stopping and order[first[0]] >= order[stopping[0][0]]):
        return stopping
    return [first, *stopping]


def _emptied(closer: Closer, start: Sequence[int], ends: set[int]) -> list[Operation]:
    """Operations right above a place that make nothing but 0 of what is not."""
    seen = closer.structure.trail.downstream(start, ends) - ends
    users = [node for value in sorted(seen) for node in closer.structure.trail.users.get(value, ())]
    found = [closer.operation(node) for node in dict.fromkeys(users) if node.name in _GATES]
    return [o for o in found if closer.is_zero(o.node.outputs[0]) and not all(o.zero)]


def _blockers(closer: Closer, start: Sequence[int], ends: set[int]) -> list[Operation]:
    """Those that a place meets before any other place."""
    seen = closer.structure.trail.downstream(start, ends) - ends
    silent = lambda value: value not in closer.found.slopes or closer.silent(value)  # noqa: E731
    found = [
        node
        for value in sorted(seen)
        if is_floating(closer.structure.graph.avals[value])
        for node in closer.structure.trail.users.get(value, ())
        if silent(value) and _lets_nothing_through(closer, node, silent)
    ]
    operations = [closer.operation(node) for node in dict.fromkeys(found)]
    return sorted(operations, key=lambda o: o.leaves_floats)


def _lets_nothing_through(closer: Closer, node: Node, silent) -> bool:
    floats = [v for v in node.outputs if is_floating(closer.structure.graph.avals[v])]
    return not floats or not any(silent(value) for value in floats)


def forward_cause(reading: Reading, broken: Sequence[int], fine: Collection[int]):
    """Where what is not finite begins: maker of one of the values, or of what they come from."""
    trail = reading.structure.trail
    closer = _watched(reading, trail.upstream(broken, fine), trail)
    nodes = trail.makers_through(broken, lambda value: bool(np.any(closer.broken(value))))
    return [closer.operation(node) for node in nodes if closer.begins(node)]


def backward_cause(reading: Reading, broken: Sequence[int], fine: Collection[int]):
    """Which operation first gives back what is not finite though it got what is."""
    trail = reading.structure.trail
    closer = _watched(reading, trail.downstream(broken, fine), trail)
    bad = lambda value: bool(np.any(closer.broken(value, backwards=True)))  # noqa: E731
    nodes = [
        node
        for node in trail.users_through(broken, bad)
        if closer.begins(node, backwards=True)
        and any(is_floating(v.aval) for v in node.equation.outvars)
    ]
    risky = sorted(nodes, key=lambda node: node.name not in _RISKY)
    return [closer.operation(node) for node in risky]


_RISKY = (
    "log", "sqrt", "rsqrt", "div", "pow", "exp", "log1p", "acos", "asin", "atanh", "acosh", "cbrt",
    "integer_pow", "exp2", "expm1", "tan", "erf_inv",
)  # fmt: skip
