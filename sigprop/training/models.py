"""Any model as what is trained, what else changes, and a static description of the rest."""

import enum
import inspect
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import tree_util

from sigprop import kinds
from sigprop.architecture import Architecture
from sigprop.networks import MLP
from sigprop.training.data import Data

__all__ = [
    "Parts",
    "initialiser_of",
    "modules_with_weights",
    "outputs_of",
    "take_apart",
    "weights_among",
]


@dataclass(frozen=True)
class NetworkFor:
    """Numbers of an architecture and a key to an `MLP` with a readout; equal ones compile once."""

    in_features: int
    out_features: int
    static: Hashable

    def __call__(self, numbers: dict[str, Any], key: jax.Array) -> MLP:
        """The network."""
        structure: Any = self.static
        blank: Architecture = tree_util.tree_unflatten(structure, [0.0] * structure.num_leaves)
        architecture = blank.with_numbers(**{"dropout": 0.0, "branch_scale": 1.0, **numbers})
        return MLP(architecture, self.in_features, self.out_features, rngs=key)


def _network_for(architecture: Architecture, data: Data) -> tree_util.Partial:
    """What no kind reads (dropout that is off, a branch that is not there) stays out of it."""
    read = kinds.compose(architecture).numbers
    numbers = {n: v for n, v in architecture.all_numbers.items() if n in read}
    build = NetworkFor(data.in_features, data.out_features, tree_util.tree_structure(architecture))
    return tree_util.Partial(build, numbers)


def initialiser_of(given: Any, data: Data) -> tree_util.Partial:
    """What ``train`` was given, as a pytree that makes a model of a key.

    Raises
    ------
    ValueError
        If it is neither an `Architecture` nor a function.
    """
    if isinstance(given, Architecture):
        return _network_for(given, data)
    if isinstance(given, tree_util.Partial):
        return given
    if isinstance(given, nnx.Module):
        return tree_util.Partial(_as_it_is, given)
    if not callable(given):
        raise ValueError(
            "architecture_or_init must be an Architecture or a function key -> model, or an NNX "
            f"module, got {type(given).__name__}"
        )
    return tree_util.Partial(given)


def _as_it_is(model: Any, key: Any) -> Any:
    return model


@dataclass(frozen=True)
class Structure:
    """All of a model that is not an array: hashable, so that it may cross `jax.jit`."""

    graph: Any
    fixed: tuple[Hashable, ...] | None = None

    def join(self, params: Any, rest: Any) -> Any:
        """The model with these arrays in it: a new one, which may be changed."""
        if self.fixed is None:
            return nnx.merge(self.graph, params, rest, copy=True)
        leaves = [
            param if kind == _TRAINED else other if kind == _CHANGING else kind
            for kind, param, other in zip(self.fixed, params, rest)
        ]
        return tree_util.tree_unflatten(self.graph, leaves)

    def rest_of(self, model: Any) -> Any:
        """What else changed while the model was used (running statistics, random streams)."""
        if self.fixed is None:
            return nnx.split(model, nnx.Param, ...)[2]
        return take_apart(model).rest


@tree_util.register_dataclass
@dataclass(frozen=True)
class Parts:
    """A model taken apart; a pytree, so that it may be carried through scans and out of jit.

    Attributes
    ----------
    structure
        Static.
    params
        What is trained: the `nnx.Param` of an NNX module, or the floating-point arrays of any other
        pytree.
    rest
        Every other array.
    """

    structure: Structure = field(metadata={"static": True})
    params: Any
    rest: Any

    def model(self) -> Any:
        """Put together again."""
        return self.structure.join(self.params, self.rest)


class _Kind(enum.Enum):
    TRAINED = "trained"
    CHANGING = "changing"


_TRAINED, _CHANGING = _Kind.TRAINED, _Kind.CHANGING


def take_apart(model: Any) -> Parts:
    """A model as `Parts`.

    Raises
    ------
    ValueError
        If nothing in it can be trained.

    Examples
    --------
    >>> parts = take_apart({"w": jnp.ones(2), "steps": 7})
    >>> parts.model()["steps"], len(jax.tree.leaves(parts))
    (7, 1)
    """
    if isinstance(model, nnx.Module):
        graph, params, rest = nnx.split(model, nnx.Param, ...)
        structure = Structure(graph)
    else:
        leaves, graph = tree_util.tree_flatten(model)
        kinds = tuple(_kind(leaf) for leaf in leaves)
        params = tuple(a if kind == _TRAINED else None for a, kind in zip(leaves, kinds))
        rest = tuple(a if kind == _CHANGING else None for a, kind in zip(leaves, kinds))
        structure = Structure(graph, kinds)
    if not jax.tree.leaves(params):
        raise ValueError(
            "architecture_or_init must make a model with floating-point parameters, got "
            f"{type(model).__name__} without any"
        )
    return Parts(structure, jax.tree.map(jnp.asarray, params), rest)


def _kind(leaf: Any) -> Any:
    if not isinstance(leaf, jax.Array | np.ndarray):
        return leaf
    return _TRAINED if jnp.issubdtype(leaf.dtype, jnp.floating) else _CHANGING


_NOT_WEIGHTS = ("bias", "b", "scale", "gain", "shift", "gamma", "beta", "offset")


def weights_among(parts: Parts) -> Any:
    """Tree of booleans like the parameters: weights rather than biases and scales, by name."""
    kinds = [words[-1] not in _NOT_WEIGHTS for words in _paths(parts)]
    return tree_util.tree_unflatten(tree_util.tree_structure(parts.params), kinds)


def modules_with_weights(parts: Parts) -> set[str]:
    """Paths of the modules that hold them; of the weights themselves where a model has no modules.

    Examples
    --------
    >>> tree = {"a": {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}, "norm": {"scale": jnp.ones(2)}}
    >>> modules_with_weights(take_apart(tree))
    {'a'}
    """
    weights = [words for words in _paths(parts) if words[-1] not in _NOT_WEIGHTS]
    return {"/".join(words[:-1]) or words[0] for words in weights}


def _paths(parts: Parts) -> list[list[str]]:
    """Words of every parameter's path."""
    named = parts.params
    if parts.structure.fixed is not None:
        named = tree_util.tree_unflatten(parts.structure.graph, parts.params)
    placed = tree_util.tree_leaves_with_path(named)
    return [_words(path) for path, _ in placed]


def _words(path: Any) -> list[str]:
    words = tree_util.keystr(tuple(path), simple=True, separator="/").split("/")
    return words[:-1] if len(words) > 1 and words[-1] == "value" else words


def outputs_of(model: Any, inputs: Any, key: Any) -> Any:
    """``model(inputs)``, training if there is a key and evaluating if it is None.

    Models whose call takes a ``key`` are given it; NNX modules are put in training or evaluation
    mode (`nnx.Module.train`, `nnx.Module.eval`).
    """
    if isinstance(model, nnx.Module):
        (model.eval if key is None else model.train)()
    if takes_key(model):
        return model(inputs, key=key)
    return model(inputs)


def takes_key(model: Any) -> bool:
    """Whether a call of the model takes an argument ``key``."""
    call: Callable = type(model).__call__ if not inspect.isfunction(model) else model
    try:
        return "key" in inspect.signature(call).parameters
    except (TypeError, ValueError):  # built-in callables have no signature
        return False
