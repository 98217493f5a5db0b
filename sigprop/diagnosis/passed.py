"""What was read of a model: its layers as they were passed, its loss, its gradients."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["Passed", "Readings", "as_numpy"]


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
    bias
        What it adds, where that is known otherwise than by a parameter's name.
    """

    name: str
    path: str
    kind: str
    inputs: tuple[np.ndarray, ...]
    output: np.ndarray
    gradient: np.ndarray
    parameters: dict[str, np.ndarray]
    bias: np.ndarray | None = None

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


def as_numpy(array: Any) -> np.ndarray:
    """In float64 if it holds real numbers; empty for what holds none, as random keys."""
    if not hasattr(array, "dtype") or jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        return np.zeros(0, int)
    array = np.asarray(array)
    floating = jnp.issubdtype(array.dtype, jnp.floating)
    return array.astype(np.float64) if floating else array
