"""Two passes through a model: what its layers give out, and the gradient at every one of them."""

import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sigprop.diagnosis.evaluation import step_by_step, unrolled_program, unrolled_shapes
from sigprop.diagnosis.multiplies import Multiply, read_multiplies
from sigprop.diagnosis.passed import Passed, Readings, as_numpy
from sigprop.diagnosis.recorder import Call, Recorder, recording, with_recorded_functions
from sigprop.gradients.objective import Objective, first_line

__all__ = ["read"]


def read(target: Objective) -> Readings:
    """Pass through the model forwards, then backwards.

    Loops and compiled functions inside the model are run step by step, so that their layers are
    seen too. Weights that no layer was seen to use are looked for in the program of the loss.
    """
    found = _listened(target)
    return _with_multiplies(found, read_multiplies(target)) if _hides_layers(found) else found


def _listened(target: Objective) -> Readings:
    """What the frameworks tell of."""
    try:
        return _read(target, unrolled_shapes, unrolled_program)
    except Exception:  # a loop whose end hangs on the parameters' numbers
        pass
    try:
        return _read(target, step_by_step, step_by_step)
    except Exception as unrolled:  # some loops cannot be unrolled: of no steps, for one
        try:
            return _read(target, operator.call, operator.call)
        except Exception:
            raise ValueError(
                f"loss(model, batch) could not be computed: {first_line(unrolled)}"
            ) from unrolled


def _read(target: Objective, shapes: Callable, evaluate: Callable) -> Readings:
    names, values = target.parameters.names, list(target.parameters.values)
    owners = frozenset(name.rpartition("/")[0] for name in names)
    calls: list[Call] = []

    def loss(values, perturbations):
        value, calls[:] = _pass(target, owners, values, perturbations)
        return value, [(call.inputs, call.output) for call in calls]

    outputs = [output for _, output in shapes(loss, values, None)[1]]
    zeros = [jnp.zeros_like(output) for output in outputs]
    gradient = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    (value, passed), (by_value, by_output) = evaluate(gradient, values, zeros)
    seen = [replace(call, inputs=i, output=o) for call, (i, o) in zip(calls, passed)]
    parameters = dict(zip(names, map(as_numpy, values)))
    layers = _layers(seen, list(map(as_numpy, by_output)), parameters)
    read_paths = {layer.path for layer in layers}
    unread = tuple(
        name
        for name, value in parameters.items()
        if value.size and name.rpartition("/")[0] not in read_paths
    )
    gradients = dict(zip(names, map(as_numpy, by_value)))
    return Readings(layers, unread, float(value), parameters, gradients)


def _pass(
    target: Objective, owners: frozenset[str], values: Any, perturbations: Any
) -> tuple[Any, list[Call]]:
    recorder = Recorder(owners, perturbations)
    model = with_recorded_functions(recorder, target.parameters.rebuild(values))
    with recording(recorder, model), jax.default_matmul_precision("highest"):
        return jnp.asarray(target.loss(model, target.batch)), recorder.calls


def _layers(
    calls: list[Call], gradients: list[np.ndarray], parameters: dict[str, np.ndarray]
) -> tuple[Passed, ...]:
    often = {call.path: sum(other.path == call.path for other in calls) for call in calls}
    passed: dict[str, int] = {}
    layers = []
    for call, gradient in zip(calls, gradients):
        number = passed.setdefault(call.path, 0)
        passed[call.path] += 1
        name = call.path or call.kind
        name = f"{name}[{number}]" if often[call.path] > 1 else name
        own = _own(call.path, parameters, number, often[call.path])
        inputs = tuple(map(as_numpy, call.inputs))
        layer = Passed(name, call.path, call.kind, inputs, as_numpy(call.output), gradient, own)
        layers.append(layer)
    return tuple(layers)


def _own(
    path: str, parameters: dict[str, np.ndarray], number: int, calls: int
) -> dict[str, np.ndarray]:
    """A layer's own arrays; of a stack passed layer by layer, those of that layer."""
    prefix = f"{path}/" if path else ""
    own = {
        name.removeprefix(prefix): value
        for name, value in parameters.items()
        if name.startswith(prefix) and "/" not in name.removeprefix(prefix)
    }
    stacked = calls > 1 and all(value.shape[:1] == (calls,) for value in own.values())
    return {name: value[number] for name, value in own.items()} if stacked and own else own


def _hides_layers(found: Readings) -> bool:
    """Whether weights belong to no layer, or one layer may multiply by several."""

    def several(layer: Passed) -> bool:
        dimensions = [value.ndim for value in layer.parameters.values() if value.ndim >= 2]
        return len(dimensions) > 1 or max(dimensions, default=0) > 2

    unread = any(found.parameters[name].ndim >= 2 for name in found.unread)
    return unread or any(several(layer) for layer in found.layers)


def _with_multiplies(found: Readings, multiplies: Sequence[Multiply]) -> Readings:
    """Multiplies outside any layer put in where they happen, and in the place of coarse layers."""
    times = lambda path, layers: sum(layer.path == path for layer in layers)  # noqa: E731
    inside = [multiply.layer for multiply in multiplies]
    coarse = {
        layer.path
        for layer in found.layers
        if times(layer.path, inside) > times(layer.path, found.layers)
    }
    layers = [layer for layer in found.layers if layer.path not in coarse]
    merged, at, covered = [], 0, set()
    for multiply in multiplies:
        if multiply.weight in found.unread or multiply.layer.path in coarse:
            merged.append(multiply.layer)
            covered |= multiply.sources
            continue
        places = [i for i in range(at, len(layers)) if layers[i].path == multiply.layer.path]
        if places:
            merged += layers[at : places[0] + 1]
            at = places[0] + 1
    unread = {*found.unread, *(n for n in found.parameters if n.rpartition("/")[0] in coarse)}
    return replace(
        found,
        layers=(*merged, *layers[at:]),
        unread=tuple(name for name in found.parameters if name in unread - covered),
    )
