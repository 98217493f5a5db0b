"""The function whose gradient is checked: of a list of arrays, with one number as its value."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from sigprop._checks import check_finite
from sigprop.gradients.objective import first_line
from sigprop.gradients.parameters import Parameters, take_apart

__all__ = ["Target", "target"]


@dataclass(frozen=True)
class Target:
    """``⟨weights, outputs(arrays)⟩`` and the gradient that is claimed for it.

    Attributes
    ----------
    parameters
        Where the function is looked at.
    outputs
        The function's outputs raveled, from the parameters' arrays.
    weights
        A random combination of several outputs; 1 for a single one.
    given
        The user's own gradient, if that is to be checked.
    """

    parameters: Parameters
    outputs: Callable[[Sequence[Any]], Float[Array, " outputs"]]
    weights: Float[Array, " outputs"]
    given: Callable[[Any], Any] | None

    @property
    def epsilon(self) -> float:
        """Precision of the coarsest numbers on the way."""
        dtypes = {self.weights.dtype, *(value.dtype for value in self.parameters.values)}
        return max(float(jnp.finfo(dtype).eps) for dtype in dtypes)

    def value(self, arrays: Sequence[Any]) -> Float[Array, ""]:
        """The number whose gradient is checked."""
        outputs = self.outputs(arrays)
        return outputs[0] if outputs.size == 1 else jnp.vdot(self.weights, outputs)

    def moved(self, direction: Sequence[Any], step: Any) -> list[Any]:
        """The arrays, ``step`` along a direction."""
        step = jnp.asarray(step)
        pairs = zip(self.parameters.values, direction)
        return [value + step.astype(value.dtype) * along for value, along in pairs]

    def values_along(self, direction: Sequence[Any], steps: np.ndarray) -> np.ndarray:
        """Values at steps along a direction, in float64."""
        return np.asarray(self._along(list(direction), jnp.asarray(steps))).astype(np.float64)

    def gradient_at(self, arrays: Sequence[Any]) -> list[np.ndarray]:
        """The claimed gradient, array by array, in float64."""
        found = self._reverse(list(arrays)) if self.given is None else self._user(arrays)
        return [np.asarray(array).astype(np.float64) for array in found]

    @functools.cached_property
    def _along(self) -> Callable[[Any, Any], Float[Array, " steps"]]:
        # One after the other and compiled once, whatever the direction.
        one = lambda direction, step: self.value(self.moved(direction, step))  # noqa: E731
        return jax.jit(lambda direction, steps: lax.map(lambda s: one(direction, s), steps))

    @functools.cached_property
    def _reverse(self) -> Callable[[Any], Any]:
        return jax.jit(jax.grad(self.value))

    def _user(self, arrays: Sequence[Any]) -> list[Any]:
        given: Any = self.given
        found = take_apart(_with_arrays(given(self.parameters.rebuild(arrays))))
        own = dict(zip(found.names, found.values))
        for name, value in zip(self.parameters.names, self.parameters.values):
            shape = own[name].shape if name in own else "nothing"
            if shape != value.shape:
                at = f" at {name!r}" if name else ""
                raise ValueError(
                    f"grad must return an array of shape {value.shape}{at}, got {shape}"
                )
        return [own[name] for name in self.parameters.names]


def target(fn: Callable, params: Any, grad: Callable | None, key: Any) -> Target:
    """``fn`` at ``params``, checked.

    Raises
    ------
    ValueError
        If there is nothing to differentiate by, a parameter is not finite, or ``fn`` fails or
        returns anything but real numbers.
    """
    for name, given in {"fn": fn, "grad": grad}.items():
        if not callable(given) and not (name == "grad" and given is None):
            kind = type(given).__name__
            raise ValueError(f"{name} must be a function of the parameters, got {kind}")
    parameters = take_apart(_with_arrays(params))
    for name, value in zip(parameters.names, parameters.values):
        check_finite(f"params at {name!r}" if name else "params", value)

    def outputs(arrays: Sequence[Any]) -> Float[Array, " outputs"]:
        with jax.default_matmul_precision("highest"):
            returned = fn(parameters.rebuild(arrays))
        with jax.numpy_dtype_promotion("standard"):  # leaves of several precisions are welcome
            return ravel_pytree(returned)[0]

    returned = _returned(fn, parameters)
    if grad is not None and returned.size != 1:
        raise ValueError(
            f"grad can be given for an fn that returns one number, got {returned.size} numbers"
        )
    several = returned.size > 1
    weights = jax.random.normal(key, (returned.size,), returned.dtype) if several else None
    ones = jnp.ones(returned.size, returned.dtype)
    return Target(parameters, outputs, ones if weights is None else weights, grad)


def _with_arrays(params: Any) -> Any:
    """Python floats as arrays, so that plain numbers can be checked."""
    return jax.tree.map(
        lambda leaf: jnp.asarray(leaf) if type(leaf) is float else leaf,
        params,
        is_leaf=lambda node: isinstance(node, nnx.Module | linen.Module),
    )


def _returned(fn: Callable, parameters: Parameters) -> jax.ShapeDtypeStruct:
    """Number and widest type of what ``fn`` returns."""
    try:
        found = jax.eval_shape(lambda a: fn(parameters.rebuild(a)), parameters.values)
    except Exception as error:
        raise ValueError(f"fn(params) could not be computed: {first_line(error)}") from error
    leaves = jax.tree.leaves(found)
    wrong = sorted({str(x.dtype) for x in leaves if not jnp.issubdtype(x.dtype, jnp.floating)})
    size = sum(leaf.size for leaf in leaves)
    if wrong or not size:
        raise ValueError(f"fn must return real numbers, got {', '.join(wrong) or 'none'}")
    with jax.numpy_dtype_promotion("standard"):
        return jax.ShapeDtypeStruct((size,), jnp.result_type(*leaves))
