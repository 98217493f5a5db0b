"""Measuring kinds that are not in the library: maps of any form, and what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sigprop import kinds
from sigprop.architecture import Architecture
from sigprop.networks import MLP, initialisers
from sigprop.propagation import measure, seed_key

KEY = jax.random.key(3)
X = 3 * np.random.default_rng(0).standard_normal((4, 16)).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Diagonal(kinds.Kind):
    """Every unit times a drawn number: no matrix, so that gradients are made and not read off."""

    numbers = ("gate_var",)

    def mixes(self, shape):
        return {"diagonal": kinds.Mix((shape[1],), 1, jnp.multiply, "gate_var")}

    def apply(self, mix, trained, x, *, numbers, key=None):
        return mix["diagonal"](x)


@dataclasses.dataclass(frozen=True)
class Twice(kinds.Kind):
    """One matrix at two places."""

    numbers = ("weight_var",)

    def mixes(self, shape):
        return kinds.Dense(bias_var=None).mixes(shape)

    def apply(self, mix, trained, x, *, numbers, key=None):
        return mix["weight"](jnp.tanh(mix["weight"](x)))


def _squares(arrays):
    return sum(np.square(np.asarray(a, float)).reshape(len(a), -1).sum(1) for a in arrays)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("budget", [2**28, 0])
def test_a_map_of_any_form_has_its_gradient(activation, budget):
    layer = kinds.Sequence(kinds.Pointwise(), Diagonal(), kinds.Dense())
    net = Architecture(12, 16, activation, 1.5, 0.1, layer=layer, numbers={"gate_var": 1.2})
    network = MLP(net, 16, rngs=seed_key(KEY, 0))
    vectors = initialisers.cotangent(seed_key(KEY, 0), 4, 16)
    gradient = jax.grad(lambda network: jnp.sum(vectors * network(X)))(network).hidden
    found = measure(net, X, key=KEY, seeds=1, memory_budget=budget)
    weights = _squares([gradient.weight[...], gradient.diagonal[...]])
    np.testing.assert_allclose(found.log_gradient_w[1:], np.log(weights), atol=1e-4)
    np.testing.assert_allclose(
        found.log_gradient_b[1:], np.log(_squares([gradient.bias[...]])), atol=1e-4
    )


def test_a_layer_without_weights_has_no_gradient_of_them():
    found = measure(Architecture(3, 16, "tanh", 1.5, layer=kinds.Norm()), X, key=KEY, seeds=1)
    assert np.isfinite(found.log_gradient_w[0])
    assert np.isneginf(found.log_gradient_w[1:]).all()
    np.testing.assert_allclose(found.variance[1:], 1.0, rtol=1e-5)


def test_a_matrix_at_two_places_is_refused():
    with pytest.raises(ValueError, match="layer must use its drawn map 'weight' once"):
        measure(Architecture(3, 16, "tanh", 1.5, layer=Twice()), X, key=KEY, seeds=1)
