"""The ways from the input to the loss, from site to site, with depth told from time.

A loop whose weights are slices of a stack goes through layers: each of its steps is a place of its
own. A loop whose weights are the same at every step goes through time: its sites are one place, and
what happens from step to step is read at what the loop carries.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sigprop.program.evaluation import length_of
from sigprop.program.flow import Flow, Site
from sigprop.program.nodes import Atom, Graph, Node, Program, is_floating

__all__ = ["Line", "Place", "carried", "depth_loops", "places_in_order", "timelines"]


@dataclass(frozen=True, eq=False)
class Place:
    """A site, in one step of each of the loops around it that go through layers.

    Attributes
    ----------
    site
        The site.
    steps
        By loop.
    before
        Places whose outputs reach it with no other place between.
    depth
        Places on the longest way to it.
    """

    site: Site
    steps: Mapping[Node, int]
    before: tuple["Place", ...]
    depth: int


@dataclass(frozen=True, eq=False)
class Line:
    """What goes through time.

    Attributes
    ----------
    node
        The loop, or an operation of an associative scan.
    values
        Of a loop: what it carries, at the start of its steps. Of an associative scan: what enters.
    axis
        Of the values, along which an associative scan runs; None for a loop.
    """

    node: Node
    values: tuple[int, ...]
    axis: int | None = None


def depth_loops(flow: Flow) -> frozenset[Node]:
    """Loops that go through layers."""
    return frozenset().union(*(site.stacked for site in flow.sites))


def places_in_order(graph: Graph, flow: Flow, counts: Mapping[Node, int]) -> tuple[Place, ...]:
    """All places, each after those before it."""
    walk = _Ways({site.node: site for site in flow.sites}, depth_loops(flow), counts)
    walk.through(graph.program, {})
    return tuple(walk.places)


@dataclass
class _Ways:
    """Goes through a program, keeping of every value the places it comes from directly."""

    sites: Mapping[Node, Site]
    layers: frozenset[Node]
    counts: Mapping[Node, int]
    places: list[Place] = field(default_factory=list)
    reached: dict[int, dict[Place, None]] = field(default_factory=dict)

    def of(self, atom: Atom) -> dict[Place, None]:
        return {} if atom.value is None else self.reached.get(atom.value, {})

    def through(self, program: Program, steps: dict[Node, int]) -> None:
        for node in program.nodes:
            if node.bodies:
                self._inside(node, steps)
                continue
            before: dict[Place, None] = {}
            for atom in node.inputs:
                before.update(self.of(atom))
            site = self.sites.get(node)
            if site is not None and site.kind != "scale":
                depth = 1 + max((place.depth for place in before), default=-1)
                place = Place(site, dict(steps), tuple(before), depth)
                self.places.append(place)
                before = {place: None}
            self.reached.update(dict.fromkeys(node.outputs, before))

    def _inside(self, node: Node, steps: dict[Node, int]) -> None:
        given = [self.of(atom) for atom in node.inputs]
        if node.name == "cond":
            self._branches(node, given[1:], steps)
            return
        body = node.bodies[-1]
        first = node.equation.params.get("num_consts", node.equation.params.get("body_nconsts"))
        skipped = node.equation.params.get("cond_nconsts", 0)
        given = given[skipped:]
        carries = len(body.outputs) if node.name == "while" else node.equation.params["num_carry"]
        carry = given[first : first + carries]
        for step in range(length_of(node, self.counts)) if node in self.layers else (0,):
            entering = [*given[:first], *carry, *given[first + carries :]]
            self.reached.update(zip(body.inputs, entering))
            inner = {**steps, node: step} if node in self.layers else steps
            self.through(body, inner)
            leaving = [self.of(atom) for atom in body.outputs]
            carry = leaving[:carries]
        self.reached.update(zip(node.outputs, [*carry, *leaving[carries:]]))

    def _branches(self, node: Node, given: Sequence[dict], steps: dict[Node, int]) -> None:
        union: list[dict[Place, None]] = [{} for _ in node.outputs]
        for body in node.bodies:
            self.reached.update(zip(body.inputs, given))
            self.through(body, steps)
            for found, atom in zip(union, body.outputs):
                found.update(self.of(atom))
        self.reached.update(zip(node.outputs, union))


def timelines(graph: Graph, flow: Flow, counts: Mapping[Node, int]) -> tuple[Line, ...]:
    """Loops through time, of at least three steps, and what they carry of the signal."""
    layers, found = depth_loops(flow), []
    for node in graph.nodes():
        if node.name not in ("scan", "while") or node in layers:
            continue
        if node.name == "while" and node not in counts:
            continue
        if length_of(node, counts) >= 3:
            values = carried(graph, flow, node)
            found += [Line(node, values)] if values else []
    return (*found, *_associative(graph, flow))


def _associative(graph: Graph, flow: Flow) -> list[Line]:
    """Associative scans: what each cuts into even and odd steps before it calls itself."""
    found: dict[int, tuple[Node, int]] = {}
    for node in graph.nodes():
        strides = node.equation.params["strides"] or () if node.name == "slice" else ()
        value = node.inputs[0].value if 2 in strides else None
        if value is None or not node.inside("associative_scan") or node.inside("_scan") > 1:
            continue
        axis = strides.index(2)
        if _is_signal(graph, flow, value) and graph.avals[value].shape[axis] >= 3:
            found.setdefault(value, (node, axis))
    return [Line(node, (value,), axis) for value, (node, axis) in found.items()]


def _is_signal(graph: Graph, flow: Flow, value: int) -> bool:
    origin, aval = flow.origins[value], graph.avals[value]
    return bool(is_floating(aval) and aval.shape and origin.signal and origin.sources)


def carried(graph: Graph, flow: Flow, loop: Node) -> tuple[int, ...]:
    """Arrays of a signal that change from step to step."""
    body, params = loop.bodies[-1], loop.equation.params
    first = params.get("num_consts", params.get("body_nconsts"))
    count = len(body.outputs) if loop.name == "while" else params["num_carry"]
    pairs = zip(body.inputs[first : first + count], body.outputs)
    return tuple(
        value for value, after in pairs if after.value != value and _is_signal(graph, flow, value)
    )
