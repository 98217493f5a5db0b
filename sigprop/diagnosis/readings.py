"""Two passes through a model: what its layers give out, and the gradient at every one of them."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sigprop.diagnosis.recorder import Call, Recorder, recording, with_recorded_functions
from sigprop.gradients.objective import Objective, first_line

__all__ = ["Passed", "Readings", "read"]


@dataclass(frozen=True)
class Passed:
    """One layer as it was passed.

    Attributes
    ----------
    name
        Its path; with a number where the layer (of a scanned stack, say) is called repeatedly.
    path, kind
        Path without the number; class or function.
    inputs, output
        Arrays in and out.
    gradient
        ∂loss/∂output, of the output's shape.
    parameters
        Its own arrays by their last name: of its own layer, if it is one of a stack.
    """

    name: str
    path: str
    kind: str
    inputs: tuple[np.ndarray, ...]
    output: np.ndarray
    gradient: np.ndarray
    parameters: dict[str, np.ndarray]

    @property
    def weighs(self) -> bool:
        """Whether it multiplies a signal by a matrix (or a kernel) of its own."""
        matrices = any(value.ndim >= 2 for value in self.parameters.values())
        return matrices and any(array.dtype.kind != "i" for array in self.inputs)


@dataclass(frozen=True)
class Readings:
    """All of a model.

    Attributes
    ----------
    layers
        In the order in which they were passed.
    unread
        Paths of arrays that belong to no layer that could be read.
    loss
        The loss.
    parameters, gradients
        Arrays of the model by path, and ∂loss/∂ each.
    """

    layers: tuple[Passed, ...]
    unread: tuple[str, ...]
    loss: float
    parameters: dict[str, np.ndarray]
    gradients: dict[str, np.ndarray]


def read(target: Objective) -> Readings:
    """Pass through the model forwards, then backwards.

    Loops and compiled functions inside the model are run step by step, so that their layers are
    seen too; what lies inside ``vmap`` or ``checkpoint`` cannot be.
    """
    try:
        with jax.disable_jit():
            return _read(target)
    except Exception as unrolled:  # some loops cannot be unrolled: of no steps, for one
        try:
            return _read(target)
        except Exception:
            raise ValueError(
                f"loss(model, batch) could not be computed: {first_line(unrolled)}"
            ) from unrolled


def _read(target: Objective) -> Readings:
    names, values = target.parameters.names, list(target.parameters.values)
    owners = frozenset(name.rpartition("/")[0] for name in names)
    _, calls = _pass(target, owners, values, None)
    zeros = [jnp.zeros_like(call.output) for call in calls]

    def loss(values, perturbations):
        return _pass(target, owners, values, perturbations)[0]

    value, (by_value, by_output) = jax.value_and_grad(loss, argnums=(0, 1))(values, zeros)
    parameters = dict(zip(names, map(_numpy, values)))
    layers = _layers(calls, list(map(_numpy, by_output)), parameters)
    read_paths = {layer.path for layer in layers}
    unread = tuple(
        name
        for name, value in parameters.items()
        if value.size and name.rpartition("/")[0] not in read_paths
    )
    gradients = dict(zip(names, map(_numpy, by_value)))
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
        inputs = tuple(map(_numpy, call.inputs))
        layer = Passed(name, call.path, call.kind, inputs, _numpy(call.output), gradient, own)
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


def _numpy(array: Any) -> np.ndarray:
    if not hasattr(array, "dtype") or jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        return np.zeros(0, int)
    array = np.asarray(array)
    floating = jnp.issubdtype(array.dtype, jnp.floating)
    return array.astype(np.float64) if floating else array
