"""The critical gain, against theory's critical weight variance."""

import jax.numpy as jnp
import numpy as np
import pytest

from sigprop import limit, theory
from tests.limit.test_predicting import N, layers, stack, two_inputs


def test_tanh_at_depth():
    inputs = two_inputs(0.5, 0.6, 1.3, 0.05)[:1]
    laws = {"*/0": 1.3 / N, "*/1": 0.05}
    found = limit.critical_gain(layers(100), inputs, apply=stack(jnp.tanh), laws=laws)
    known = theory.critical_weight_var("tanh", bias_var=0.05).weight_var
    assert known == pytest.approx(1.760954640, abs=1e-8)
    assert 1.3 * found.gain**2 == pytest.approx(known, abs=1e-8)
    assert found.growth < 0
    assert found.slope > 0


def test_what_cannot_be_had_is_named():
    given = {"apply": stack(jnp.tanh), "laws": {"*/0": 1.0 / N, "*/1": 0.0}}
    inputs = two_inputs(1.0, 0.5)
    with pytest.raises(ValueError, match="only names none of the weights"):
        limit.critical_gain(layers(3), inputs, only="*/1", **given)
    with pytest.raises(ValueError, match="three rows"):
        limit.critical_gain(layers(2), inputs, **given)
    maxed = lambda p, x: jnp.max(stack(jnp.tanh)(p, x), axis=-1, keepdims=True)  # noqa: E731
    with pytest.raises(ValueError, match=r"needs exact figures"):
        limit.critical_gain(layers(3), inputs, apply=maxed, laws=given["laws"])


def test_a_group_of_weights():
    """Half of the layers at four times their variance makes up for the others at a quarter."""
    model = layers(9)
    laws = {f"{n}/0": (0.5 if n % 2 else 2.0) / N for n in range(9)} | {"*/1": 0.0}
    relu = lambda x: jnp.maximum(x, 0)  # noqa: E731
    odd = [f"{n}/0" for n in range(1, 9, 2)]
    found = limit.critical_gain(model, np.ones((1, N)), apply=stack(relu), laws=laws, only=odd)
    assert found.gain == pytest.approx(2.0, rel=1e-9)
    assert found.weights == tuple(odd)
