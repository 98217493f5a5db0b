"""Runs of several seeds at once, few compiles for many runs: networks are made outside of them."""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from sigprop import training
from sigprop.networks import MLP
from sigprop.studies.remedies.patients import Setup
from sigprop.training import Readings, Splits

__all__ = [
    "Outcome",
    "curvature",
    "data_of",
    "gradient_ratio",
    "input_second_moment",
    "outcome",
    "test_examples",
]

_RATIO_EXAMPLES = 128
_READINGS = 20  # early stopping looks this often
# Dozens of programs run for a second each: what the compiler's further passes gain, they cost.
_QUICK_COMPILE = {"xla_backend_optimization_level": 1}


@dataclass(frozen=True)
class Outcome:
    """How runs ended, an entry for each seed.

    Attributes
    ----------
    loss
        Test loss; inf where a run diverged.
    accuracy
        Share of test examples, of the last finite parameters; nan for a regression.
    diverged_at, stopped_at
        Step, -1 for none.
    ratio
        `gradient_ratio` before training.
    """

    loss: np.ndarray
    accuracy: np.ndarray
    diverged_at: np.ndarray
    stopped_at: np.ndarray
    ratio: np.ndarray


def outcome(setup: Setup, keys: Any) -> Outcome:
    """Train with ``setup`` once for each of the keys (seeds,)."""
    splits, networks = data_of(setup), networks_of(setup, keys)
    every = None if setup.patience is None else max(setup.steps // _READINGS, 1)
    run = _trained(
        (setup.steps, setup.batch_size, every, setup.patience),
        networks,
        splits if setup.patience else Splits(splits.train, None, splits.test),
        setup.optimiser,
        keys,
    )
    diverged = np.asarray(run.diverged_at)
    loss = np.asarray(run.test_loss, np.float64)
    seeds = len(diverged)
    accuracy = np.full(seeds, np.nan) if run.test_accuracy is None else run.test_accuracy
    return Outcome(
        np.where((diverged >= 0) | ~np.isfinite(loss), np.inf, loss),
        np.asarray(accuracy, np.float64),
        diverged,
        np.asarray(run.stopped_at),
        np.asarray(gradient_ratio(networks, splits.train.take(slice(0, _RATIO_EXAMPLES)))),
    )


@functools.partial(jax.jit, static_argnums=0, compiler_options=_QUICK_COMPILE)
def _trained(fixed: tuple, networks: Any, splits: Splits, optimiser: Any, keys: Any) -> Any:
    """All seeds at once. The network comes ready made: drawing it would double the compile."""
    steps, batch_size, every, patience = fixed

    def one(network, key):
        readings = Readings(every=every, examples=1, gradient_norms=False, activations=False)
        return training.train(
            network, splits, optimiser, steps=steps, key=key, batch_size=batch_size,
            readings=readings, patience=patience, keep_model=False,
        )  # fmt: skip

    return jax.vmap(one)(networks, keys)


def networks_of(setup: Setup, keys: Any) -> Any:
    """The networks of all seeds, stacked; for one layer, the affine map itself."""
    readout = 10 if setup.task == "digits" else None
    inputs = data_of(setup).train.in_features
    # Another key than batches and masks come from, as `training.train` itself has it.
    own = [jax.random.fold_in(key, 0) for key in keys]
    made = [MLP(setup.architecture, inputs, readout, rngs=key) for key in own]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *made)


@jax.jit
def gradient_ratio(networks: Any, batch: Any) -> Float[Array, " seeds"]:
    r"""\|∂loss/∂z^1\| / \|∂loss/∂z^depth\| over a batch, for each of stacked networks.

    Norms are over units and examples. Theory has it at χ^{(depth - 1)/2}: far below 1 where
    gradients vanish on their way down, far above 1 where they explode, 1 for a single layer.
    """

    def one(network):
        if network.depth == 1:
            return jnp.ones(())
        offsets = jnp.zeros((network.depth, len(batch), network.width))
        gradient = jax.grad(lambda offsets: _loss(network, batch, offsets))(offsets)
        logs = jnp.log(jnp.linalg.norm(gradient, axis=(1, 2)))
        return jnp.exp(logs[0] - logs[-1])

    return jax.vmap(one)(networks)


def _loss(network: MLP, batch: Any, offsets: Any) -> Any:
    """With something added to every z^l, by which the gradient is taken."""
    step = lambda z, layer: (network.layer(z, layer[0]) + layer[1], None)  # noqa: E731
    start = network.first(batch.inputs) + offsets[0]
    z, _ = lax.scan(step, start, (network.layers(), offsets[1:]))
    readout: Any = network.readout
    return training.cross_entropy(readout(network.outputs(z)), batch.targets)


def data_of(setup: Setup) -> Splits:
    """Examples as the run sees them."""
    return _data(setup.task, setup.input_unit, setup.standardised)


@functools.lru_cache
def _data(task: str, unit: float, standardised: bool) -> Splits:
    if task == "digits":
        splits = training.digits(validation=0.15, test=0.3)
    else:
        splits = training.split(training.parabola(1000), validation=0.15, test=0.15)
    if unit != 1.0:
        scaled = lambda part: training.regression(part.inputs / unit, part.targets)  # noqa: E731
        splits = splits.map(scaled)
    return training.standardised(splits) if standardised else splits


def test_examples(setup: Setup) -> int:
    """How many examples outcomes are read on."""
    test = data_of(setup).test
    return 0 if test is None else len(test)


def input_second_moment(setup: Setup) -> float:
    """Mean square of the entries of the training inputs."""
    return float(np.mean(np.square(data_of(setup).train.inputs, dtype=np.float64)))


def curvature(setup: Setup) -> float:
    """Largest second derivative of the mean squared error of w x + b: steps must be below 2/λ.

    Examples
    --------
    >>> from sigprop.studies.remedies.patients import Budget, patient
    >>> round(curvature(patient("unscaled_regression", Budget()).control), 1)
    2.5
    """
    inputs = np.asarray(data_of(setup).train.inputs, np.float64)
    columns = np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)
    return float(2 * np.linalg.eigvalsh(columns.T @ columns / len(inputs))[-1])
