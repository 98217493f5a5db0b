"""A classifier trained epoch by epoch, the norms of every layer read in between."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax

from sigprop import gradients, training
from sigprop.architecture import Architecture
from sigprop.networks import MLP
from sigprop.training import Optimiser, Splits

__all__ = ["trained_by_epoch"]

_READ_ON = 512  # training examples


def trained_by_epoch(
    architecture: Architecture,
    splits: Splits,
    optimiser: Optimiser,
    *,
    epochs: int,
    batch_size: int,
    key: Any,
) -> dict[str, np.ndarray]:
    """Train on shuffled batches; read before the first epoch and after every one.

    Returns
    -------
    dict
        ``gradient_norm`` and ``weight_norm`` (epochs + 1, layers), of the training loss and by the
        layers' weights and biases; ``loss``, ``accuracy`` (on validation examples) (epochs + 1,);
        ``test_accuracy``.
    """
    splits = jax.tree.map(jnp.asarray, splits)
    train = splits.train
    network = MLP(architecture, train.in_features, train.out_features, rngs=key)
    graph, params, rest = nnx.split(network, nnx.Param, ...)
    rule = optimiser.transformation()
    model_of = lambda params: nnx.merge(graph, params, rest)  # noqa: E731
    epoch = functools.partial(_epoch, model_of, rule, train, batch_size)
    read = jax.jit(lambda params: _read(model_of(params), splits))

    @jax.jit
    def advance(params, state, number):
        return epoch(params, state, jax.random.fold_in(key, number))

    seen, state = [read(params)], rule.init(params)
    for number in range(epochs):
        params, state = advance(params, state, number)
        seen.append(read(params))
    found = jax.tree.map(lambda *values: np.stack([np.asarray(v) for v in values]), *seen)
    return found | {"test_accuracy": np.asarray(_accuracy(model_of(params), splits.test))}


def _epoch(
    model_of, rule: optax.GradientTransformation, train, batch_size: int, params, state, key
):
    order = jax.random.permutation(key, len(train))
    batches = order[: len(train) // batch_size * batch_size].reshape(-1, batch_size)

    def step(carried, chosen):
        params, state = carried
        gradient = jax.grad(lambda p: _loss(model_of(p), train.take(chosen)))(params)
        updates, state = rule.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), None

    return lax.scan(step, (params, state), batches)[0]


def _loss(model: Any, data: Any) -> Any:
    return training.cross_entropy(model(data.inputs), data.targets)


def _accuracy(model: Any, data: Any) -> Any:
    return training.accuracy(model(data.inputs), data.targets)


def _read(model: Any, splits: Splits) -> dict[str, Any]:
    train = splits.train.take(slice(0, _READ_ON))
    norms = gradients.layer_norms(model, _loss, train)
    return {
        "gradient_norm": norms.gradient,
        "weight_norm": norms.parameter,
        "loss": norms.loss,
        "accuracy": _accuracy(model, splits.validation),
    }
