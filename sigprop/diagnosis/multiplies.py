"""Multiplies by weights outside any layer, read off the program that computes the loss.

A model may multiply raw arrays with no layer object around them, or call its layers inside `vmap`
or `checkpoint`, where no framework can be listened to. Its loss as a jaxpr shows every multiply all
the same. The program is gone through equation by equation, noting of every value which parameters
it comes from and whether the batch took part; a matrix multiply or convolution of a value that
the batch took part in, by one that comes from parameters alone, is a layer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np

from sigprop.diagnosis.evaluation import unrolled_program, unrolled_shapes
from sigprop.diagnosis.passed import Passed, as_numpy
from sigprop.gradients.objective import Objective

__all__ = ["Multiply", "read_multiplies"]

_KINDS = {"dot_general": "matrix multiply", "conv_general_dilated": "convolution"}
_NO_NAMES = jax.extend.core.DebugInfo("jit", "one equation", None, None)
_CALLS = ("jit", "pjit", "remat2", "checkpoint", "closed_call", "core_call")


@dataclass(frozen=True)
class Multiply:
    """One multiply: as a layer, with the name of its weight and of all parameters in it."""

    layer: Passed
    weight: str
    sources: frozenset[str]


class _Value(NamedTuple):
    """A value of the program: from which parameters, with the batch or without, of which call.

    What a call gave out may have been transposed since, by ``order``.
    """

    array: Any
    sources: frozenset[str] = frozenset()
    signal: bool = False
    call: int | None = None
    order: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Call:
    """A multiply while the program runs. ``units_last`` sorts its output for reading."""

    kind: str
    weight: _Value
    entering: Any
    output: Any
    units_last: Callable[[Any], Any]
    bias: _Value | None = None

    def arrays(self) -> tuple[Any, Any, Any, Any]:
        """What entered, what left (units last), the weight, the bias."""
        bias = None if self.bias is None else self.bias.array
        return self.entering, self.units_last(self.output), self.weight.array, bias


def read_multiplies(target: Objective) -> tuple[Multiply, ...]:
    """All multiplies by weights, in the order of the program.

    None where the loss cannot be traced with the batch as a variable, and none inside loops that
    cannot be unrolled or functions with derivatives of their own.
    """
    program, arrays = _program(target)
    if program is None:
        return ()
    names, values = target.parameters.names, list(target.parameters.values)
    calls: list[_Call] = []

    def loss(perturbations, values, arrays):
        given = [
            *(_Value(value, frozenset([name])) for name, value in zip(names, values)),
            *(_Value(array, signal=True) for array in arrays),
        ]
        walk = _Walk(perturbations)
        (result,) = walk.through(program.jaxpr, program.consts, given)
        calls[:] = walk.calls
        return result.array, [call.arrays() for call in calls]

    def read(zeros, *given):
        gradients, passed = jax.grad(loss, has_aux=True)(zeros, *given)
        return passed, [call.units_last(by_call) for call, by_call in zip(calls, gradients)]

    with jax.default_matmul_precision("highest"):
        unrolled_shapes(loss, None, values, arrays)
        zeros = [jnp.zeros(call.output.shape, call.output.dtype) for call in calls]
        passed, gradients = unrolled_program(read, zeros, values, arrays)
    sizes = {name: value.size if value.ndim >= 2 else 0 for name, value in zip(names, values)}
    return _named(calls, passed, gradients, sizes)


def _program(target: Objective) -> tuple[Any, list[Any]]:
    """The loss as a function of parameters and batch, loops unrolled if they can be."""
    leaves, structure = jax.tree.flatten(target.batch)
    places = [i for i, leaf in enumerate(leaves) if hasattr(leaf, "dtype")]
    arrays = [jnp.asarray(leaves[i]) for i in places]

    def loss(values, arrays):
        filled = list(leaves)
        for place, array in zip(places, arrays):
            filled[place] = array
        return replace(target, batch=jax.tree.unflatten(structure, filled))(values)

    for unrolled in (True, False):
        try:
            with jax.disable_jit(unrolled):
                return jax.make_jaxpr(loss)(list(target.parameters.values), arrays), arrays
        except Exception:  # a loss that looks at the batch's numbers, an endless loop
            continue
    return None, arrays


class _Walk:
    """Goes through a program and collects multiplies by weights."""

    def __init__(self, perturbations: Sequence[Any] | None):
        self.perturbations = perturbations
        self.calls: list[_Call] = []

    def through(self, program: Any, consts: Sequence[Any], given: Sequence[_Value]) -> list[_Value]:
        held = dict(zip(program.constvars, map(_Value, consts)))
        held.update(zip(program.invars, given))

        def value(atom):
            is_literal = isinstance(atom, jax.extend.core.Literal)
            return _Value(atom.val) if is_literal else held[atom]

        for equation in program.eqns:
            results = self._done(equation, [value(atom) for atom in equation.invars])
            held.update(zip(equation.outvars, results))
        return [value(atom) for atom in program.outvars]

    def _done(self, equation: Any, given: list[_Value]) -> list[_Value]:
        name = equation.primitive.name
        if name in _CALLS:
            inner = equation.params["jaxpr"]
            consts = getattr(inner, "consts", ())
            return self.through(getattr(inner, "jaxpr", inner), consts, given)
        results = _evaluated(equation, [value.array for value in given])
        sources = frozenset().union(*(v.sources for v in given))
        values = [_Value(array, sources, any(v.signal for v in given)) for array in results]
        if name in _KINDS:
            return [self._noted(equation, given, values[0])]
        if name in ("add", "add_any"):
            return [self._with_bias(given, values[0])]
        if name == "transpose" and given[0].call is not None:
            order = tuple(given[0].order[axis] for axis in equation.params["permutation"])
            return [values[0]._replace(call=given[0].call, order=order)]
        return values

    def _noted(self, equation: Any, given: list[_Value], value: _Value) -> _Value:
        """A call, if it is a signal times a weight."""
        weighing = [v for v in given[:2] if v.sources and not v.signal and v.array.ndim >= 2]
        if len(weighing) != 1 or not value.signal:
            return value
        weight_first = weighing[0] is given[0]
        entering, leaving = _unit_axes(equation, weight_first)
        if not leaving:
            return value
        output = value.array
        if self.perturbations is not None:
            output = output + self.perturbations[len(self.calls)]
        signal = given[1 if weight_first else 0].array
        units_last = lambda array: _last(array, leaving)  # noqa: E731
        kind = _KINDS[equation.primitive.name]
        self.calls.append(_Call(kind, weighing[0], _last(signal, entering), output, units_last))
        order = tuple(range(output.ndim))
        return value._replace(array=output, call=len(self.calls) - 1, order=order)

    def _with_bias(self, given: list[_Value], value: _Value) -> _Value:
        """The sum of a call's output and of parameters becomes what the call gives out."""
        for product, other in (given, given[::-1]):
            if product.call is not None and other.sources and not other.signal:
                output = jnp.transpose(value.array, np.argsort(product.order).tolist())
                call = replace(self.calls[product.call], output=output, bias=other)
                self.calls[product.call] = call
                return value._replace(call=product.call, order=product.order)
        return value


