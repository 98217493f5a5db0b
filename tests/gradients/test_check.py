"""Planted errors are found and named, right gradients pass, and what cannot be told says so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from sigprop import gradients
from sigprop.architecture import Architecture
from sigprop.gradients import CheckStatus, Verdict
from sigprop.networks import MLP

KEY = jax.random.key(0)
INPUTS = jax.random.normal(jax.random.key(1), (8, 64))


def deep(gain, depth=8, width=64, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(2), depth)
    scale = jnp.asarray(gain / width**0.5, dtype)
    weights = [scale * jax.random.normal(k, (width, width), dtype) for k in keys]
    return [{"weight": weight, "bias": jnp.zeros(width, dtype)} for weight in weights]


def loss_of(activation, plant=None, at=3, name="weight"):
    """Mean square of a deep network, the gradient by one array tampered with."""

    def loss(layers):
        x = INPUTS[:, : layers[0]["weight"].shape[0]].astype(layers[0]["weight"].dtype)
        for number, layer in enumerate(layers):
            if plant is not None and number == at:
                layer = {**layer, name: plant(layer[name])}
            x = activation(x @ layer["weight"] + layer["bias"])
        return jnp.mean((x - 0.3) ** 2)

    return loss


def times(factor):
    """The identity, whose gradient is off by a factor."""
    return lambda x: factor * x + lax.stop_gradient((1 - factor) * x)


@jax.custom_vjp
def shifted_rule(x):
    return jnp.sin(x)


shifted_rule.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (g * jnp.cos(x + 0.1),))

PLANTS = {
    "detached": (lax.stop_gradient, "detached"),
    "wrong sign": (times(-1.0), "wrong sign"),
    "missing factor": (times(0.5), "0.5 times"),
    "2 per cent": (times(1.02), "1.0"),
}
ACTIVATIONS = {
    "tanh": (jnp.tanh, 1.1),
    "relu": (jax.nn.relu, 2**0.5),
    "gelu": (jax.nn.gelu, 1.7),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_gradient_of_a_healthy_deep_model_passes_in_float32(activation):
    fn, gain = ACTIVATIONS[activation]
    report = gradients.check(loss_of(fn), deep(gain), key=KEY)
    report.assert_ok()
    ok = [row for row in report.rows if row.status == CheckStatus.OK]
    assert len(ok) > 0.8 * len(report.rows)
    assert report.undecided == ()


@pytest.mark.parametrize("plant", PLANTS)
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_a_planted_error_is_found_and_named(activation, plant):
    fn, gain = ACTIVATIONS[activation]
    tampered, remark = PLANTS[plant]
    report = gradients.check(loss_of(fn, tampered), deep(gain), key=KEY, entries=1)
    assert report.wrong == ("3/weight",)
    assert not report.ok
    with pytest.raises(AssertionError, match=r"gradient is wrong in 3/weight"):
        report.assert_ok()
    assert any(remark in row.remark for row in report.rows if row.parameter == "3/weight")


def test_one_array_of_a_model_with_a_million_parameters():
    layers = deep(1.2, depth=16, width=256)
    assert sum(leaf.size for leaf in jax.tree.leaves(layers)) > 1e6
    inputs = jax.random.normal(KEY, (4, 256))

    def loss(layers):
        x = inputs
        for number, layer in enumerate(layers):
            bias = lax.stop_gradient(layer["bias"]) if number == 9 else layer["bias"]
            x = jnp.tanh(x @ layer["weight"] + bias)
        return jnp.mean(x**2)

    report = gradients.check(loss, layers, key=KEY, entries=1)
    assert report.wrong == ("9/bias",)
    assert "rows that are ok are left out" in str(report)


@pytest.mark.parametrize("seed", range(4))
def test_right_gradients_pass_whatever_the_directions(seed):
    loss, layers = loss_of(jax.nn.relu), deep(2**0.5, depth=4, width=32)
    assert gradients.check(loss, layers, key=jax.random.key(seed)).ok


def test_float64_functions_are_held_to_float64(float64):
    layers = deep(1.1, depth=3, width=16, dtype=jnp.float64)
    report = gradients.check(loss_of(jnp.tanh), layers, key=KEY)
    report.assert_ok()
    along = [r for r in report.rows if r.along == "random direction"]
    assert max(r.error / abs(r.difference) for r in along) < 3e-5
    off = gradients.check(loss_of(jnp.tanh, times(1 + 1e-5), at=1), layers, key=KEY)
    assert off.wrong == ("1/weight",)


def test_a_network_of_sigprop():
    network = MLP(Architecture(5, 32, "erf", 1.4, 0.05), 64, 3, rngs=KEY)
    report = gradients.check(lambda network: jnp.mean(network(INPUTS) ** 2), network, key=KEY)
    report.assert_ok()
    assert {row.parameter for row in report.rows} >= {"hidden/weight", "readout/bias"}


def test_a_module_with_statistics_is_left_as_it_was():
    model = nnx.Sequential(nnx.Linear(64, 8, rngs=nnx.Rngs(0)), nnx.BatchNorm(8, rngs=nnx.Rngs(1)))
    before = np.asarray(model.layers[1].mean[...])
    report = gradients.check(lambda m: jnp.mean(jnp.tanh(m(INPUTS)) ** 3), model, key=KEY)
    assert report.ok
    np.testing.assert_array_equal(model.layers[1].mean[...], before)


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_a_kink_is_reported_with_its_two_slopes(side):
    kinked = lambda p: jnp.abs(p["x"]) + p["y"]  # noqa: E731
    report = gradients.check(kinked, {"x": jnp.asarray(0.0), "y": jnp.asarray(1.0)}, key=KEY)
    (row,) = [r for r in report.rows if r.parameter == "x" and r.along == "its value"]
    assert row.status == CheckStatus.KINK
    assert "-1 and 1" in row.remark
    assert report.ok  # decided beside the corner
    away = gradients.check(lambda p: jax.nn.relu(side * p), jnp.asarray(0.5), key=KEY)
    assert away.ok  # where relu is off, 0 against 0, with it switched on
    assert (CheckStatus.ZERO in {r.status for r in away.rows}) == (side < 0)


def test_cancellation_is_told_from_agreement():
    def fn(p):
        return 1e16 + 1e-3 * jnp.sum(p["small"]) + jnp.sum(p["large"] ** 4)

    params = {"small": jnp.ones(4), "large": 3e4 * jnp.ones(4)}
    report = gradients.check(fn, params, key=KEY)
    assert report.undecided == ("small",)
    assert report.verdicts["large"] == Verdict.AGREES
    assert not report.ok
    with pytest.raises(AssertionError, match=r"undecided: small\nwhat would decide"):
        report.assert_ok()
    report.assert_ok(undecided=["small"])
    report.assert_ok(undecided=True)


def test_a_gradient_that_is_not_finite():
    report = gradients.check(lambda p: jnp.sqrt(p["x"]) + p["y"], {"x": 0.0, "y": 1.0}, key=KEY)
    assert report.wrong == ("x",)
    with pytest.raises(AssertionError, match="not finite"):
        report.assert_ok()


def test_a_domain_that_ends_nearby_is_no_obstacle():
    report = gradients.check(lambda p: jnp.sum(jnp.log(p)), jnp.asarray([0.01, 2.0, 3.0]), key=KEY)
    report.assert_ok()


def test_a_wrong_rule_for_reverse_mode():
    params = {"x": jnp.linspace(-1, 1, 5), "y": jnp.ones(5)}
    report = gradients.check(lambda p: jnp.sum(shifted_rule(p["x"]) * p["y"]), params, key=KEY)
    assert report.wrong == ("x",)
    assert report.rows[-1].status == CheckStatus.UNAVAILABLE


def test_modes_that_disagree_are_told_by_the_adjoint_row():
    @jax.custom_jvp
    def fn(x):
        return jnp.sin(x)

    @fn.defjvp
    def rule(primals, tangents):
        # Reverse mode transposes this; the branch on the tangent's value exists forwards only.
        (x,), (t,) = primals, tangents
        return jnp.sin(x), jnp.cos(x) * jax.custom_derivatives.linear_call(
            lambda _, v: 2 * v, lambda _, c: c, (), t
        )

    report = gradients.check(lambda p: jnp.sum(fn(p)), jnp.linspace(0, 1, 5), key=KEY)
    assert {r.status for r in report.rows if r.along != "adjoint"} == {CheckStatus.OK}
    assert report.rows[-1].status == CheckStatus.WRONG
    assert not report.ok


def test_a_gradient_of_ones_own():
    def fn(p):
        return jnp.sum(jnp.sin(p["a"])) + p["b"] ** 3

    def by_hand(p):
        return {"a": jnp.cos(p["a"]), "b": 3 * p["b"] ** 2}

    params = {"a": jnp.linspace(-2, 2, 7), "b": jnp.asarray(0.7)}
    assert gradients.check(fn, params, key=KEY, grad=by_hand).ok
    forgotten = gradients.check(
        fn, params, key=KEY, grad=lambda p: {**by_hand(p), "b": p["b"] ** 2}
    )
    assert forgotten.wrong == ("b",)


def test_several_outputs_in_any_tree():
    params = {"w": jax.random.normal(KEY, (4, 3))}
    right = gradients.check(lambda p: {"a": jnp.tanh(p["w"]), "b": p["w"][0]}, params, key=KEY)
    assert right.ok
    wrong = gradients.check(
        lambda p: {"a": jnp.tanh(p["w"]), "b": times(3.0)(p["w"][0])}, params, key=KEY
    )
    assert wrong.wrong == ("w",)


def test_an_array_that_is_not_used_has_no_gradient_and_is_right():
    report = gradients.check(
        lambda p: p["x"] ** 2, {"x": jnp.asarray(1.0), "unused": jnp.ones(3)}, key=KEY
    )
    assert report.ok
    assert {r.status for r in report.rows if r.parameter == "unused"} == {CheckStatus.OK}


def test_the_report_prints():
    report = gradients.check(lambda p: jnp.sum(p["x"] ** 2), {"x": jnp.ones(2)}, key=KEY)
    lines = report.table.splitlines()
    assert lines[0].startswith("parameter  along")
    assert len(lines) == 1 + len(report.rows)
    assert str(report).startswith("gradient agrees with differences (6 comparisons)")
    assert report._repr_markdown_().count("\n|---|") == 1


@pytest.mark.parametrize(
    ("fn", "params", "options", "message"),
    [
        (3, 1.0, {}, "fn must be a function"),
        (jnp.sin, 1.0, {"grad": 3}, "grad must be a function"),
        (jnp.sin, {"n": 3}, {}, "must hold floating-point arrays"),
        (jnp.sin, jnp.asarray(jnp.nan), {}, "params must be finite, got nan"),
        (lambda p: jnp.sum(p["a"]), {"a": jnp.asarray([1.0, jnp.inf])}, {}, r"params at 'a' must"),
        (lambda p: p["z"], {"z": jnp.ones((), complex)}, {}, "real numbers, got complex64"),
        (lambda p: (p, 1), jnp.ones(()), {}, "got int32; has_aux=True leaves out"),
        (lambda p: p, jnp.ones(()), {"has_aux": True}, r"must return a pair \(value, aux\)"),
        (jnp.sum, jnp.ones(3), {"tolerance": -1.0}, "tolerance must be finite and >= 0"),
        (lambda p: jnp.argmax(p), jnp.ones(3), {}, "fn must return real numbers, got int32"),
        (lambda p: (), jnp.ones(3), {}, "fn must return real numbers, got none"),
        (lambda p: p @ jnp.ones(2), jnp.ones(3), {}, r"fn\(params\) could not be computed"),
        (lambda p: p * 2, jnp.ones(3), {"grad": lambda p: p}, "returns one number, got 3 numbers"),
        (jnp.sum, jnp.ones(3), {"grad": lambda p: p[:2]}, r"shape \(3,\), got \(2,\)"),
        (lambda p: p["a"], {"a": 1.0}, {"grad": lambda p: {"b": 1.0}}, "at 'a', got nothing"),
        (jnp.sum, jnp.ones(3), {"directions": 0}, "directions must be an integer >= 1, got 0"),
        (jnp.sum, jnp.ones(3), {"entries": -1}, "entries must be an integer >= 0, got -1"),
    ],
)
@pytest.mark.usefixtures("as_users_call")
def test_bad_input_is_one_clear_line(fn, params, options, message):
    with pytest.raises(ValueError, match=message) as raised:
        gradients.check(fn, params, key=KEY, **options)
    assert "\n" not in str(raised.value)
