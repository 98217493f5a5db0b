"""Every kind's hand-written covariance, against what its own action makes of a Gaussian signal."""

import jax.numpy as jnp
import numpy as np
import pytest

from sigprop import limit
from sigprop._precision import exact_float64
from sigprop.kinds import Gauss, State
from tests.contracts.test_kinds import LAYERS, NUMBERS, layer

# These draw masks, couple a batch or divide by the lengths of drawn rows: they do not close.
DO_NOT_CLOSE = {"batch_norm", "dropout", "shared_dropout", "weight_norm"}
WIDTH = 64
VARIANCE, APART = 0.8, 0.4


def acting(kind):
    """The kind's action as a function of its unit draws, and their laws."""
    mixes = kind.mixes((1, WIDTH))

    def act(weights, x):
        def mixed(name, mix):
            scale = np.sqrt(NUMBERS[mix.variance] / mix.fan_in)
            prepared = mix.prepared or (lambda draw: draw)
            return lambda y: mix.multiply(prepared(scale * weights[name]), y)

        maps = {name: mixed(name, mix) for name, mix in mixes.items()}
        trained = kind.trained((1, WIDTH))
        return kind.apply(maps, trained, x, numbers=NUMBERS)

    return act, {name: (mix.shape, 1.0) for name, mix in mixes.items()}


def by_limit(kind):
    act, weights = acting(kind)
    variance = np.full((2, 1), VARIANCE)
    lack = VARIANCE * APART * (1 - np.eye(2))
    return limit.layer_covariance(act, variance, lack, weights=weights)


@exact_float64
def by_hand(kind):
    state = State.of(jnp.asarray(VARIANCE), jnp.asarray(APART))
    found = kind.covariance(Gauss(), state, NUMBERS)
    return float(found.variance[0, 0]), float(found.lacking().cross[0, 0, 0])


@pytest.mark.parametrize("name", sorted(set(LAYERS) - DO_NOT_CLOSE))
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_covariances_are_those_of_the_action(name, activation):
    kind = layer(name, activation)
    variance, lack = by_limit(kind)
    written, apart = by_hand(kind)
    np.testing.assert_allclose(variance, written, rtol=1e-10)
    np.testing.assert_allclose(lack[0, 1], apart, rtol=1e-10)


@pytest.mark.parametrize("name", sorted(DO_NOT_CLOSE - {"dropout", "shared_dropout"}))
def test_what_does_not_close_is_said(name):
    with pytest.raises(ValueError, match="does not close exactly"):
        by_limit(layer(name, "tanh"))


def test_what_hangs_on_the_largest_unit_is_said():
    scaled = lambda w, x: x / jnp.max(jnp.abs(x), axis=-1, keepdims=True)  # noqa: E731
    with pytest.raises(ValueError, match="largest unit"):
        limit.layer_covariance(scaled, np.ones((1, 1)), np.zeros((1, 1)), weights={})
