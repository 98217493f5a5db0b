"""Axes: which ones a multiply sums over, which ones its weight brings in, and where those go."""

import math

from sigprop.program.nodes import Graph, Node, aval_of

__all__ = ["axes_of", "cut_of", "reshaped"]


def axes_of(graph: Graph, node: Node, at: int) -> tuple[tuple[int, ...], int]:
    """Axes of the output that the weight brings in, and products summed to an entry."""
    shape = aval_of(graph, node.inputs[at]).shape
    numbers = node.equation.params["dimension_numbers"]
    if node.name == "conv_general_dilated":
        if at == 0:
            return (), math.prod(shape)
        return (numbers.out_spec[1],), math.prod(shape) // shape[numbers.rhs_spec[0]]
    contracted, shared = numbers
    fan_in = math.prod(shape[axis] for axis in contracted[at])
    free = len(shape) - len(contracted[at]) - len(shared[at])
    total = len(graph.avals[node.outputs[0]].shape)
    start = len(shared[0]) if at == 0 else total - free
    return tuple(range(start, start + free)), fan_in


def reshaped(before, after, units) -> tuple[int, ...] | None:
    """Where axes of units are after a reshape that splits or joins the others; None if unclear."""
    if not units:
        return ()
    tail = len(before) - len(units)
    if tuple(units) != tuple(range(tail, len(before))):
        return None
    size = math.prod(before[tail:])
    for start in range(len(after), -1, -1):
        if math.prod(after[start:]) == size:
            return tuple(range(start, len(after)))
    return None


def cut_of(node: Node) -> str:
    """Which part a slice takes, as far as the program says."""
    params = {k: node.equation.params.get(k) for k in ("start_indices", "limit_indices", "strides")}
    return str(params) + str([str(atom.literal) for atom in node.inputs[1:]])
