"""A JAX program as one graph: its operations in order, calls looked into, loops kept as loops.

`jax.make_jaxpr` gives a program as equations, some of which hold programs of their own. Calls
(``jit``, ``checkpoint``) are put in their place here, so that a value has one number wherever it is
used; the bodies of loops and of branches stay programs, and are as long as they are written.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.extend.core
import numpy as np

__all__ = [
    "CALLS",
    "MULTIPLIES",
    "RULES",
    "Atom",
    "Graph",
    "Node",
    "Program",
    "as_function",
    "aval_of",
    "graph_of",
    "is_floating",
    "rule_name",
]

CALLS = ("jit", "pjit", "remat2", "checkpoint", "closed_call", "core_call", "custom_lin")
RULES = ("custom_jvp_call", "custom_vjp_call")
MULTIPLIES = ("dot_general", "conv_general_dilated")
_BODIES = {"scan": ("jaxpr",), "while": ("cond_jaxpr", "body_jaxpr"), "cond": ("branches",)}


@dataclass(frozen=True)
class Atom:
    """What an operation is given: a value, by its number, or a literal (``value`` is then None)."""

    value: int | None
    literal: Any = None


@dataclass(frozen=True, eq=False)
class Node:
    """One operation.

    Attributes
    ----------
    name
        Of the primitive.
    equation
        JAX's own, with its parameters and where it stands in the user's source.
    inputs, outputs
        Atoms, and numbers of values.
    bodies
        Programs inside it: of a scan its body; of a while its condition and its body; of a cond its
        branches. Empty for everything else.
    """

    name: str
    equation: Any
    inputs: tuple[Atom, ...]
    outputs: tuple[int, ...]
    bodies: tuple["Program", ...] = ()

    def inside(self, function: str) -> int:
        """How many calls of a function, by its name, it was written in."""
        traceback = self.equation.source_info.traceback
        frames = () if traceback is None else traceback.frames
        return sum(frame.function_name.rpartition(".")[2] == function for frame in frames)

    @property
    def line(self) -> str:
        """File and line of the user's source, "" where JAX does not know."""
        return _user_line(self.equation.source_info)


@dataclass(frozen=True, eq=False)
class Program:
    """Operations in order, what they start from and what comes out."""

    inputs: tuple[int, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Atom, ...]


@dataclass(frozen=True, eq=False)
class Graph:
    """A program, what is known of its values, and the arrays it brings along.

    Attributes
    ----------
    program
        The whole.
    avals
        Shape and dtype of every value.
    constants
        Arrays that the program closes over, by the number of their value.
    replaced
        Functions with a derivative of their own that were looked into: it is not used.
    """

    program: Program
    avals: dict[int, Any]
    constants: dict[int, Any]
    replaced: tuple[str, ...] = ()

    def nodes(self) -> Iterator[Node]:
        """Every operation, those inside loops and branches among them, in order."""
        return _all_nodes(self.program)


def _all_nodes(program: Program) -> Iterator[Node]:
    for node in program.nodes:
        yield node
        for body in node.bodies:
            yield from _all_nodes(body)


def aval_of(graph: Graph, atom: Atom) -> Any:
    """Shape and dtype of what an operation is given."""
    return jax.typeof(atom.literal) if atom.value is None else graph.avals[atom.value]


def is_floating(aval: Any) -> bool:
    """Whether a value holds real or complex numbers, and so may have a gradient."""
    return hasattr(aval, "dtype") and bool(jax.numpy.issubdtype(aval.dtype, np.inexact))


def as_function(equation: Any) -> tuple[Callable[..., list[Any]], list[Any]]:
    """One operation as a program of its own, and the shapes of what it takes, literals left out.

    JAX knows how each of them is called.
    """
    literal = jax.extend.core.Literal
    entering = list(dict.fromkeys(v for v in equation.invars if not isinstance(v, literal)))
    alone = jax.extend.core.Jaxpr(
        (), entering, equation.outvars, [equation], equation.effects, _NO_NAMES
    )
    closed = jax.extend.core.ClosedJaxpr(alone, ())
    return jax.extend.core.jaxpr_as_fun(closed), [v.aval for v in entering]


_NO_NAMES = jax.extend.core.DebugInfo("jit", "one operation", None, None)


def graph_of(closed: Any, *, into_rules: bool = True) -> Graph:
    """The graph of a closed jaxpr.

    Functions with a derivative of their own are operations; those in which something is multiplied
    are looked into like any other call, unless ``into_rules`` is False.

    Examples
    --------
    >>> f = jax.jit(lambda w, x: jax.numpy.tanh(x @ w))
    >>> graph = graph_of(jax.make_jaxpr(f)(np.ones((2, 2)), np.ones(2)))
    >>> [node.name for node in graph.nodes()]
    ['dot_general', 'tanh']
    """
    reader = _Reader(into_rules)
    program = reader.program(closed.jaxpr, closed.consts)
    return Graph(program, reader.avals, reader.constants, tuple(dict.fromkeys(reader.replaced)))


