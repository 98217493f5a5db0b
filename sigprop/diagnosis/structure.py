"""A model's loss as a graph, and what is to be watched in it: all that hangs on no number."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np

from sigprop.diagnosis.activation import Following, following
from sigprop.diagnosis.naming import Names, kinds_by_path
from sigprop.diagnosis.notes import line_note_of, note_of, slope_note_of
from sigprop.gradients.objective import Objective, traced
from sigprop.program import (
    Atom,
    Flow,
    Graph,
    Line,
    Node,
    Pass,
    Place,
    Program,
    Site,
    Steps,
    Trail,
    flow_of,
    gradients_of,
    graph_of,
    is_floating,
    places_in_order,
    same_program_key,
    size,
    timelines,
    trail_of,
)

__all__ = ["Structure", "structure_of"]


@dataclass(frozen=True, eq=False)
class Structure:
    """What of a model's program does not hang on its numbers.

    Attributes
    ----------
    graph, trail, flow, names
        The program, who gives what to whom and what comes from what in it, and what its sites are
        called.
    steps, ran
        Counts the steps of its loops; the pass through it.
    places, lines
        The sites step by step of the loops through layers, and loops through time.
    following
        By site: the activation after it.
    data, constants
        The batch's arrays, and those that the program closes over.
    parameters
        Their names.
    written
        Of a program seen before: by its operations, those of the program at hand.
    into_rules
        Whether functions with a derivative of their own were looked into.
    closer
        Passes that watch every value of a part of it, by that part.
    """

    graph: Graph
    trail: Trail
    flow: Flow
    names: Names
    steps: Steps
    ran: Pass
    places: tuple[Place, ...]
    lines: tuple[Line, ...]
    following: dict[Site, Following]
    data: Sequence[Any]
    constants: Sequence[Any]
    parameters: tuple[str, ...]
    written: dict[Node, Node] = field(default_factory=dict)
    into_rules: bool = True
    closer: dict[Hashable, Pass] = field(default_factory=dict)

    def line(self, node: Node) -> str:
        """File and line at which the user has written an operation, "" where JAX does not know."""
        return self.written.get(node, node).line

    @property
    def unused(self) -> tuple[str, ...]:
        """Parameters that the loss does not use."""
        used = {atom.value for node in self.graph.nodes() for atom in node.inputs}
        given = zip(self.graph.program.inputs, self.parameters)
        return tuple(name for value, name in given if value not in used)


_KEPT = 16
_known: OrderedDict[Hashable, Structure] = OrderedDict()


def structure_of(target: Objective, model: Any) -> Structure:
    """Of a model's loss; that of a program seen before, compiled already, with its new numbers."""
    closed, data = traced(target)
    names, values = target.parameters.names, target.parameters.values
    kinds = kinds_by_path(model)
    zero = _zeros(values, range(len(values)))
    key = (same_program_key(closed), names, zero, len(data), tuple(sorted(kinds.items())))
    known = _known.get(key)
    graph = graph_of(closed, into_rules=known is None or known.into_rules)
    constants = constants_of(graph)
    if known is not None and known.steps(constants, [*values, *data]) == known.ran.counts:
        _known.move_to_end(key)
        written = dict(zip(known.graph.nodes(), graph.nodes()))
        return replace(known, data=data, constants=constants, written=written)
    found = _looked_into(closed, graph, target, data, kinds) if graph.replaced else None
    if found is None:
        plain = graph_of(closed, into_rules=False) if graph.replaced else graph
        found = _new_structure(plain, target, data, kinds)
        found = replace(found, into_rules=not graph.replaced)
    _known[key] = replace(found, data=(), constants=())
    while len(_known) > _KEPT:
        _known.popitem(last=False)
    return found


def constants_of(graph: Graph) -> tuple[Any, ...]:
    """The arrays that a program closes over, in the order in which it takes them."""
    return tuple(jnp.asarray(x) for x in graph.constants.values())


