"""A loss of a model and a batch as a function of the model's parameters, checked once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sigprop.gradients.parameters import Parameters, take_apart

__all__ = ["ConstantLoss", "Objective", "first_line", "objective", "one_number", "traced"]


class ConstantLoss(ValueError):
    """The loss calls the model, but nothing of what hangs on its parameters reaches it."""


@dataclass(frozen=True)
class Objective:
    """``loss(model, batch)`` as a function of ``parameters.values``, multiplied out in full."""

    parameters: Parameters
    loss: Callable[[Any, Any], Any]
    batch: Any

    def __call__(self, values: Sequence[Any]) -> Float[Array, ""]:
        """The loss of the model with these arrays in it."""
        with jax.default_matmul_precision("highest"):
            return one_number(self.loss(self.parameters.rebuild(values), self.batch))

    def value_and_gradient(self) -> tuple[Float[Array, ""], tuple[Any, ...]]:
        """The loss, and its gradient by each array."""
        return jax.jit(jax.value_and_grad(self.__call__))(self.parameters.values)


def objective(model: Any, loss: Callable[[Any, Any], Any], batch: Any) -> Objective:
    """The loss as a function of the parameters.

    Raises
    ------
    ValueError
        If the model has no parameters, ``loss`` is not callable, cannot be computed on the batch,
        returns anything but one real number, or does not use the model.
    """
    if not callable(loss):
        raise ValueError(f"loss must be a function of (model, batch), got {type(loss).__name__}")
    found = Objective(take_apart(model), loss, batch)
    _check_scalar(found)
    return found


def traced(target: Objective) -> tuple[Any, list[Any]]:
    """The loss as a closed jaxpr of the parameters and of the batch's arrays, and these arrays.

    Where it looks at the batch's numbers, the batch is part of the program, and there are none.
    """
    leaves, structure = jax.tree.flatten(target.batch)
    places = [i for i, leaf in enumerate(leaves) if hasattr(leaf, "dtype")]
    arrays = [jnp.asarray(leaves[i]) for i in places]

    def loss(values, arrays):
        filled = list(leaves)
        for place, array in zip(places, arrays):
            filled[place] = array
        return replace(target, batch=jax.tree.unflatten(structure, filled))(values)

    try:
        return jax.make_jaxpr(loss)(list(target.parameters.values), arrays), arrays
    except Exception:  # a loss that looks at the batch's numbers
        return jax.make_jaxpr(target.__call__)(list(target.parameters.values)), []


def one_number(value: Any) -> Any:
    """Of (loss, aux) the loss; of an array of one entry, that entry."""
    if isinstance(value, tuple) and value and hasattr(value[0], "dtype"):
        value = value[0]
    if jax.tree.structure(value) != _LEAF:
        return value
    array = jnp.asarray(value)
    return array.reshape(()) if array.size == 1 else array


_LEAF = jax.tree.structure(0)


def _check_scalar(found: Objective) -> None:
    def compute(values):
        return one_number(found.loss(found.parameters.rebuild(values), found.batch))

    try:
        program, after = jax.make_jaxpr(compute, return_shape=True)(found.parameters.values)
    except Exception as error:
        raise ValueError(
            f"loss(model, batch) could not be computed: {first_line(error)}"
        ) from error
    leaf = after if isinstance(after, jax.ShapeDtypeStruct) else None
    if leaf is None or leaf.shape != () or not jnp.issubdtype(leaf.dtype, jnp.floating):
        given = f"{leaf.dtype}{list(leaf.shape)}" if leaf is not None else type(after).__name__
        raise ValueError(f"loss(model, batch) must return one real number, got {given}")
    if not _uses_its_input(program.jaxpr):
        kind = ConstantLoss if _is_given_on(program.jaxpr) else ValueError
        raise kind(
            "loss(model, batch) must depend on the model it is given, got one that does not: it "
            "may be using another model from outside"
        )


def _uses_its_input(program) -> bool:
    """Whether what a program returns was computed from anything it was given."""
    reached = set(program.invars)
    for equation in program.eqns:
        if any(not hasattr(v, "val") and v in reached for v in equation.invars):
            reached.update(equation.outvars)
    return any(not hasattr(v, "val") and v in reached for v in program.outvars)


def _is_given_on(program) -> bool:
    """Whether anything at all is computed from what a program is given."""
    given = set(program.invars)
    return any(not hasattr(v, "val") and v in given for e in program.eqns for v in e.invars)


def first_line(error: Exception) -> str:
    """What went wrong, in one line.

    Examples
    --------
    >>> first_line(TypeError("shapes do not fit"))
    'TypeError: shapes do not fit'
    """
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