def _evaluated(equation: Any, given: Sequence[Any]) -> list[Any]:
    """One equation, as a program of its own."""
    pairs = zip(equation.invars, given)
    entering = {v: x for v, x in pairs if not isinstance(v, jax.extend.core.Literal)}
    alone = jax.extend.core.Jaxpr(
        (), [*entering], equation.outvars, [equation], equation.effects, _NO_NAMES
    )
    closed = jax.extend.core.ClosedJaxpr(alone, ())
    return jax.extend.core.jaxpr_as_fun(closed)(*entering.values())


def _unit_axes(equation: Any, weight_first: bool) -> tuple[list[int], list[int]]:
    """Axes of the signal that are summed over, and of the output that the weight brings in."""
    numbers = equation.params["dimension_numbers"]
    if equation.primitive.name == "conv_general_dilated":
        return ([], []) if weight_first else ([numbers.lhs_spec[1]], [numbers.out_spec[1]])
    contracted, shared = numbers
    left, right = (v.aval.ndim for v in equation.invars)
    free = (left if weight_first else right) - len(contracted[0]) - len(shared[0])
    total = equation.outvars[0].aval.ndim
    start = len(shared[0]) if weight_first else total - free
    return list(contracted[1 if weight_first else 0]), list(range(start, start + free))


def _last(array: Any, axes: Sequence[int]) -> Any:
    """The axes moved to the end and made one."""
    moved = jnp.moveaxis(array, axes, range(-len(axes), 0))
    return moved.reshape(*moved.shape[: moved.ndim - len(axes)], -1)


def _named(
    calls: Sequence[_Call],
    passed: Sequence[tuple[Any, ...]],
    gradients: Sequence[Any],
    sizes: dict[str, int],
) -> tuple[Multiply, ...]:
    """Each call under the name of its largest weight, numbered where it multiplies repeatedly."""
    weights = [max(call.weight.sources, key=lambda name: (sizes[name], name)) for call in calls]
    found, times = [], dict.fromkeys(weights, 0)
    for call, arrays, gradient, weight in zip(calls, passed, gradients, weights):
        often = weights.count(weight) > 1
        name = f"{weight}[{times[weight]}]" if often else weight
        times[weight] += 1
        path, _, last = weight.rpartition("/")
        entering, output, gradient, array = map(as_numpy, (*arrays[:2], gradient, arrays[2]))
        bias = None if arrays[3] is None else as_numpy(arrays[3])
        layer = Passed(name, path, call.kind, (entering,), output, gradient, {last: array}, bias)
        sources = call.weight.sources | (call.bias.sources if call.bias else frozenset())
        found.append(Multiply(layer, weight, sources))
    return tuple(found)
