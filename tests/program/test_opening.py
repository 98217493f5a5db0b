"""Factors of 0 are opened on the way back only, and only where what they make is 0."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sigprop

X = jax.random.normal(jax.random.key(0), (8, 6))


def weights(seed):
    return jax.random.normal(jax.random.key(seed), (6, 6)) / jnp.sqrt(6.0)


def report(act, **changes):
    """x ↦ act(tanh(x A) B + b) C, B = 0 unless it is changed."""
    params = {
        "a": weights(0), "b": jnp.zeros((6, 6)), "bias": jnp.zeros(6), "c": weights(1), **changes
    }  # fmt: skip

    def apply(p, x):
        h = jnp.tanh(x @ p["a"]) @ p["b"] + p["bias"]
        return act(h, x) @ p["c"]

    return sigprop.diagnose(params, lambda model, x: jnp.mean((model(x) - 1) ** 2), X, apply=apply)


@pytest.mark.parametrize("act", [lambda h, x: h, lambda h, x: h * x, lambda h, x: x + h])
def test_what_lies_below_a_factor_of_zero_is_judged_through_its_bias(act):
    found = report(act)
    assert found.verdict == "healthy", str(found)
    assert found.opened == ("b",)
    assert np.isfinite(found.layers[0].log_gradient)


def test_two_factors_of_zero_in_one_product_stay_shut():
    found = report(lambda h, x: h, c=jnp.zeros((6, 6)))
    assert found.verdict == "vanishing"


def test_a_query_of_zero_does_not_hide_the_key():
    """Scores q k, q = x Q + b with Q = b = 0: one step of training opens them."""

    def apply(p, x):
        q, k, v = x @ p["q"] + p["b"], x @ p["k"], x @ p["v"]
        return jax.nn.softmax(q @ k.T / 2.0) @ v

    params = {"q": jnp.zeros((6, 6)), "b": jnp.zeros(6), "k": weights(0), "v": weights(1)}
    found = sigprop.diagnose(params, lambda m, x: jnp.mean((m(x) - x) ** 2), X, apply=apply)
    assert found.verdict == "healthy", str(found)
    assert found.opened == ("q",)
