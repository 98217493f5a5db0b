"""Functions with a derivative of their own: read inside where that changes nothing, else not."""

import jax
import jax.numpy as jnp
import pytest

import sigprop
from tests.diagnosis.cases.case import normal

WIDTH, DEPTH = 16, 8
X = jax.random.normal(jax.random.key(0), (12, WIDTH))


def times(x, w):
    return jnp.tanh(x @ w)


def with_vjp(backward):
    dense = jax.custom_vjp(times)
    dense.defvjp(lambda x, w: (times(x, w), (x, w)), backward)
    return dense


def own(kept, g):
    x, w = kept
    inner = g * (1 - times(x, w) ** 2)
    return inner @ w.T, x.T @ inner


def straight_through(kept, g):
    x, w = kept
    return g @ w.T, x.T @ g


def by_jvp():
    dense = jax.custom_jvp(times)

    @dense.defjvp
    def _(given, tangents):
        (x, w), (dx, dw) = given, tangents
        y = times(x, w)
        return y, (1 - y**2) * (dx @ w + x @ dw)

    return dense


def report(dense, scale, around=lambda f: f):
    weights = [scale * normal(seed, WIDTH, WIDTH) for seed in range(DEPTH)]

    def loss(model, x):
        return jnp.mean((model(x) - 0.3) ** 2)

    def apply(weights, x):
        for w in weights:
            x = around(dense)(x, w)
        return x

    return sigprop.diagnose(weights, loss, X, apply=apply)


@pytest.mark.parametrize("dense", [with_vjp(own), by_jvp()], ids=["vjp", "jvp"])
@pytest.mark.parametrize("around", [lambda f: f, jax.jit, jax.checkpoint])
def test_a_derivative_that_is_its_own_is_read_inside(dense, around):
    for scale, verdict in ((1.2, "healthy"), (0.3, "vanishing")):
        found, plain = report(dense, scale, around), report(times, scale)
        assert found.verdict == plain.verdict == verdict
        assert found.share_read == 1.0
        assert len(found.layers) == DEPTH
        assert found.gradient_rate == pytest.approx(plain.gradient_rate, rel=1e-3)
        assert any("in the place of its own" in sentence for sentence in found.evidence)
        assert not any("in the place of its own" in sentence for sentence in plain.evidence)


def test_a_derivative_that_is_another_is_not():
    found = report(with_vjp(straight_through), 0.5)
    assert found.verdict == "unread"
    assert "times (custom_vjp_call)" in found.evidence[0]


def test_a_stack_inside_one_function_is_read():
    def stack(weights, x):
        for w in weights:
            x = jnp.tanh(x @ w)
        return x

    @jax.custom_vjp
    def remembered(weights, x):
        return stack(weights, x)

    remembered.defvjp(
        lambda weights, x: (stack(weights, x), (weights, x)),
        lambda kept, g: jax.vjp(stack, *kept)[1](g),
    )
    weights = [0.3 * normal(seed, WIDTH, WIDTH) for seed in range(DEPTH)]
    found = sigprop.diagnose(
        weights, lambda model, x: jnp.mean((model(x) - 0.3) ** 2), X, apply=remembered
    )
    assert found.verdict == "vanishing"
    assert found.share_read == 1.0
