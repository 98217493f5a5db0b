"""Evaluates a graph, with something watched on the way: its readings, and a place to perturb it.

Loops are run as loops: what is watched inside comes out stacked over the steps, and perturbations
go in stacked over the steps, so that compiling takes as long as for the plain program.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp

from sigprop.program.nodes import Atom, Graph, Node, Program, as_function
from sigprop.program.opening import opened

__all__ = ["Places", "Steps", "bound", "evaluate", "length_of", "places"]

Watch = Mapping[int, Callable[[Callable[[Atom], Any]], Any]]
"""By the number of a value: what to note of it, given a function that looks values up."""


@dataclass(frozen=True)
class Places:
    """Where values stand: the loops around each, from the outermost inwards."""

    loops: dict[int, tuple[Node, ...]]

    def lengths(self, value: int, counts: Mapping[Node, int]) -> tuple[int, ...]:
        """Steps of the loops around a value."""
        return tuple(length_of(loop, counts) for loop in self.loops[value])


def places(graph: Graph) -> Places:
    """Of every value of a graph."""
    found: dict[int, tuple[Node, ...]] = dict.fromkeys(graph.constants, ())

    def visit(program: Program, around: tuple[Node, ...]) -> None:
        found.update(dict.fromkeys(program.inputs, around))
        for node in program.nodes:
            found.update(dict.fromkeys(node.outputs, around))
            inside = (*around, node) if node.name in ("scan", "while") else around
            for body in node.bodies:
                visit(body, inside)

    visit(graph.program, ())
    return Places(found)


def length_of(loop: Node, counts: Mapping[Node, int]) -> int:
    """How many steps a loop takes."""
    return loop.equation.params["length"] if loop.name == "scan" else counts.get(loop, 0)


def evaluate(
    graph: Graph,
    constants: Sequence[Any],
    given: Sequence[Any],
    *,
    watch: Watch,
    shifts: Mapping[int, Any],
    counts: Mapping[Node, int],
    opening: Mapping[int, Any] | None = None,
    volumes: Mapping[int, Any] | None = None,
) -> tuple[list[Any], dict[int, Any]]:
    """What a program returns, and what was noted on the way.

    Parameters
    ----------
    graph, constants, given
        The program, its constants in their order, and its inputs.
    watch
        What to note, by value; inside loops it comes out stacked along leading axes.
    shifts
        Added to values, of the values' shapes behind an axis for every loop around.
    counts
        Steps of each ``while`` that is to be run as a loop of so many steps, so that it can be
        differentiated backwards.
    opening
        For inputs that are exactly 0: what their place is taken by on the way back only.
    volumes
        What values are multiplied by.
    """
    env = dict(zip(graph.constants, constants))
    env.update(zip(graph.program.inputs, given))
    run = _Run(env, {**(opening or {})}, watch, counts, dict(shifts), volumes or {})
    return run.through(graph.program), run.noted


@dataclass
class _Run:
    """One level of a program: the whole, or a step of a loop."""

    env: dict[int, Any]
    shadows: dict[int, Any]
    watch: Watch
    counts: Mapping[Node, int]
    shifts: dict[int, Any]
    volumes: Mapping[int, Any]
    noted: dict[int, Any] = field(default_factory=dict)

    def look(self, atom: Atom) -> Any:
        return atom.literal if atom.value is None else self.env[atom.value]

    def through(self, program: Program) -> list[Any]:
        for value in program.inputs:
            self.arrived(value, self.env[value])
        for node in program.nodes:
            for value, array in zip(node.outputs, self._results(node)):
                self.arrived(value, array)
        return [self.look(atom) for atom in program.outputs]

    def arrived(self, value: int, array: Any) -> None:
        if value in self.volumes:
            array = array * self.volumes[value].astype(array.dtype)
        if value in self.shifts:
            array = array + self.shifts[value]
        self.env[value] = array
        if value in self.watch:
            self.noted[value] = jax.tree.map(jax.lax.stop_gradient, self.watch[value](self.look))

    def _results(self, node: Node) -> Sequence[Any]:
        if node.name == "scan":
            return self._scan(node)
        if node.name == "cond":
            index, *operands = (self.look(atom) for atom in node.inputs)
            return self._switch(index, node.bodies, operands)
        if node.name == "while" and node in self.counts:
            return self._counted(node)
        given = [self.look(atom) for atom in node.inputs]
        results = bound(node, given)
        return opened(node, given, results, self.shadows, bound)

    def _inner(self, shifts: dict[int, Any]) -> "_Run":
        return _Run(self.env, self.shadows, self.watch, self.counts, shifts, self.volumes)

    def _shifts_inside(self, *bodies: Program) -> dict[int, Any]:
        inside = _values(*bodies)
        return {value: shift for value, shift in self.shifts.items() if value in inside}

    def _body(self, body: Program, given: Sequence[Any], shifts: dict[int, Any]):
        run = self._inner(shifts)
        run.env.update(zip(body.inputs, given))
        return run.through(body), run.noted

    def _scan(self, node: Node) -> Sequence[Any]:
        (body,), params = node.bodies, node.equation.params
        given = [self.look(atom) for atom in node.inputs]
        first, last = params["num_consts"], params["num_consts"] + params["num_carry"]
        shadows = {
            inner: self.shadows[atom.value]
            for inner, atom in zip(body.inputs, node.inputs)
            if atom.value in self.shadows
        }
        stacked = {value: shadows[value] for value in body.inputs[last:] if value in shadows}
        kept = {value: shadows[value] for value in body.inputs[:first] if value in shadows}

        def step(carry, slices):
            entering, sliced, shifts = slices
            self.shadows.update({**kept, **sliced})
            leaving, noted = self._body(body, [*given[:first], *carry, *entering], shifts)
            count = len(carry)
            return _like(carry, leaving[:count]), (leaving[count:], noted)

        slices = (given[last:], stacked, self._shifts_inside(body))
        start = [jnp.asarray(value) for value in given[first:last]]
        carry, (rows, noted) = jax.lax.scan(
            step, start, slices, length=params["length"], reverse=params["reverse"]
        )
        self.noted.update(noted)
        return [*carry, *rows]

    def _switch(self, index: Any, bodies: Sequence[Program], operands: Sequence[Any]):
        shifts = [self._shifts_inside(body) for body in bodies]

        def branch(number):
            return lambda *given: self._body(bodies[number], given, shifts[number])

        results, noted = _alternatives(index, [branch(n) for n in range(len(bodies))], operands)
        self.noted.update(noted)
        return results

    def _counted(self, node: Node) -> Sequence[Any]:
        """A while as a loop of as many steps as it was seen to take."""
        goes_on, body = node.bodies
        params, given = node.equation.params, [self.look(atom) for atom in node.inputs]
        mine, start = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]

        def step(carry, shifts):
            ((going,), _) = self._body(goes_on, [*given[:mine], *carry], {})
            stay = lambda *carry: (list(carry), {})  # noqa: E731
            go = lambda *carry: self._body(body, [*given[mine:start], *carry], shifts)  # noqa: E731
            after, noted = _alternatives(going.astype(jnp.int32), [stay, go], carry)
            return _like(carry, after), noted

        begin = [jnp.asarray(value) for value in given[start:]]
        shifts = self._shifts_inside(body)
        carry, noted = jax.lax.scan(step, begin, shifts, length=self.counts[node])
        self.noted.update(noted)
        return carry


def _like(before: Sequence[Any], after: Sequence[Any]) -> list[Any]:
    return [jnp.asarray(b, a.dtype) for a, b in zip(before, after)]


def _alternatives(index: Any, branches: Sequence[Callable], operands: Sequence[Any]):
    """One of several ways; what the others would have noted is 0."""
    shapes = [jax.eval_shape(branch, *operands)[1] for branch in branches]
    union = {value: shape for each in shapes for value, shape in each.items()}

    def whole(branch):
        def run(*given):
            results, noted = branch(*given)
            blank = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), union)
            return [jnp.asarray(r) for r in results], {**blank, **noted}

        return run

    return jax.lax.switch(index, [whole(branch) for branch in branches], *operands)


def bound(node: Node, given: Sequence[Any]) -> Sequence[Any]:
    """What one operation makes of values."""
    pairs = zip(node.equation.invars, given)
    entering = {v: x for v, x in pairs if not isinstance(v, jax.extend.core.Literal)}
    return as_function(node.equation)[0](*entering.values())


def _values(*programs: Program) -> set[int]:
    """Numbers of all values inside."""
    found: set[int] = set()
    for program in programs:
        found.update(program.inputs)
        for node in program.nodes:
            found.update(node.outputs)
            found |= _values(*node.bodies)
    return found


@dataclass(frozen=True, eq=False)
class Steps:
    """Counts how many steps each ``while`` takes, at most, run once forwards."""

    graph: Graph
    loops: tuple[Node, ...]

    def __call__(self, constants: Sequence[Any], given: Sequence[Any]) -> dict[Node, int]:
        """With these numbers in the program."""
        if not self.loops:
            return {}
        steps = self._compiled(list(constants), list(given))
        return {loop: max(int(steps.get(at, 0)), 1) for at, loop in enumerate(self.loops)}

    @functools.cached_property
    def _compiled(self) -> Callable:
        return jax.jit(self._count)

    def _count(self, constants, given):
        env = dict(zip(self.graph.constants, constants))
        env.update(zip(self.graph.program.inputs, given))
        run = _Counting(env, {}, {}, {}, {}, {})
        run.numbers = {loop: at for at, loop in enumerate(self.loops)}
        run.through(self.graph.program)
        return {number: jnp.max(steps) for number, steps in run.noted.items()}


@dataclass
class _Counting(_Run):
    """Runs every ``while`` as it is and notes how often its body ran."""

    numbers: dict[Node, int] = field(default_factory=dict)

    def _inner(self, shifts: dict[int, Any]) -> "_Run":
        run = _Counting(self.env, self.shadows, self.watch, self.counts, shifts, {})
        run.numbers = self.numbers
        return run

    def _results(self, node: Node) -> Sequence[Any]:
        if node not in self.numbers:
            return super()._results(node)
        goes_on, body = node.bodies
        params, given = node.equation.params, [self.look(atom) for atom in node.inputs]
        mine, start = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
        inside = jax.eval_shape(
            lambda *carry: self._body(body, [*given[mine:start], *carry], {})[1], *given[start:]
        )

        def going(state):
            return self._body(goes_on, [*given[:mine], *state[0]], {})[0][0]

        def step(state):
            carry, steps, most = state
            after, noted = self._body(body, [*given[mine:start], *carry], {})
            more = {number: jnp.maximum(most[number], jnp.max(n)) for number, n in noted.items()}
            return _like(carry, after), steps + 1, more

        begin = [jnp.asarray(value) for value in given[start:]]
        blank = {number: jnp.zeros((), jnp.int32) for number in inside}
        carry, steps, most = jax.lax.while_loop(going, step, (begin, jnp.int32(0), blank))
        self.noted.update({self.numbers[node]: steps, **most})
        return carry
