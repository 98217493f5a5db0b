"""Which activation follows a layer, told from the program: what happens to its every entry."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from sigprop import activations
from sigprop._precision import exact_float64
from sigprop.program import Graph, Node, Program, Trail, is_floating
from sigprop.program.evaluation import bound

__all__ = ["Following", "following"]

_ELEMENTWISE = frozenset({
    "abs", "add", "cbrt", "clamp", "convert_element_type", "copy", "cos", "custom_jvp_call", "div",
    "erf", "erf_inv", "erfc", "eq", "exp", "exp2", "expm1", "ge", "gt", "integer_pow", "le", "log",
    "log1p", "logistic", "lt", "max", "min", "mul", "ne", "neg", "not", "pow", "rsqrt", "select_n",
    "sign", "sin", "sqrt", "square", "stop_gradient", "sub", "tan", "tanh", "asinh", "sinh", "cosh",
    "atan", "is_finite", "and", "or",
})  # fmt: skip
_GRID = np.linspace(-6.0, 6.0, 241)
_AGREES = 2e-5  # gelu and its tanh form differ by 5e-4
_FLAT = 0.05  # of the largest slope: a unit with less on every example is saturated


@dataclass(frozen=True)
class Following:
    """What follows a layer.

    Attributes
    ----------
    name
        Of the activation, as `sigprop.activations` has it; "" if it is none of these, or nothing.
    flat
        The activation's slope is less than 5% of its largest below the first number and above the
        second; nan where that is not known.
    """

    name: str = ""
    flat: tuple[float, float] = (math.nan, math.nan)


def following(graph: Graph, programs: dict[int, Program], trail: Trail, value: int) -> Following:
    """The function of one number that is applied to a value before anything else happens to it.

    ``programs`` has the program in which each value is used: what a loop carries is followed into
    its next step.
    """
    found = _inside_one_program(graph, programs[value], value)
    for alias in () if found is not None else trail.aliases_down.get(value, ()):
        found = found or _inside_one_program(graph, programs[alias], alias)
    return found or Following()


def _inside_one_program(graph: Graph, program: Program, value: int) -> Following | None:
    """None if nothing but handing on happens to it there."""
    nodes, result = _elementwise_part(graph, program, value)
    aval = graph.avals[value]
    if not nodes:
        return None
    real = is_floating(aval) and not jnp.issubdtype(aval.dtype, jnp.complexfloating)
    if result is None or not real or math.prod(aval.shape) < 2:
        return Following()
    key = repr([(n.name, _params(n), _links(n, nodes, value)) for n in nodes]) + str(aval.dtype)
    if key not in _SEEN:
        _SEEN[key] = _recognised(_on_grid(nodes, value, result, aval), aval.dtype)
    return _SEEN[key]


_SEEN: dict[str, Following] = {}


def _params(node: Node) -> str:
    return str(
        {k: str(v) for k, v in node.equation.params.items() if k not in ("jvp_jaxpr_fun", "shape")}
    )


def _links(node: Node, nodes: Sequence[Node], value: int) -> list[str]:
    """Where its inputs come from, without numbers that differ from layer to layer."""
    made = {output: str(place) for place, n in enumerate(nodes) for output in n.outputs}
    made[value] = "z"
    return [made.get(a.value, "?") if a.value is not None else str(a.literal) for a in node.inputs]


def _elementwise_part(graph: Graph, program: Program, value: int) -> tuple[list[Node], int | None]:
    """Operations that act on the value alone, entry by entry, and the one result they have."""
    shape = graph.avals[value].shape
    inside, constant, nodes, outside = {value}, set(), [], set()
    for node in program.nodes:
        given = [a.value for a in node.inputs if a.value is not None]
        if not given and node.name in ("broadcast_in_dim", "convert_element_type"):
            constant.update(node.outputs)  # a number, in the shape of the value
            nodes.append(node)
            continue
        if inside.isdisjoint(given):
            continue
        same = all(graph.avals[output].shape == shape for output in node.outputs)
        known = all(v in inside or v in constant for v in given)
        if node.name in _ELEMENTWISE and same and known and len(node.outputs) == 1:
            inside.update(node.outputs)
            nodes.append(node)
        else:
            outside.update(inside.intersection(given))
    outside.update(inside.intersection(a.value for a in program.outputs))
    results = outside - {value}
    nodes = [n for n in nodes if not constant.issuperset(n.outputs) or _used(n, nodes)]
    return nodes, results.pop() if len(results) == 1 else None


def _used(node: Node, nodes: Sequence[Node]) -> bool:
    return any(a.value in node.outputs for other in nodes for a in other.inputs)


def _on_grid(nodes: Sequence[Node], value: int, result: int, aval) -> np.ndarray:
    """Values over the grid, in arrays of the shape the program has."""
    size = math.prod(aval.shape)
    pieces = []

    @jax.jit
    def compute(grid):
        env = {value: grid}
        for node in nodes:
            given = [a.literal if a.value is None else env[a.value] for a in node.inputs]
            env.update(zip(node.outputs, bound(node, given)))
        return env[result]

    for start in range(0, _GRID.size, size):
        grid = np.resize(_GRID[start : start + size], aval.shape)
        pieces.append(np.asarray(compute(jnp.asarray(grid, aval.dtype)), np.float64).reshape(-1))
    return np.concatenate(pieces)[: _GRID.size]


def _recognised(values: np.ndarray, dtype) -> Following:
    allowed = max(_AGREES, 8 * float(jnp.finfo(dtype).eps)) * max(np.abs(values).max(), 1e-30)
    known = {name: column[_ON_GRID] for name, column in _table().items()}
    fitting = (name for name, column in known.items() if np.abs(column - values).max() <= allowed)
    name = next(fitting, "")
    if name:
        return Following() if name == "linear" else Following(name, _flat_parts(_table()[name]))
    return _leaky(values, allowed)


def _leaky(values: np.ndarray, allowed: float) -> Following:
    slope = float(f"{values[0] / _GRID[0]:.4g}")
    leaky = np.where(_GRID > 0, _GRID, slope * _GRID)
    if not 0 < slope < 1 or np.abs(leaky - values).max() > allowed:
        return Following()
    fine = np.where(_FINE > 0, _FINE, slope * _FINE)
    return Following(f"leaky_relu({slope:g})", _flat_parts(fine))


_FINE = np.linspace(-12.0, 12.0, 2 * 2400 + 1)
_ON_GRID = slice(1200, -1200, 10)


@functools.cache
@exact_float64
def _table() -> dict[str, np.ndarray]:
    """Values of all activations; of those that fit, the plainest comes first."""
    functions = activations.functions()
    first = ("linear", "relu", "tanh")
    names = (*first, *(name for name in functions if name not in first))
    values = jax.jit(lambda x: {name: functions[name](x) for name in names})(jnp.asarray(_FINE))
    return {name: np.asarray(values[name]) for name in names}


def _flat_parts(values: np.ndarray) -> tuple[float, float]:
    slope = np.abs(np.diff(values))
    steep = np.flatnonzero(slope >= _FLAT * slope.max())
    return (
        float(_FINE[steep[0]]) if steep[0] > 0 else -math.inf,
        float(_FINE[steep[-1] + 1]) if steep[-1] < slope.size - 1 else math.inf,
    )
