"""What is minimised and what is reported, of outputs and targets."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sigprop._checks import check_known

__all__ = ["LOSSES", "accuracy", "cross_entropy", "default_loss", "l2_penalty",
           "mean_squared_error", "named_loss"]  # fmt: skip


def mean_squared_error(
    outputs: Float[Array, "examples outputs"], targets: Array
) -> Float[Array, ""]:
    """Mean over examples and outputs of (output − target)²; labels count as one-hot targets.

    Examples
    --------
    >>> float(mean_squared_error(jnp.array([[1.0], [3.0]]), jnp.array([[1.0], [1.0]])))
    2.0
    """
    if jnp.issubdtype(targets.dtype, jnp.integer):
        targets = jax.nn.one_hot(targets, outputs.shape[-1], dtype=outputs.dtype)
    return jnp.mean((outputs - targets.astype(outputs.dtype)) ** 2)


def cross_entropy(
    outputs: Float[Array, "examples classes"], targets: Int[Array, " examples"]
) -> Float[Array, ""]:
    """Mean over examples of −ln softmax(outputs)[label].

    Examples
    --------
    >>> f"{float(cross_entropy(jnp.zeros((3, 10)), jnp.array([0, 4, 9]))):.4f}"
    '2.3026'
    """
    log_probabilities = jax.nn.log_softmax(outputs)
    chosen = jnp.take_along_axis(log_probabilities, targets[:, None], axis=-1)
    return -jnp.mean(chosen)


def accuracy(
    outputs: Float[Array, "examples classes"], targets: Int[Array, " examples"]
) -> Float[Array, ""]:
    """Share of examples whose largest output is that of the label; a row with nan counts as wrong.

    Examples
    --------
    >>> float(accuracy(jnp.array([[0.0, 1.0], [0.0, 1.0]]), jnp.array([1, 0])))
    0.5
    """
    right = jnp.argmax(outputs, axis=-1) == targets
    return jnp.mean((right & jnp.isfinite(outputs).all(axis=-1)).astype(outputs.dtype))


def l2_penalty(weights: Any) -> Float[Array, ""]:
    """Half the sum of squares over a tree of weights: its gradient is the weights themselves.

    Examples
    --------
    >>> float(l2_penalty({"a": jnp.ones((2, 2)), "b": jnp.ones(2)}))
    3.0
    """
    return sum((jnp.sum(w**2) for w in jax.tree.leaves(weights)), start=jnp.zeros(())) / 2


LOSSES: dict[str, Callable] = {
    "cross_entropy": cross_entropy,
    "mean_squared_error": mean_squared_error,
}


def default_loss(task: str) -> str:
    """The loss a task has when none is named.

    Examples
    --------
    >>> default_loss("classification")
    'cross_entropy'
    """
    return "cross_entropy" if task == "classification" else "mean_squared_error"


def named_loss(name: str, task: str) -> Callable:
    """The function called ``name``.

    Raises
    ------
    ValueError
        For an unknown name, or cross-entropy of a regression.
    """
    check_known("loss", name, tuple(LOSSES))
    if name == "cross_entropy" and task != "classification":
        raise ValueError("loss must be 'mean_squared_error' for a regression, got 'cross_entropy'")
    return LOSSES[name]