def rule_name(equation: Any) -> str:
    """Of a function with a derivative of its own, or that runs outside JAX."""
    inner = equation.params.get("call_jaxpr")
    debug = getattr(getattr(inner, "jaxpr", inner), "debug_info", None)
    name = getattr(debug, "func_name", "") or str(equation.params.get("name", ""))
    return f"{name.split(' ')[0] or equation.primitive.name} ({equation.primitive.name})"


def _multiplies(jaxpr: Any) -> bool:
    """Whether anything in it is a multiply, however deep."""
    inner = [p for e in jaxpr.eqns for value in e.params.values() for p in _jaxprs(value)]
    return any(e.primitive.name in MULTIPLIES for e in jaxpr.eqns) or any(map(_multiplies, inner))


def _jaxprs(value: Any) -> list[Any]:
    held = value if isinstance(value, tuple | list) else [value]
    opened = [getattr(each, "jaxpr", each) for each in held]
    return [jaxpr for jaxpr in opened if hasattr(jaxpr, "eqns")]


@dataclass
class _Reader:
    """Gives every value of a program a number."""

    into_rules: bool
    avals: dict[int, Any] = field(default_factory=dict)
    constants: dict[int, Any] = field(default_factory=dict)
    replaced: list[str] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def program(self, jaxpr: Any, consts: Sequence[Any]) -> Program:
        held = {var: Atom(self._new(var.aval)) for var in jaxpr.invars}
        inputs = tuple(number for atom in held.values() if (number := atom.value) is not None)
        nodes: list[Node] = []
        outputs = self._through(jaxpr, consts, held, nodes)
        return Program(inputs, _needed(nodes, outputs), tuple(outputs))

    def _through(self, jaxpr: Any, consts: Sequence[Any], held: dict, nodes: list) -> list[Atom]:
        for var, value in zip(jaxpr.constvars, consts):
            held[var] = Atom(self._new(var.aval))
            self.constants[held[var].value] = value

        def atom(var):
            return Atom(None, var.val) if isinstance(var, jax.extend.core.Literal) else held[var]

        for equation in jaxpr.eqns:
            given = [atom(var) for var in equation.invars]
            held.update(zip(equation.outvars, self._results(equation, given, nodes)))
        return [atom(var) for var in jaxpr.outvars]

    def _results(self, equation: Any, given: list[Atom], nodes: list) -> list[Atom]:
        if self._is_call(equation):
            inner = equation.params.get("jaxpr") or equation.params["call_jaxpr"]
            jaxpr, consts = _opened(inner)
            return self._through(jaxpr, consts, dict(zip(jaxpr.invars, given)), nodes)
        bodies = tuple(self.program(*_opened(inner)) for inner in _inside(equation))
        outputs = tuple(self._new(var.aval) for var in equation.outvars)
        nodes.append(Node(equation.primitive.name, equation, tuple(given), outputs, bodies))
        return [Atom(number) for number in outputs]

    def _is_call(self, equation: Any) -> bool:
        name = equation.primitive.name
        if name not in RULES or not self.into_rules:
            return name in CALLS
        inside = _multiplies(equation.params["call_jaxpr"].jaxpr)
        self.replaced += [rule_name(equation)] if inside else []
        return inside

    def _new(self, aval: Any) -> int:
        number = next(self._numbers)
        self.avals[number] = aval
        return number


def _opened(inner: Any) -> tuple[Any, Sequence[Any]]:
    return getattr(inner, "jaxpr", inner), getattr(inner, "consts", ())


def _inside(equation: Any) -> Iterator[Any]:
    for name in _BODIES.get(equation.primitive.name, ()):
        held = equation.params[name]
        yield from held if isinstance(held, tuple) else (held,)


def _needed(nodes: Sequence[Node], outputs: Sequence[Atom]) -> tuple[Node, ...]:
    """Without what nothing that comes out depends on, and that does nothing else either."""
    wanted = {atom.value for atom in outputs}
    kept = []
    for node in reversed(nodes):
        if node.equation.effects or not wanted.isdisjoint(node.outputs):
            kept.append(node)
            wanted.update(atom.value for atom in node.inputs)
    return tuple(reversed(kept))


_LIBRARIES = (
    "/jax/",
    "/jaxlib/",
    "/flax/",
    "/equinox/",
    "/haiku/",
    "/optax/",
    "/diffrax/",
    "/distrax/",
)


def _user_line(source_info: Any) -> str:
    """The innermost frame outside the libraries: where the user wrote it."""
    traceback = source_info.traceback
    if traceback is None:
        return ""
    frames = traceback.frames
    users = [f for f in frames if not any(name in f.file_name for name in _LIBRARIES)]
    if not users:
        return ""
    frame = users[0]
    return f"{frame.file_name.rpartition('/')[2]}:{frame.line_num}"
