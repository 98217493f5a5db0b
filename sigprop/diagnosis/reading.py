"""A model's loss as a graph, and passes through it: what every layer gives out and gets back."""

from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sigprop.diagnosis.activation import Following, following
from sigprop.diagnosis.naming import Names, kinds_by_path
from sigprop.gradients.objective import Objective, traced
from sigprop.program import (
    Atom,
    Flow,
    Graph,
    Line,
    Measured,
    Node,
    Note,
    Pass,
    Place,
    Program,
    Site,
    Steps,
    Trail,
    flow_of,
    graph_of,
    is_floating,
    loss_of,
    measured,
    places_in_order,
    same_program_key,
    size,
    timelines,
    trail_of,
)

__all__ = ["Reading", "Structure", "read", "stands_of", "structure_of"]


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


@dataclass(frozen=True, eq=False)
class Reading:
    """One pass of a model with certain numbers in it.

    Attributes
    ----------
    structure, values
        The model.
    measured
        What the pass found; where the gradient is 0, with factors of 0 opened.
    closed
        What it found with nothing opened.
    opened
        Names of parameters that are exactly 0 and that training opens: below them the gradient is
        that of a random factor in their place.
    stuck
        Names of factors that are exactly 0 and stay so, since their own gradient is 0.
    silent_loss
        The loss of a model whose last layers all give 0.
    """

    structure: Structure
    values: Sequence[Any]
    measured: Measured
    closed: Measured
    opened: tuple[str, ...]
    stuck: tuple[str, ...]
    silent_loss: float


_KEPT = 16
_known: OrderedDict[Hashable, Structure] = OrderedDict()


def structure_of(target: Objective, model: Any) -> Structure:
    """Of a model's loss; that of a program seen before, compiled already, with its new numbers."""
    closed, data = traced(target)
    names, values = target.parameters.names, target.parameters.values
    kinds = kinds_by_path(model)
    zero = _zeros(values, range(len(values)))
    key = (same_program_key(closed), names, zero, len(data), tuple(sorted(kinds.items())))
    graph = graph_of(closed)
    constants = tuple(jnp.asarray(x) for x in graph.constants.values())
    known = _known.get(key)
    if known is not None and known.steps(constants, [*values, *data]) == known.ran.counts:
        _known.move_to_end(key)
        written = dict(zip(known.graph.nodes(), graph.nodes()))
        return replace(known, data=data, constants=constants, written=written)
    found = _new_structure(graph, constants, target, data, kinds)
    _known[key] = replace(found, data=(), constants=())
    while len(_known) > _KEPT:
        _known.popitem(last=False)
    return found


def _new_structure(graph: Graph, constants, target: Objective, data, kinds) -> Structure:
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
    slopes.update({s.output: _slope_note(s) for s in flow.sites})
    for line in lines:
        slopes.update({v: _line_note(line, slopes.get(v, size)) for v in line.values})
    notes = {s.output: _note(s, after[s].flat) for s in flow.sites}
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


def _note(site: Site, flat: tuple[float, float]) -> Note:
    """Of a site's output, of what enters, of the weight and of the bias."""
    acting = {"entering": site.entering, "weight": site.weight, "bias": site.bias}
    acting = {k: atom for k, atom in acting.items() if atom is not None and site.kind != "block"}

    def collect(look):
        arrays = {name: jnp.asarray(look(atom)) for name, atom in acting.items()}
        real = {k: x for k, x in arrays.items() if jnp.issubdtype(x.dtype, jnp.inexact)}
        scales = [jnp.asarray(look(atom)) for atom in site.scales]
        return {"ran": jnp.ones(()), "output": look(Atom(site.output)), **real, "scales": scales}

    def reduce(given, stacked):
        z = np.asarray(given["output"])
        found: dict[str, Any] = {
            name: size(given[name], stacked) for name in ("output", *acting) if name in given
        }
        found.setdefault("entering", size(np.zeros(z.shape[:stacked]), stacked))
        for scale in given["scales"]:
            found["weight"]["largest"] = found["weight"]["largest"] * np.abs(np.asarray(scale))
        if not np.isnan(flat[0]):
            at_rest = _by_unit((z <= flat[0]) | (z >= flat[1]), site.units, stacked)
            found["saturated"] = at_rest
        return {**found, "ran": np.asarray(given["ran"]), **_moments(z, stacked)}

    return Note(collect, reduce)


