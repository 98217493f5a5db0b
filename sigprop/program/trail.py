"""Follows something through a graph, value by value, to the operation where it begins."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from sigprop.program.nodes import Graph, Node, Program

__all__ = ["Trail", "trail_of"]


@dataclass(frozen=True, eq=False)
class Trail:
    """Who gives a value on to whom; loops and branches are seen through.

    Attributes
    ----------
    makers, users
        By value: operations that make it and that use it. Loops and branches are none: what goes
        into their bodies and comes out of them is the same value under another number.
    aliases_up, aliases_down
        By value: other numbers of it, towards the input and towards the loss.
    """

    makers: dict[int, Node]
    users: dict[int, list[Node]]
    aliases_up: dict[int, list[int]]
    aliases_down: dict[int, list[int]]

    def downstream(self, start: Iterable[int], ends: Collection[int] = ()) -> set[int]:
        """Values that come from others, going no further than ``ends``."""
        return _closure(start, ends, lambda value: [*self._next(value)])

    def upstream(self, start: Iterable[int], ends: Collection[int] = ()) -> set[int]:
        """Values that others come from."""
        return _closure(start, ends, lambda value: [*self._previous(value)])

    def _next(self, value: int) -> Iterable[int]:
        yield from self.aliases_down.get(value, ())
        for node in self.users.get(value, ()):
            yield from node.outputs

    def _previous(self, value: int) -> Iterable[int]:
        yield from self.aliases_up.get(value, ())
        if value in self.makers:
            yield from (a.value for a in self.makers[value].inputs if a.value is not None)

    def users_through(self, start: Iterable[int], holds: Callable[[int], bool]) -> list[Node]:
        """Going to the loss through values of which something holds: all that use them."""
        seen = _closure(start, (), lambda value: [v for v in self._next(value) if holds(v)])
        return list(dict.fromkeys(n for value in sorted(seen) for n in self.users.get(value, ())))

    def makers_through(self, start: Iterable[int], holds: Callable[[int], bool]) -> list[Node]:
        """Going to the input through values of which something holds: all that make them."""
        seen = _closure(start, (), lambda value: [v for v in self._previous(value) if holds(v)])
        return [self.makers[value] for value in sorted(seen) if value in self.makers]


def _closure(start: Iterable[int], ends: Collection[int], step: Callable) -> set[int]:
    found, todo = set(), list(start)
    while todo:
        value = todo.pop()
        if value in found:
            continue
        found.add(value)
        if value not in ends:
            todo += step(value)
    return found


def trail_of(graph: Graph) -> Trail:
    """Of a graph."""
    trail = Trail({}, {}, {}, {})
    _collect(trail, graph.program)
    return trail


def _collect(trail: Trail, program: Program) -> None:
    for node in program.nodes:
        if node.bodies:
            for up, down in _seams(node):
                trail.aliases_down.setdefault(up, []).append(down)
                trail.aliases_up.setdefault(down, []).append(up)
            for body in node.bodies:
                _collect(trail, body)
            continue
        for value in node.outputs:
            trail.makers[value] = node
        for atom in node.inputs:
            if atom.value is not None:
                trail.users.setdefault(atom.value, []).append(node)


def _seams(node: Node) -> list[tuple[int, int]]:
    """Pairs of numbers for one value, at the edge of a loop or branch, in the order of flow."""
    given, params, body = [a.value for a in node.inputs], node.equation.params, node.bodies[-1]
    pairs: list = []
    if node.name == "cond":
        for branch in node.bodies:
            pairs += [*zip(given[1:], branch.inputs), *_out(branch, node)]
    elif node.name == "scan":
        first, carries = params["num_consts"], params["num_carry"]
        again = zip([a.value for a in body.outputs[:carries]], body.inputs[first:])
        pairs = [*zip(given, body.inputs), *again, *_out(body, node)]
    else:
        entering = given[params["cond_nconsts"] :]
        again = zip([a.value for a in body.outputs], body.inputs[params["body_nconsts"] :])
        pairs = [*zip(entering, body.inputs), *again, *_out(body, node)]
    return [(up, down) for up, down in pairs if up is not None and down is not None]


def _out(body: Program, node: Node) -> Iterable[tuple[int | None, int]]:
    return zip([atom.value for atom in body.outputs], node.outputs)
