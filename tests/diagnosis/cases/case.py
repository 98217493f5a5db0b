"""What a case of the table is, and ways to break a model."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen, nnx

__all__ = [
    "ZERO",
    "Case",
    "after_steps",
    "edited",
    "filled",
    "normal",
    "parts",
    "scaled",
    "trainer",
]

Loss = Callable[[Any, Any], Any]
ZERO = "zero|(is|are|all|exactly|times) 0"
"""How it may be said that something is 0."""


@dataclass(frozen=True)
class Case:
    """A model, and what is to be said of it.

    Attributes
    ----------
    build, loss, batch
        The model, its loss and a function that makes its batch.
    verdict
        One of the doctor's words; several where truth does not tell them apart.
    place
        What the evidence must name, as a regular expression: a layer, an array or a function.
    reason
        What it must give as the cause, likewise.
    options
        What else `diagnose` is given: ``apply=``.
    """

    build: Callable[[], Any]
    loss: Loss
    batch: Callable[[], Any]
    verdict: str | tuple[str, ...] = "healthy"
    place: str = ""
    reason: str = ""
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def verdicts(self) -> tuple[str, ...]:
        return (self.verdict,) if isinstance(self.verdict, str) else self.verdict


def parts(model: Any) -> tuple[Any, Callable[[Any], Any]]:
    """What is trained of a model, as a tree of arrays, and the model made from such a tree."""
    if isinstance(model, nnx.Module):
        graph, params, rest = nnx.split(model, nnx.Param, ...)
        return params, lambda params: nnx.merge(graph, params, rest, copy=True)
    if isinstance(model, linen.Module):
        module, variables = model.unbind()
        rest = {name: value for name, value in variables.items() if name != "params"}
        return variables["params"], lambda params: module.bind({**rest, "params": params})
    leaves, structure = jax.tree.flatten(model)
    trained = [isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.inexact) for x in leaves]
    paths = [jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in _leaves(model)]

    def whole(params):
        filled = [params[path] if is_ else x for path, x, is_ in zip(paths, leaves, trained)]
        return jax.tree.unflatten(structure, filled)

    return {path: x for path, x, is_ in zip(paths, leaves, trained) if is_}, whole


def _leaves(model):
    return jax.tree_util.tree_flatten_with_path(model)[0]


def edited(model: Any, pattern: str, change: Callable[[jax.Array], jax.Array]) -> Any:
    """The model with every trained array changed whose path matches."""
    params, whole = parts(model)
    seen = []

    def one(path, value):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if not re.search(pattern, name):
            return value
        seen.append(name)
        return change(value).astype(value.dtype)

    changed = jax.tree_util.tree_map_with_path(one, params)
    assert seen, f"nothing matches {pattern}"
    return whole(changed)


def scaled(model: Any, factor: float, pattern: str = "kernel|weight|^w") -> Any:
    """Every matching array times a number."""
    return edited(model, pattern, lambda value: value * factor)


def filled(model: Any, pattern: str, number: float) -> Any:
    """Every matching array filled with one number."""
    return edited(model, pattern, lambda value: jnp.full_like(value, number))


def trainer(model: Any, loss: Loss, batch: Any) -> Callable[[float, int], Any]:
    """The model after ``steps`` of Adam at a ``rate``: one program for any of both."""
    params, whole = parts(model)
    adam = optax.scale_by_adam()

    @jax.jit
    def run(params, rate, steps):
        def step(_, state):
            params, memory = state
            slope = jax.grad(lambda p: loss(whole(p), batch))(params)
            with jax.numpy_dtype_promotion("standard"):
                update, memory = adam.update(jax.tree.map(jnp.conj, slope), memory)
            move = lambda p, u: p - rate.astype(p.dtype) * u.astype(p.dtype)  # noqa: E731
            return jax.tree.map(move, params, update), memory

        return jax.lax.fori_loop(0, steps, step, (params, adam.init(params)))[0]

    return lambda rate, steps: whole(run(params, jnp.asarray(rate, jnp.float32), steps))


def after_steps(model: Any, loss: Loss, batch: Any, *, rate: float, steps: int) -> Any:
    """After so many steps of Adam."""
    return trainer(model, loss, batch)(rate, steps)


def normal(seed: int, *shape: int, gain: float = 1.0) -> jax.Array:
    """A kernel (in, out): entries of variance gain / in."""
    draws = jax.random.normal(jax.random.key(seed), shape)
    return draws * math.sqrt(gain / math.prod(shape[:-1]))
