"""Any model taken apart into the arrays that are trained, by path, and put together again."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx
from jax import tree_util

__all__ = ["Parameters", "natural_order", "path_name", "take_apart"]


@dataclass(frozen=True)
class Parameters:
    """What of a model is trained.

    Attributes
    ----------
    names
        Path of each array inside the model, components joined by "/".
    values
        The arrays: real or complex `jax.Array` or tracers, of any precision.
    rebuild
        ``rebuild(values)`` is the model with other arrays in their place. Everything else of it
        (running statistics, random streams, functions) is as it was when it was taken apart, so
        nothing that happens to the rebuilt model reaches the one that was given.
    """

    names: tuple[str, ...]
    values: tuple[Any, ...]
    rebuild: Callable[[Sequence[Any]], Any]


@dataclass(frozen=True)
class _Piece:
    """One leaf, or one module, of a model."""

    names: tuple[str, ...]
    values: tuple[Any, ...]
    rebuild: Callable[[Sequence[Any]], Any]


def take_apart(model: Any) -> Parameters:
    """The trained arrays of any model, in the order of its tree.

    Parameters
    ----------
    model
        - a Flax NNX module: its `nnx.Param` variables, and no others;
        - a bound Linen module (``module.bind(variables)``) or a pair ``(module, variables)``: the
          collection "params";
        - any pytree (a dict of arrays, a callable dataclass, an Equinox module, a list of
          functions): its real and complex arrays. Modules of both kinds may be among its leaves.

    Raises
    ------
    ValueError
        If it holds no such array, or an unbound Linen module.

    Examples
    --------
    >>> found = take_apart([{"w": jnp.ones((2, 3)), "steps": 7}, jnp.tanh])
    >>> found.names, found.rebuild([jnp.zeros((2, 3))])[0]["steps"]
    (('0/w',), 7)
    """
    placed, structure = tree_util.tree_flatten_with_path(model, is_leaf=_is_one_piece)
    shared = [leaf for _, leaf in placed if isinstance(leaf, nnx.Module)]
    with_modules = _nnx_modules(shared)
    pieces = [_piece(path, leaf) for path, leaf in placed]
    own = [not isinstance(leaf, nnx.Module) for _, leaf in placed]
    prefixes = [path_name(path) for path, leaf in placed if isinstance(leaf, nnx.Module)]
    module_names = tuple(_under(prefixes[index], name) for index, name in with_modules.names)
    names = module_names + tuple(name for piece in pieces for name in piece.names)
    values = (*with_modules.values, *(value for piece in pieces for value in piece.values))
    if not names:
        raise ValueError(_nothing_to_train(model))

    def rebuild(new: Sequence[Any]) -> Any:
        modules = iter(with_modules.rebuild(new[: len(module_names)]))
        at, leaves = len(module_names), []
        for piece, is_own in zip(pieces, own):
            taken = new[at : at + len(piece.values)]
            at += len(piece.values)
            leaves.append(piece.rebuild(taken) if is_own else next(modules))
        return tree_util.tree_unflatten(structure, leaves)

    return Parameters(names, values, rebuild)


def path_name(path: Sequence[Any]) -> str:
    """A pytree path as "layers/0/kernel"."""
    return tree_util.keystr(tuple(path), simple=True, separator="/")


def natural_order(name: str) -> list[Any]:
    """Sorting key that counts: layers/2 before layers/10.

    Examples
    --------
    >>> sorted(["layers/10", "layers/2", "first"], key=natural_order)
    ['first', 'layers/2', 'layers/10']
    """
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in _WORDS.split(name)]


_WORDS = re.compile(r"(\d+)")


def _is_one_piece(node: Any) -> bool:
    return isinstance(node, nnx.Module | nnx.Variable | linen.Module) or _is_linen_pair(node)


def _is_linen_pair(node: Any) -> bool:
    pair = isinstance(node, tuple) and len(node) == 2
    return pair and isinstance(node[0], linen.Module) and isinstance(node[1], Mapping)


def _piece(path: Sequence[Any], leaf: Any) -> _Piece:
    if isinstance(leaf, nnx.Param):
        return _of_tree(path, leaf)
    if isinstance(leaf, linen.Module):
        return _of_bound_module(path, leaf)
    if _is_linen_pair(leaf):
        module, variables = leaf
        return _of_variables(path, variables, lambda new: (module, new))
    if _is_trained(leaf):
        return _Piece((path_name(path),), (jnp.asarray(leaf),), lambda new: new[0])
    return _Piece((), (), lambda new: leaf)


def _of_bound_module(path: Sequence[Any], module: linen.Module) -> _Piece:
    if module.scope is None:
        raise ValueError(
            f"model must be a bound Linen module, got {type(module).__name__} without variables; "
            "module.bind(variables) makes one"
        )
    unbound, variables = module.unbind()
    rngs: Any = module.scope.rngs
    mutable = module.scope.mutable

    def bind(new):
        return unbound.bind(new, rngs=rngs, mutable=mutable)

    return _of_variables(path, variables, bind)


def _of_variables(path: Sequence[Any], variables: Mapping, put: Callable[[Any], Any]) -> _Piece:
    tree = _of_tree(path, variables.get("params", {}))
    return _Piece(
        tree.names, tree.values, lambda new: put({**variables, "params": tree.rebuild(new)})
    )


def _of_tree(path: Sequence[Any], tree: Any) -> _Piece:
    """The arrays of real or complex numbers of a tree that holds nothing but parameters."""
    placed, structure = tree_util.tree_flatten_with_path(tree)
    chosen = [index for index, (_, leaf) in enumerate(placed) if _is_trained(leaf)]
    names = tuple(_under(path_name(path), _inner_name(placed[index][0])) for index in chosen)
    values = tuple(jnp.asarray(placed[index][1]) for index in chosen)

    def rebuild(new):
        leaves = [leaf for _, leaf in placed]
        for index, value in zip(chosen, new):
            leaves[index] = value
        return tree_util.tree_unflatten(structure, leaves)

    return _Piece(names, values, rebuild)


@dataclass(frozen=True)
class _Modules:
    """NNX modules taken apart together, so that what they share stays shared."""

    names: tuple[tuple[int, str], ...]
    values: tuple[Any, ...]
    rebuild: Callable[[Sequence[Any]], list[Any]]


def _nnx_modules(modules: list[nnx.Module]) -> _Modules:
    if not modules:
        return _Modules((), (), lambda new: [])
    graph, params, rest = nnx.split(modules, nnx.Param, ...)
    tree = _of_tree((), params)
    split = [name.partition("/") for name in tree.names]
    names = tuple((int(index), inner) for index, _, inner in split)

    def rebuild(new):
        # Fresh variables: those of `rest` may be written to only where they were made.
        return nnx.merge(graph, tree.rebuild(new), jax.tree.map(lambda leaf: leaf, rest))

    return _Modules(names, tree.values, rebuild)


def _is_trained(leaf: Any) -> bool:
    if not isinstance(leaf, jax.Array | np.ndarray | np.inexact):
        return False
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def _inner_name(path: Sequence[Any]) -> str:
    """Without the attribute that NNX variables keep their array in."""
    kept = path[:-1] if path and path[-1] == tree_util.GetAttrKey("value") else path
    return path_name(kept)


def _under(prefix: str, name: str) -> str:
    return f"{prefix}/{name}" if prefix and name else prefix or name


def _nothing_to_train(model: Any) -> str:
    leaves = jax.tree.leaves(model)
    kinds = sorted({str(getattr(leaf, "dtype", type(leaf).__name__)) for leaf in leaves})
    given = f"only {', '.join(kinds)}" if kinds else f"a {type(model).__name__} with no arrays"
    return f"model must hold floating-point arrays to differentiate by, got {given}"
