"""What is read off a model on the way, at chosen steps."""

import re
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import tree_util

from sigprop._checks import check_whole_number
from sigprop.gradients import log_square_norms
from sigprop.networks import MLP
from sigprop.training.conditioning import Conditioning, conditioning
from sigprop.training.data import Data, Splits
from sigprop.training.models import Parts, modules_with_weights, weights_among
from sigprop.training.problem import Problem

__all__ = ["Reading", "Readings", "read"]

_ROW_OF = re.compile(r"\[\d+\]$")  # the layer of a stacked module


@dataclass(frozen=True)
class Readings:
    """When and what to read.

    Attributes
    ----------
    every
        Steps between readings, >= 1; None: only before the first step and after the last.
    examples
        Training examples that are read on (the first ones), >= 1.
    gradient_norms, activations, jacobian
        Whether to read the gradient norm of every layer's weights; mean and variance of every
        layer's pre-activations; the conditioning of the Jacobian (`Conditioning`). The last two
        are of networks that have ``preactivations``, as `sigprop.networks.MLP`; None for others.
    """

    every: int | None = None
    examples: int = 512
    gradient_norms: bool = True
    activations: bool = True
    jacobian: bool = False

    def __post_init__(self):
        if self.every is not None:
            check_whole_number("every", self.every)
        check_whole_number("examples", self.examples)


@tree_util.register_dataclass
@dataclass(frozen=True)
class Reading:
    """What was read; with a leading axis of readings in a `Training`."""

    train_loss: Any
    accuracy: Any
    validation_loss: Any
    validation_accuracy: Any
    layer_gradient_norms: dict[str, Any] | None
    activation_mean: Any
    activation_variance: Any
    conditioning: Conditioning | None


def read(problem: Problem, parts: Parts, splits: Splits, what: Readings) -> Reading:
    """All of ``what``, in evaluation mode."""
    train, validation = splits.train.take(slice(0, what.examples)), splits.validation
    train_loss, norms = _loss_and_norms(problem, parts, train, what.gradient_norms)
    held = (None, None) if validation is None else problem.score(parts.model(), validation)
    mean, variance = _activations(parts.model(), train) if what.activations else (None, None)
    return Reading(
        train_loss,
        problem.accuracy_of(parts.model(), train),
        *held,
        norms,
        mean,
        variance,
        conditioning(parts.model(), train.inputs) if what.jacobian else None,
    )


def _loss_and_norms(problem: Problem, parts: Parts, data: Data, with_norms: bool):
    """Norms by layer. Biases are left out by setting theirs to 0, which keeps the layers' names."""

    def loss(params):
        return problem.loss_of(replace(parts, params=params).model(), data, None)

    if not with_norms:
        return loss(parts.params), None
    value, gradient = jax.value_and_grad(loss)(parts.params)
    of_weights = jax.tree.map(
        lambda g, weight: g if weight else jnp.zeros_like(g), gradient, weights_among(parts)
    )
    model = replace(parts, params=of_weights).model()
    logs = log_square_norms(model, stacked=("hidden",) if isinstance(model, MLP) else ())
    kept = modules_with_weights(parts)
    return value, {
        row: jnp.exp(log / 2) for row, log in logs.items() if _ROW_OF.sub("", row) in kept
    }


def _activations(model: Any, data: Data) -> tuple[Any, Any]:
    """Mean and variance of z^1 .. z^depth over examples and units."""
    if not hasattr(model, "preactivations"):
        return None, None
    z = model.preactivations(data.inputs)
    axes = tuple(range(1, z.ndim))
    return jnp.mean(z, axes), jnp.var(z, axes)