def _looked_into(closed: Any, graph: Graph, target: Objective, data, kinds) -> Structure | None:
    """With functions opened that have derivatives of their own, if the gradient stays the same."""
    values = target.parameters.values
    run = jax.extend.core.jaxpr_as_fun(closed)
    own = jax.jit(jax.grad(lambda values: run(*values, *data)[0]))(list(values))
    try:
        found = _new_structure(graph, target, data, kinds)
        stands = [jnp.zeros_like(values[place]) for place in found.ran.closed]
        ours = gradients_of(found.ran, values, data, found.constants, stands)
    except Exception:  # what it computes cannot be differentiated, hence its own derivative
        return None
    return found if _alike(ours, own) else None


def _alike(ours: Sequence[Any], own: Sequence[Any]) -> bool:
    """Whether two gradients differ by less than a hundredth, in norm."""
    flat = [np.concatenate([np.ravel(np.asarray(x)) for x in each]) for each in (ours, own)]
    flat = [x.astype(np.complex128 if np.iscomplexobj(x) else np.float64) for x in flat]
    if not np.isfinite(flat[1]).all():
        return not np.isfinite(flat[0]).all()
    return bool(np.linalg.norm(flat[0] - flat[1]) <= 1e-2 * np.linalg.norm(flat[1]))


def _new_structure(graph: Graph, target: Objective, data, kinds) -> Structure:
    constants = constants_of(graph)
    names, values = target.parameters.names, target.parameters.values
    flow = flow_of(graph, len(values))
    steps = Steps(graph, flow.loops)
    counts = steps(constants, [*values, *data])
    around, trail = _programs(graph), trail_of(graph)
    after = {s: following(graph, around, trail, s.output) for s in flow.sites}
    lines = timelines(graph, flow, counts)
    places = places_in_order(graph, flow, counts)
    ends = _ends(places, flow)
    slopes: dict[int, Callable] = {}
    heads = [s.entering for s in flow.sites if s.output in ends]
    slopes.update(dict.fromkeys(_with_slopes(graph, flow, heads), size))
    slopes.update({s.output: slope_note_of(s) for s in flow.sites})
    for line in lines:
        slopes.update({v: line_note_of(line, slopes.get(v, size)) for v in line.values})
    notes = {s.output: note_of(s, after[s].flat) for s in flow.sites}
    ran = Pass(graph, counts, notes, slopes, _closed(flow, values), ends)
    called = Names(names, [np.ndim(v) for v in values], flow, kinds)
    return Structure(
        graph, trail, flow, called, steps, ran, places, lines, after, data, constants, names
    )


def _programs(graph: Graph) -> dict[int, Program]:
    """By value: the program in which it stands."""
    found: dict[int, Program] = {}

    def visit(program: Program) -> None:
        found.update(dict.fromkeys(program.inputs, program))
        for node in program.nodes:
            found.update(dict.fromkeys(node.outputs, program))
            for body in node.bodies:
                visit(body)

    visit(graph.program)
    return found


def _closed(flow: Flow, values: Sequence[Any]) -> tuple[int, ...]:
    """Factors that are exactly 0."""
    return _zeros(values, sorted({place for site in flow.sites for place in site.largest}))


def _zeros(values: Sequence[Any], places: Iterable[int]) -> tuple[int, ...]:
    return tuple(p for p in places if np.size(values[p]) and not np.any(np.asarray(values[p])))


def _ends(places: Sequence[Place], flow: Flow) -> tuple[int, ...]:
    """Outputs of the layers after which no other comes."""
    passed = {before.site for place in places for before in place.before}
    return tuple(s.output for s in flow.sites if s.multiplies and s not in passed)


def _with_slopes(graph: Graph, flow: Flow, atoms: Sequence[Atom]) -> list[int]:
    """Values among these that the loss may have a gradient by."""
    values = [atom.value for atom in atoms if atom.value is not None]
    return [v for v in values if is_floating(graph.avals[v]) and flow.origins[v].sources]