def _moments(z: np.ndarray, stacked: int) -> dict[str, Any]:
    """Mean, and kurtosis."""
    z = np.real(z) if np.iscomplexobj(z) else z
    with np.errstate(all="ignore"):
        z = z.astype(np.float64 if z.itemsize == 8 else np.float32)
        z = z.reshape(*z.shape[:stacked], -1)
        scale = np.maximum(np.abs(z).max(axis=-1, initial=0.0), 1e-30)[..., None]
        small = z / scale
        mean = small.mean(axis=-1, keepdims=True)
        off = (small - mean) ** 2
        variance = off.mean(axis=-1)
        kurtosis = (off**2).mean(axis=-1) / variance**2
    return {"mean": (mean * scale)[..., 0], "kurtosis": kurtosis}


def _slope_note(site: Site) -> Callable[[Any, int], Any]:
    """Of the gradient at a site's output: its size, by example too, and units without any."""

    def reduce(g, stacked):
        g = np.asarray(g)
        others = [a for a in range(g.ndim - stacked) if a not in site.units]
        found = {**size(g, stacked), "dead": _by_unit(g == 0, site.units, stacked)}
        if others:
            found["examples"] = size(np.moveaxis(g, others[0] + stacked, stacked), stacked + 1)
        return found

    return reduce


def _line_note(line: Line, note: Callable[[Any, int], Any]) -> Callable[[Any, int], Any]:
    """Of the gradient by what goes through time: its size at every step besides."""

    def reduce(g, stacked):
        found = note(g, stacked)
        axis = stacked - 1 if line.axis is None else stacked + line.axis
        g = np.moveaxis(np.asarray(g), axis, 0)
        return {**found, "steps": size(g, 1), "steps_by_example": size(g, min(g.ndim, 2))}

    return reduce


def _by_unit(holds: np.ndarray, units: Sequence[int], stacked: int) -> Any:
    """The share of units of which something holds everywhere."""
    ours = {axis + stacked for axis in units}
    others = tuple(a for a in range(stacked, holds.ndim) if a not in ours)
    return holds.all(axis=others).mean(axis=tuple(range(stacked, stacked + len(ours))))


# ---------------------------------------------------------------------------- passes


def read(structure: Structure, values: Sequence[Any]) -> Reading:
    """Pass through the model with these numbers in it, and open what training opens.

    Factors of 0 are opened in the order in which training would: those whose own gradient is not
    0, then those whose gradient is not 0 with the former opened, until no more.
    """
    ran, opened, first = structure.ran, set(), None
    while True:
        stands = stands_of(ran, values, opened)
        found = measured(ran, values, structure.data, structure.constants, stands)
        first = first or found
        more = {p for p in ran.closed if _moves(found, p)} - opened
        if not more:
            break
        opened |= more
    silent = loss_of(ran, values, structure.data, structure.constants, stands, 0.0)
    factors = _factors(structure, found)
    stuck = [p for p in ran.closed if p not in opened and p in factors]
    name = lambda places: tuple(structure.parameters[p] for p in sorted(places))  # noqa: E731
    merged = replace(found, slopes=_merged(first.slopes, found.slopes))
    return Reading(structure, values, merged, first, name(opened & factors), name(stuck), silent)


def _merged(first: dict[int, Any], opened: dict[int, Any]) -> dict[int, Any]:
    """Gradients as they are; where there is none, as they are with factors of 0 opened."""
    return {value: _merged_sizes(own, opened[value]) for value, own in first.items()}


def _merged_sizes(own: dict[str, Any], opened: dict[str, Any]) -> dict[str, Any]:
    alive = (own["largest"] != 0) | ~own["finite"]
    return {
        k: _merged_sizes(a, opened[k]) if isinstance(a, dict) else np.where(alive, a, opened[k])
        for k, a in own.items()
    }


def stands_of(ran: Pass, values: Sequence[Any], opened: Collection[int]) -> list[Any]:
    """What stands for arrays of 0: as large as they would usually start, or 0 unless opened."""
    found = []
    for place in ran.closed:
        value = values[place]
        key = jax.random.key(place)
        if value.ndim < 2:
            stand = jax.random.rademacher(key, value.shape, jnp.float32)
        else:
            fan_in = max(value.size // value.shape[-1], 1)
            stand = jax.random.normal(key, value.shape) / np.sqrt(fan_in)
        found.append(stand.astype(value.dtype) * float(place in opened))
    return found


def _moves(found: Measured, place: int) -> bool:
    return bool(np.any(np.asarray(found.gradients[place]["largest"]) != 0))


def _factors(structure: Structure, found: Measured) -> set[int]:
    """Parameters of factors that are exactly 0 where they multiply."""
    sites = [s for s in structure.flow.sites if s.kind not in ("lookup", "block")]
    weights = {s: found.noted[s.output]["weight"]["largest"] for s in sites}
    return {p for s, largest in weights.items() if not np.any(largest) for p in s.largest}
