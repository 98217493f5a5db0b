"""What passes through a model's layers, and the place to differentiate at, as they are called.

A recorder sits on every call of a layer while the loss is computed. It notes what went in and what
came out, and adds a perturbation of zero to what came out: the derivative of the loss by that is
the gradient with respect to the layer's output. Frameworks are listened to by their own means:
`flax.linen.intercept_methods`; for NNX, by wrapping methods of the modules' classes for the time
of one call, as `flax.nnx.capture` does (which has no order of calls and no gradients).
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp
from flax import linen, nnx
from jax import tree_util

from sigprop.gradients.parameters import path_name

__all__ = ["Call", "Recorder", "recording", "with_recorded_functions"]

_IMMUTABLE = 1 << 8  # Py_TPFLAGS_IMMUTABLETYPE


@dataclass(frozen=True)
class Call:
    """One call of one layer.

    Attributes
    ----------
    path
        Of the layer inside the model.
    kind
        Name of its class or function.
    inputs
        The arrays it was given.
    output
        The array it returned; of several, the last.
    """

    path: str
    kind: str
    inputs: tuple[Any, ...]
    output: Any


@dataclass
class Recorder:
    """Collects calls, in the order in which they return.

    Attributes
    ----------
    owners
        Paths of layers with parameters of their own: recorded though other layers lie inside.
    perturbations
        Added to the outputs, call by call; none on a first pass, which finds how many there are.
    """

    owners: frozenset[str]
    perturbations: Sequence[Any] | None = None
    calls: list[Call] = field(default_factory=list)
    _open: list[dict] = field(default_factory=list)
    _trace: Any = field(default_factory=lambda: _trace_state())

    def through(self, path: str, kind: str, method: Callable, args: tuple, kwargs: dict) -> Any:
        """Call ``method``; note what it did, unless layers inside it have been noted instead."""
        if any(frame["path"] == path for frame in self._open):
            return method(*args, **kwargs)
        frame = {"path": path, "inner": False}
        self._open.append(frame)
        try:
            output = method(*args, **kwargs)
        finally:
            self._open.pop()
        if frame["inner"] and path not in self.owners:
            return output
        return self._noted(path, kind, (args, kwargs), output)

    def inside(self, kind: str) -> str:
        """Path for a layer made on the way, whose own is not known."""
        outer = self._open[-1]["path"] if self._open else ""
        return f"{outer}/{kind}" if outer else kind

    def _noted(self, path: str, kind: str, given: Any, output: Any) -> Any:
        leaves, structure = jax.tree.flatten(output)
        places = [i for i, leaf in enumerate(leaves) if _is_signal(leaf)]
        # What happens inside a transformation (vmap, checkpoint) must not leak out of it.
        signals = [leaf for leaf in jax.tree.leaves(given) if isinstance(leaf, jax.Array)]
        if not places or not signals or _trace_state() != self._trace:
            return output
        for frame in self._open:
            frame["inner"] = True
        place = places[-1]
        if self.perturbations is not None:
            leaves[place] = leaves[place] + self.perturbations[len(self.calls)]
        self.calls.append(Call(path, kind, tuple(signals), leaves[place]))
        return jax.tree.unflatten(structure, leaves)


@contextlib.contextmanager
def recording(recorder: Recorder, model: Any) -> Iterator[None]:
    """Everything that is called in the meantime and belongs to ``model`` passes the recorder."""
    paths, kept = _layer_paths(model)

    def path_of(layer: Any) -> str:
        return paths[id(layer)] if id(layer) in paths else recorder.inside(type(layer).__name__)

    def wrap(method: Callable) -> Callable:
        def wrapped(self, *args, **kwargs):
            bound = method.__get__(self, type(self))  # type: ignore[attr-defined]
            known = id(self) in paths or isinstance(self, nnx.Module)
            if not known:
                return bound(*args, **kwargs)
            return recorder.through(path_of(self), type(self).__name__, bound, args, kwargs)

        return wrapped

    def intercept(next_method, args, kwargs, context):
        path = "/".join(context.module.path)
        if context.method_name == "setup":
            return next_method(*args, **kwargs)
        kind = type(context.module).__name__
        return recorder.through(path, kind, next_method, args, kwargs)

    with linen.intercept_methods(intercept), _wrapped({type(layer) for layer in kept}, wrap):
        yield


def with_recorded_functions(recorder: Recorder, model: Any) -> Any:
    """Plain functions among the leaves of ``model``, replaced by ones that pass the recorder."""

    def replaced(path, leaf):
        is_function = callable(leaf) and not isinstance(leaf, nnx.Module | linen.Module | type)
        if not is_function or isinstance(leaf, jax.Array):
            return leaf
        name, kind = path_name(path), getattr(leaf, "__name__", type(leaf).__name__)
        return lambda *args, **kwargs: recorder.through(name, kind, leaf, args, kwargs)

    return tree_util.tree_map_with_path(
        replaced, model, is_leaf=lambda node: isinstance(node, nnx.Module | linen.Module)
    )


def _layer_paths(model: Any) -> tuple[dict[int, str], list[Any]]:
    """Paths of callable parts of a model by identity, and the parts themselves."""
    found: dict[int, str] = {}
    kept: list[Any] = []

    def visit(path: tuple, node: Any) -> None:
        if isinstance(node, nnx.Module):
            for inner, module in nnx.iter_modules(node):
                keys = (*path, *map(tree_util.DictKey, inner))
                found.setdefault(id(module), path_name(keys))
                kept.append(module)
            return
        if isinstance(node, linen.Module):
            return
        if callable(node) and _has_parts(node):
            found.setdefault(id(node), path_name(path))
            kept.append(node)
        for key, child in _children(node):
            visit((*path, *key), child)

    visit((), model)
    return found, kept


def _has_parts(node: Any) -> bool:
    return bool(_children(node))


def _children(node: Any) -> list[tuple[tuple, Any]]:
    """What lies directly inside a pytree node."""
    inside = tree_util.tree_flatten_with_path(node, is_leaf=lambda part: part is not node)[0]
    return [(path, child) for path, child in inside if path]


@contextlib.contextmanager
def _wrapped(classes: set[type], wrap: Callable[[Callable], Callable]) -> Iterator[None]:
    """Methods of the classes, wrapped for the time being."""
    owners = {owner for cls in classes for owner in cls.__mro__ if _is_users(owner)}
    replaced = [(owner, name, owner.__dict__[name]) for owner in owners for name in _methods(owner)]
    try:
        for owner, name, method in replaced:
            setattr(owner, name, wrap(method))
        yield
    finally:
        for owner, name, method in replaced:
            setattr(owner, name, method)


def _is_users(owner: type) -> bool:
    """Not the frameworks' own base classes, nor classes that cannot be changed (partial's)."""
    fixed = owner is object or issubclass(nnx.Module, owner) or bool(owner.__flags__ & _IMMUTABLE)
    return not fixed and bool(_methods(owner))


def _methods(owner: type) -> list[str]:
    """NNX modules may work through any public method, other layers through their call."""
    public = issubclass(owner, nnx.Module)
    return [
        name
        for name, method in owner.__dict__.items()
        if (name == "__call__" or (public and not name.startswith("_")))
        and callable(method)
        and hasattr(method, "__get__")
        and not isinstance(method, type | staticmethod | classmethod)
    ]


def _is_signal(leaf: Any) -> bool:
    is_array = isinstance(leaf, jax.Array) and leaf.ndim >= 1 and leaf.size > 0
    return is_array and bool(jnp.issubdtype(leaf.dtype, jnp.floating))


def _trace_state() -> Any:
    return jax.extend.core.get_opaque_trace_state(convention="flax")
