"""What comes from what: which parameters and which data are in every value, and what multiplies.

The graph is gone through once in order (a loop's body until nothing changes any more), noting of
every value which parameters it comes from and whether it is a *signal*: something that data took
part in. A product of a signal and of what comes from parameters alone is a *site*: a place where
the model weighs its signal. Sites carry the axes that are contracted, so that a fan-in is what the
multiply sums over, whatever the shape of the kernel.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sigprop.program.contracted_axes import axes_of, cut_of, reshaped
from sigprop.program.nodes import Atom, Graph, Node, Program, is_floating, rule_name

__all__ = ["Flow", "Origin", "Site", "flow_of"]

KINDS = {"dot_general": "matrix multiply", "conv_general_dilated": "convolution"}
_OPAQUE = ("custom_jvp_call", "custom_vjp_call", "pure_callback", "io_callback", "ffi_call")
_SAME_ARRAY = (
    "convert_element_type", "copy", "squeeze", "reshape", "transpose", "broadcast_in_dim", "rev",
    "expand_dims", "reduce_precision",
)  # fmt: skip
_SLICES = ("slice", "dynamic_slice", "gather")
_ADDS = ("add", "add_any")


@dataclass(frozen=True)
class Origin:
    """What a value comes from.

    Attributes
    ----------
    sources
        Parameters, by their place.
    signal
        Whether data took part.
    array
        Whether it is more than one number.
    slices
        Where it was cut out of its source, so that two layers of one stack are told apart.
    stacked
        The loops that hand it a slice at every step.
    """

    sources: frozenset[int] = frozenset()
    signal: bool = False
    array: bool = False
    slices: tuple[str, ...] = ()
    stacked: frozenset[Node] = frozenset()

    @property
    def weighs(self) -> bool:
        """Whether it comes from parameters alone."""
        return bool(self.sources) and not self.signal


@dataclass(frozen=True, eq=False)
class Site:
    """A place where something made of parameters acts on a signal.

    Attributes
    ----------
    kind
        "matrix multiply", "convolution", "lookup" (of rows of a table), "scale" (elementwise),
        or "block" (a function that cannot be looked into).
    node
        The operation.
    weight, entering, bias
        What acts, what it acts on, and what is added (None where nothing is).
    output
        The value that comes out, the bias added.
    units
        Axes of the output that the weight brings in.
    fan_in
        How many products are summed to one entry of the output.
    sources
        Parameters that take part, those of the bias among them.
    largest
        Parameters of the weight alone.
    slices, stacked
        Of the weight: as `Origin` has it.
    scales
        Constants that the product is multiplied by.
    """

    kind: str
    node: Node
    weight: Atom
    entering: Atom
    output: int
    units: tuple[int, ...]
    fan_in: int
    sources: frozenset[int]
    largest: frozenset[int]
    slices: tuple[str, ...] = ()
    stacked: frozenset[Node] = frozenset()
    bias: Atom | None = None
    scales: tuple[Atom, ...] = ()

    @property
    def multiplies(self) -> bool:
        """Whether it sums over what enters: a layer, in the sense of depth."""
        return self.kind in KINDS.values()


@dataclass(frozen=True, eq=False)
class Flow:
    """Origins of all values, the sites in order, and what became of every parameter.

    Attributes
    ----------
    origins
        By value.
    sites
        In the order of the program.
    seen
        Parameters that were seen to meet a signal, in the open.
    hidden
        Parameters that go into functions that cannot be looked into, with that function's name.
    loops
        Loops whose number of steps hangs on numbers and that a gradient must pass.
    """

    origins: dict[int, Origin]
    sites: tuple[Site, ...]
    seen: frozenset[int]
    hidden: dict[int, str]
    loops: tuple[Node, ...]


def flow_of(graph: Graph, parameters: int) -> Flow:
    """Of a graph whose first inputs are ``parameters`` arrays to train, the others data.

    Where there are no others, the constants of the program are data.
    """
    given = graph.program.inputs
    own, data = given[:parameters], given[parameters:]
    walk = _Walk(graph)
    for place, value in enumerate(own):
        walk.origins[value] = Origin(frozenset([place]), array=_is_array(graph.avals[value]))
    for value in data:
        walk.origins[value] = Origin(signal=True, array=_is_array(graph.avals[value]))
    for value in graph.constants:
        array = _is_array(graph.avals[value])
        walk.origins[value] = Origin(signal=array and not data, array=array)
    walk.through(graph.program)
    order = {node: place for place, node in enumerate(graph.nodes())}
    sites = tuple(sorted(walk.sites.values(), key=lambda site: order[site.node]))
    seen = frozenset(
        walk.seen - walk.hidden.keys() | {s for t in sites if t.kind != "block" for s in t.sources}
    )
    hidden = {place: name for place, name in walk.hidden.items() if place not in seen}
    return Flow(walk.origins, sites, seen, hidden, tuple(walk.loops))


def _is_array(aval: Any) -> bool:
    return math.prod(getattr(aval, "shape", ())) > 1


@dataclass
class _Walk:
    """Goes through a program and its loops."""

    graph: Graph
    origins: dict[int, Origin] = field(default_factory=dict)
    sites: dict[Node, Site] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)
    hidden: dict[int, str] = field(default_factory=dict)
    loops: dict[Node, None] = field(default_factory=dict)

    def of(self, atom: Atom) -> Origin:
        return Origin() if atom.value is None else self.origins[atom.value]

    def through(self, program: Program) -> None:
        sums = _sums(program)
        for node in program.nodes:
            self._pass(node)
        for node in program.nodes:
            site = self.sites.get(node)
            if site is not None and site.multiplies:
                self.sites[node] = self._with_bias(site, sums)

    def _pass(self, node: Node) -> None:
        given = [self.of(atom) for atom in node.inputs]
        if node.name == "scan":
            results = self._scan(node, given)
        elif node.name == "while":
            results = self._while(node, given)
        elif node.name == "cond":
            results = self._cond(node, given)
        else:
            results = [self._after(node, given, value) for value in node.outputs]
            self._note(node, given)
        self.origins.update(zip(node.outputs, results))

    def _after(self, node: Node, given: Sequence[Origin], value: int) -> Origin:
        array = _is_array(self.graph.avals[value])
        sources = frozenset().union(*(origin.sources for origin in given))
        signal = any(origin.signal for origin in given) or _is_site(node, given)
        weighing = [origin for origin in given if origin.sources]
        if signal or len(weighing) != 1:
            return Origin(sources, signal, array)
        slices = weighing[0].slices
        if node.name in _SLICES:
            slices = (*slices, cut_of(node))
        return Origin(sources, False, array, slices, weighing[0].stacked)

    def _note(self, node: Node, given: Sequence[Origin]) -> None:
        """What a node says of the parameters that meet a signal in it."""
        weights = [place for place, origin in enumerate(given) if origin.weighs]
        signals = [place for place, o in enumerate(given) if o.signal or _is_site(node, given)]
        if not weights or not signals:
            return
        weights = [place for place in weights if not self._is_summary(given[place])]
        if not weights:
            return
        sources = frozenset().union(*(given[place].sources for place in weights))
        if node.name in _OPAQUE:
            self.hidden.update(dict.fromkeys(sources, rule_name(node.equation)))
            self._add(node, "block", weights[0], (), 1, sources)
            return
        self.seen |= sources
        if _is_site(node, given):
            (at,) = weights
            units, fan_in = axes_of(self.graph, node, at)
            self._add(node, KINDS[node.name], at, units, fan_in, sources)
        elif node.name == "gather" and weights[0] == 0:
            self._add(node, "lookup", 0, None, 1, sources)
        elif node.name == "mul":
            self._add(node, "scale", weights[0], None, 1, sources)

    def _is_summary(self, origin: Origin) -> bool:
        """Whether it is one number made of arrays: a penalty, say, that acts on no signal."""
        values = self.graph.program.inputs
        arrays = [_is_array(self.graph.avals[values[place]]) for place in origin.sources]
        return not origin.array and any(arrays)

    def _add(self, node, kind, at, units, fan_in, sources) -> None:
        others = [place for place in range(len(node.inputs)) if place != at]
        signal = [place for place in others if self.of(node.inputs[place]).signal] or others
        aval = self.graph.avals[node.outputs[0]]
        if not is_floating(aval):
            return
        units = (len(aval.shape) - 1,) if units is None and aval.shape else units or ()
        weight = self.of(node.inputs[at])
        site = Site(
            kind, node, node.inputs[at], node.inputs[signal[0]], node.outputs[0], units, fan_in,
            sources, weight.sources, weight.slices, weight.stacked,
        )  # fmt: skip
        self.sites[node] = site

    def _with_bias(self, site: Site, sums: dict[int, Node]) -> Site:
        """Where nothing happens to the product but that parameters are added, that sum is it."""
        value, units, shape = site.output, site.units, self.graph.avals[site.output].shape
        scales: list[Atom] = []
        while value in sums:
            node = sums[value]
            if node.name == "transpose":
                permutation = node.equation.params["permutation"]
                units = tuple(sorted(permutation.index(axis) for axis in units))
            elif node.name in _ADDS:
                (other,) = [a for a in node.inputs if a.value != value] or [node.inputs[0]]
                origin = self.of(other)
                if other.value is None or origin.signal or not origin.sources:
                    return site
                sources = site.sources | origin.sources
                return replace(
                    site, output=node.outputs[0], units=units, bias=other, sources=sources,
                    scales=tuple(scales),
                )  # fmt: skip
            elif node.name == "mul":
                other = next((a for a in node.inputs if a.value != value), node.inputs[0])
                origin = self.of(other)
                if other.value == value or origin.signal or origin.sources or origin.array:
                    return site
                scales.append(other)
                site = replace(site, output=node.outputs[0], units=units, scales=tuple(scales))
            elif node.name == "reshape":
                moved = reshaped(shape, node.equation.params["new_sizes"], units)
                if moved is None:
                    return site
                units = moved
            value = node.outputs[0]
            shape = self.graph.avals[value].shape
        return site

    # ------------------------------------------------------------------ programs inside

    def _scan(self, node: Node, given: list[Origin]) -> list[Origin]:
        (body,), params = node.bodies, node.equation.params
        first, last = params["num_consts"], params["num_consts"] + params["num_carry"]
        sliced = [replace(o, stacked=o.stacked | {node}) if o.weighs else o for o in given[last:]]
        carry = self._until_still(body, given[:first], given[first:last], sliced)
        rows = [self.of(atom) for atom in body.outputs[len(carry) :]]
        return [*carry, *rows]

    def _while(self, node: Node, given: list[Origin]) -> list[Origin]:
        goes_on, body = node.bodies
        params = node.equation.params
        mine, start = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
        carry = self._until_still(body, given[mine:start], given[start:], [])
        self.origins.update(zip(goes_on.inputs, [*given[:mine], *carry]))
        self.through(goes_on)
        values = [self.graph.avals[value] for value in node.outputs]
        if any(is_floating(aval) and o.sources for aval, o in zip(values, carry)):
            self.loops[node] = None
        return carry

    def _until_still(self, body, consts, carry, sliced) -> list[Origin]:
        while True:
            self.origins.update(zip(body.inputs, [*consts, *carry, *sliced]))
            self.through(body)
            after = [self.of(atom) for atom in body.outputs[: len(carry)]]
            joined = [_joined(a, b) for a, b in zip(carry, after)]
            if joined == list(carry):
                return joined
            carry = joined

    def _cond(self, node: Node, given: list[Origin]) -> list[Origin]:
        for body in node.bodies:
            self.origins.update(zip(body.inputs, given[1:]))
            self.through(body)
        ways = [[self.of(atom) for atom in body.outputs] for body in node.bodies]
        found = ways[0]
        for way in ways[1:]:
            found = [_joined(a, b) for a, b in zip(found, way)]
        return found


def _joined(a: Origin, b: Origin) -> Origin:
    """Of a value that is one or the other."""
    if a == b:
        return a
    signal = a.signal or b.signal or a.sources != b.sources
    return Origin(a.sources | b.sources, signal, a.array or b.array)


def _is_site(node: Node, given: Sequence[Origin]) -> bool:
    """A multiply of parameters with data, or with arrays that are no parameters."""
    if node.name not in KINDS:
        return False
    (one,) = [o for o in given if o.weighs] if sum(o.weighs for o in given) == 1 else (None,)
    if one is None:
        return False
    other = given[1] if one is given[0] else given[0]
    return other.signal or other.array


def _sums(program: Program) -> dict[int, Node]:
    """By value: the one node that uses it, if that may be the addition of a bias or leads there."""
    users: dict[int, list[Node]] = {}
    for node in program.nodes:
        for atom in node.inputs:
            if atom.value is not None:
                users.setdefault(atom.value, []).append(node)
    for atom in program.outputs:
        users.setdefault(atom.value, []).append(None)  # type: ignore[arg-type]
    passing = (*_ADDS, "mul", "reshape", "transpose", "convert_element_type")
    return {
        value: nodes[0]
        for value, nodes in users.items()
        if len(nodes) == 1 and nodes[0] is not None and nodes[0].name in passing
    }
