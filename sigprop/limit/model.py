"""Any model as a function of its arrays, whatever framework it is written in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen
from jax import tree_util

__all__ = ["Opened", "opened"]


@dataclass(frozen=True)
class Opened:
    """A model taken apart.

    Attributes
    ----------
    names, values
        Of its floating arrays, by path.
    run
        ``run(values, inputs)`` is what the model, with other arrays in their place, makes of them.
    """

    names: tuple[str, ...]
    values: tuple[np.ndarray, ...]
    run: Callable[[Sequence[Any], Any], Any]


def opened(model: Any, apply: Callable | None, loss: Callable | None) -> Opened:
    """Of an NNX module, a bound Linen module, an Equinox module, or any pytree with ``apply``.

    Raises
    ------
    ValueError
        If it holds no floating array, cannot be called, or is a Linen module without variables.
    """
    tree, rebuilt = model, lambda tree: tree
    if isinstance(model, linen.Module):
        if model.scope is None:
            raise ValueError(
                f"model must be bound to its variables, got an unbound {type(model).__name__}: "
                "model.bind(variables), or the variables with apply=model.apply"
            )
        unbound, tree = model.unbind()
        rngs: Any = model.scope.rngs
        rebuilt = lambda variables: unbound.bind(variables, rngs=rngs)  # noqa: E731
    if apply is None and not callable(model):
        raise ValueError(f"model must be callable where apply is not given, got {type(model)}")
    placed, structure = tree_util.tree_flatten_with_path(tree)
    ours = [n for n, (_, leaf) in enumerate(placed) if _is_floating(leaf)]
    if not ours:
        raise ValueError(f"model holds no floating array: {type(model).__name__}")
    leaves = [leaf for _, leaf in placed]

    def run(values: Sequence[Any], inputs: Any) -> Any:
        new = list(leaves)
        for place, value in zip(ours, values):
            new[place] = value
        whole = rebuilt(tree_util.tree_unflatten(structure, new))
        found = _called(whole, apply, inputs)
        return found if loss is None else loss(found)

    names = tuple(_name(placed[n][0]) for n in ours)
    values = tuple(np.asarray(leaves[n], np.float64) for n in ours)
    return Opened(names, values, run)


def _called(model: Any, apply: Callable | None, inputs: Any) -> Any:
    if apply is not None:
        return apply(model, inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def _is_floating(leaf: Any) -> bool:
    is_array = isinstance(leaf, jax.Array | np.ndarray)
    return is_array and jnp.issubdtype(leaf.dtype, jnp.floating)


def _name(path: Sequence[Any]) -> str:
    name = tree_util.keystr(tuple(path), simple=True, separator="/")
    return name.removesuffix("/value").removesuffix("/raw_value")
