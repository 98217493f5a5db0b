"""The doctor is right about models whose illness is known, whoever built them."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from flax import linen, nnx

import sigprop
from sigprop import plots, theory
from tests.diagnosis import models


def found(name, seed=0):
    build, loss, batch, _ = models.CASES[name]
    return sigprop.diagnose(build(seed), loss, batch(seed))


@pytest.mark.parametrize("name", models.CASES)
def test_the_verdict(name):
    report = found(name)
    assert report.verdict == models.CASES[name][-1], str(report)
    if report.healthy:
        report.assert_healthy()
        assert report.suggestion == "nothing to repair"
    else:
        with pytest.raises(AssertionError, match=report.verdict):
            report.assert_healthy()


def test_half_of_the_models_are_not_sigprops():
    own = [name for name in models.CASES if name.endswith(("mlp", "mlp, weight_var 8"))]
    assert len(own) <= len(models.CASES) / 2
    assert len(models.CASES) >= 12
    assert {case[-1] for case in models.CASES.values()} == {
        "healthy", "vanishing", "exploding", "nonfinite"
    }  # fmt: skip


@pytest.mark.parametrize("name", ["xavier relu mlp", "sigmoid mlp", "pytree, exploding"])
def test_the_rate_is_the_mean_field_rate(name):
    activation, weight_var = {
        "xavier relu mlp": ("relu", 1.0),
        "sigmoid mlp": ("sigmoid", 1.0),
        "pytree, exploding": ("relu", 6.0),
    }[name]
    report = found(name)
    chi = theory.fixed_point(activation, weight_var=weight_var, bias_var=0.0).chi_1
    # Width 64: E[log] lies below log E by some (5/2)/64 a layer (relu), and a layer's log has
    # variance 5/64 or so from the draw of its weights, which the batch's examples share.
    draw = math.sqrt(5 / 64 / len([layer for layer in report.layers if layer.weighs]))
    allowed = 3 * (report.gradient_rate_stderr + draw) + 0.04
    assert abs(report.gradient_rate - math.log(chi)) < allowed


def test_gradients_by_outputs_are_those_of_the_chain_rule():
    layers = models.linears(0, 3, 1.0)
    x = models.batch(0)
    report = sigprop.diagnose([*layers[:2], jnp.tanh, layers[2]], models.list_mean_square, x)
    z2 = layers[1](layers[0](x))
    g2 = jax.grad(lambda z: jnp.mean((layers[2](jnp.tanh(z)) - 0.5) ** 2))(z2)
    reading = report.layers[1]
    np.testing.assert_allclose(reading.log_gradient, np.log(np.sum(g2**2)), rtol=1e-5)
    np.testing.assert_allclose(reading.rms, np.sqrt(np.mean(z2**2)), rtol=1e-6)
    weight = np.asarray(layers[1].weight)
    np.testing.assert_allclose(reading.weight_var, 64 * np.mean(weight**2), rtol=1e-6)
    assert [layer.kind for layer in report.layers] == ["Linear"] * 3
    assert [layer.activation for layer in report.layers] == ["", "tanh", ""]


def test_the_suggestion_is_the_critical_line():
    build = models.mlp("tanh", 1.0, 0.05, depth=60)
    report = sigprop.diagnose(build(0), models.mean_square, models.batch(0))
    assert report.verdict == "vanishing"
    assert "-> 1.7" in report.suggestion
    assert "puts this tanh stack on the critical line" in report.suggestion
    repaired = models.mlp("tanh", 1.76, 0.05, depth=60)
    sigprop.diagnose(repaired(0), models.mean_square, models.batch(0)).assert_healthy()


def test_scanned_layers_are_rows_of_their_own():
    report = found("critical tanh mlp")
    assert [layer.name for layer in report.layers] == [
        "first", *(f"hidden[{i}]" for i in range(29)), "readout"
    ]  # fmt: skip
    assert report.unread == ()
    assert {layer.activation for layer in report.layers[:-1]} == {"tanh"}
    np.testing.assert_allclose(
        np.mean([x.weight_var for x in report.layers[1:-1]]), 1.76, rtol=0.02
    )


def test_the_networks_parameterisation_makes_no_difference():
    ways = [
        sigprop.diagnose(
            models.mlp("tanh", 1.5, 0.1, depth=5, parameterisation=way)(0),
            models.mean_square,
            models.batch(0),
        )
        for way in ("standard", "ntk")
    ]
    first, second = ([layer.log_gradient for layer in way.layers] for way in ways)
    np.testing.assert_allclose(first, second, atol=1e-4)


def test_layers_that_frameworks_do_not_tell_of_are_read_from_the_program():
    class Hidden(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = linen.tanh(linen.Dense(8)(x))
            x = linen.remat(linen.Dense)(8, name="rematerialised")(x)
            return linen.Dense(1)(x)

    model = models.bound(Hidden(), jnp.ones((1, models.FEATURES)))(0)
    report = sigprop.diagnose(model, models.mean_square, models.batch(0))
    assert report.unread == ()
    names = [layer.name for layer in report.layers]
    assert names == ["Dense_0", "rematerialised", "Dense_1"]


def test_raw_arrays_are_layers_as_if_objects_held_them():
    raw = models.multiplied(5, 1.3)(0)
    layers = [models.Linear(w, b) for w, b in zip(raw.weights, raw.biases)]
    listed = [part for layer in layers for part in (layer, jnp.tanh)]
    reports = [
        sigprop.diagnose(raw, models.mean_square_by_example, models.batch(0)),
        sigprop.diagnose(listed, models.list_mean_square, models.batch(0)),
    ]
    found, expected = ([x for x in r.layers if x.weighs] for r in reports)
    assert [layer.name for layer in found] == [f"weights/{i}" for i in range(5)]
    for field in ("mean", "rms", "log_gradient", "dead", "weight_var", "bias_var"):
        a, b = ([getattr(layer, field) for layer in each] for each in (found, expected))
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6, err_msg=field)
    assert [x.activation for x in found[:-1]] == ["tanh"] * 4
    assert reports[0].unread == ()


def test_a_loop_whose_end_hangs_on_the_parameters_is_run_step_by_step():
    def loss(layers, x):
        count = jnp.where(jnp.sum(layers[0].weight ** 2) > 0, 2, 1)
        step = lambda state: (state[0] + 1, jnp.tanh(layers[1](state[1])))  # noqa: E731
        _, z = jax.lax.while_loop(lambda state: state[0] < count, step, (0, layers[0](x)))
        return jnp.mean((layers[2](z) - 0.5) ** 2)

    def written_out(layers, x):
        z = layers[0](x)
        for _ in range(2):
            z = jnp.tanh(layers[1](z))
        return jnp.mean((layers[2](z) - 0.5) ** 2)

    looped, expected = (
        sigprop.diagnose(models.linears(0, 3, 1.0), each, models.batch(0))
        for each in (loss, written_out)
    )
    assert [layer.name for layer in looped.layers] == ["0", "1[0]", "1[1]", "2"]
    for a, b in zip(looped.layers, expected.layers):
        assert a.name == b.name
        np.testing.assert_allclose(a.log_gradient, b.log_gradient, rtol=1e-5)
        np.testing.assert_allclose(a.rms, b.rms, rtol=1e-6)


def test_a_layer_that_cannot_be_read_is_named():
    layers = [*models.linears(0, 2, 1.0), jax.tree_util.Partial(jnp.add, jnp.zeros(64))]
    report = sigprop.diagnose(
        {"layers": layers, "extra": jnp.ones((64, 64))},
        lambda model, x: (
            models.list_mean_square(model["layers"], x) + 1e-3 * jnp.sum(model["extra"])
        ),
        models.batch(0),
    )
    assert report.unread == ("extra",)
    assert any("extra" in sentence for sentence in report.evidence)
    assert report.verdict == "unread"


def test_where_nan_appears_first():
    report = found("nnx, logarithm of negative numbers")
    assert report.evidence[0].startswith("log at models.py:")
    assert "second" in report.evidence[0]
    assert "logarithms" in report.suggestion

    class Root(nnx.Module):
        def __init__(self):
            self.inner = nnx.Linear(4, 4, use_bias=False, rngs=nnx.Rngs(0))
            self.outer = nnx.Linear(4, 1, rngs=nnx.Rngs(1))

        def __call__(self, x):
            return self.outer(jnp.sqrt(jnp.abs(self.inner(x))))

    backward = sigprop.diagnose(Root(), models.mean_square, jnp.zeros((3, 4)))
    assert backward.verdict == "nonfinite"
    assert backward.evidence[0].startswith("sqrt at test_diagnose.py:")
    assert "going backward" in backward.evidence[0]
    assert "inner" in backward.evidence[0]
    spoilt = models.batch(0).at[0, 0].set(jnp.nan)
    build, loss, _, _ = models.CASES["critical tanh mlp"]
    assert "the batch itself" in sigprop.diagnose(build(0), loss, spoilt).evidence[0]


def test_weights_that_start_at_zero_are_told_from_death():
    layers = models.linears(0, 4, 1.0)
    layers[-1] = models.Linear(jnp.zeros_like(layers[-1].weight), layers[-1].bias)
    report = sigprop.diagnose([*layers], models.list_mean_square, models.batch(0))
    assert report.healthy
    assert report.opened == ("3/weight",)
    assert any("3/weight is exactly 0" in sentence for sentence in report.evidence)


def test_the_model_is_left_as_it_was():
    model = models.stack(3, jax.nn.relu, 1.0, norm=nnx.BatchNorm)(0)
    call = nnx.Linear.__call__
    before = np.asarray(model.norms[0].mean[...])
    sigprop.diagnose(model, models.mean_square, models.batch(0))
    np.testing.assert_array_equal(model.norms[0].mean[...], before)
    assert nnx.Linear.__call__ is call
    with pytest.raises(ValueError, match="could not be computed"):
        sigprop.diagnose(model, models.mean_square, models.batch(0)[:, :3])
    assert nnx.Linear.__call__ is call


def test_the_error_of_a_change_is_its_spread_over_batches():
    """Over many batches the ratio of two layers has the spread that is said."""
    weights = [normal / 8 for normal in jax.random.normal(jax.random.key(0), (3, 64, 64))]
    layers = [models.Linear(w, jnp.zeros(64)) for w in weights]
    model = [layers[0], jnp.tanh, layers[1], jnp.tanh, layers[2]]
    batches = jax.random.normal(jax.random.key(1), (60, 16, 64)) * 2
    reports = [sigprop.diagnose(model, models.list_mean_square, x) for x in batches]
    rates = np.asarray([report.gradient_rate for report in reports])
    said = np.sqrt(np.mean([report.gradient_rate_stderr**2 for report in reports]))
    assert 0.6 < rates.std() / said < 1.6


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [(1.0, "healthy"), (9.0, "undecided"), (11.0, "undecided"), (200.0, "exploding"),
     (0.11, "undecided"), (0.005, "vanishing")],
)  # fmt: skip
def test_what_the_batch_cannot_tell_is_undecided(ratio, verdict):
    """A layer whose slope is that of its input, by which examples differ."""
    layers = dict.fromkeys("abcd", jnp.eye(4))
    spread = jnp.exp(jax.random.normal(jax.random.key(0), (16, 1)))
    x = spread / jnp.sqrt(jnp.mean(spread**2)) * jnp.ones((1, 4)) * ratio / 60

    def apply(layers, x):
        h = x @ layers["a"]
        return (30 * ((h * h) @ layers["b"])) @ layers["c"] @ layers["d"]

    report = sigprop.diagnose(layers, lambda model, x: jnp.mean(model(x)), x, apply=apply)
    assert report.verdict == verdict
    if verdict == "undecided":
        assert "two standard errors" in report.evidence[0]
        assert "larger batch" in report.suggestion
        with pytest.raises(AssertionError, match="undecided"):
            report.assert_healthy()


def test_outputs_that_are_absurd_come_before_units_that_are_dead():
    x = models.batch(0)
    layers = models.linears(0, 2, 1.0)
    dead = models.Linear(layers[0].weight, layers[0].bias - 100.0)
    model = {"large": [models.Linear(1e20 * layers[0].weight, layers[0].bias)], "dead": [dead]}

    def loss(model, x):
        y = model["large"][0](x) + jax.nn.relu(model["dead"][0](x))
        return jnp.mean(jnp.abs(y - 0.5))

    report = sigprop.diagnose(model, loss, x)
    assert report.verdict == "exploding"
    assert "outputs are absurdly large" in report.evidence[0]
    assert any("none is active" in sentence for sentence in report.evidence)


def test_targets_that_are_tiny_are_no_explosion():
    layers = models.linears(0, 2, 1.0)
    report = sigprop.diagnose(
        [layers[0], jnp.tanh, layers[1]],
        lambda model, x: jnp.mean((model[2](model[1](model[0](x))) - 1e-4) ** 2),
        models.batch(0),
    )
    report.assert_healthy()


def test_it_prints_in_a_terminal_and_in_a_notebook():
    report = found("xavier relu mlp")
    text = str(report)
    assert text.startswith("vanishing (loss ")
    assert "suggestion: weight variance" in text
    assert "-> 2.00 at bias variance 0.00 puts this relu stack on the critical line" in text
    assert text.count("hidden[") >= 30
    page = report._repr_html_()
    assert page.count("<tr>") == 1 + len(report.layers)
    assert "<b" in page


@pytest.mark.parametrize("name", ["xavier relu mlp", "pytree, overflow", "nnx, dead relu"])
def test_the_figure_shows_every_layer(name):
    report = found(name)
    ds = report.to_dataset()
    assert isinstance(ds, xr.Dataset)
    figure = plots.diagnosis(report)
    signal, gradient, idle = figure.axes
    count = sum(len(line.get_xdata()) for line in signal.lines)
    assert count == len(report.layers)
    assert len(idle.patches) == 2 * len(report.layers)
    if math.isfinite(report.gradient_rate):
        assert any("growth" in line.get_label() for line in gradient.lines)
    figure.canvas.draw()
    assert plots.diagnosis(ds).axes[0].get_title(loc="left").startswith(report.verdict)
    import matplotlib.pyplot as plt

    plt.close("all")


LIST = models.linears(0, 3, 1.0)


@pytest.mark.parametrize(
    ("model", "loss", "message"),
    [
        ({"w": jnp.ones(3)}, models.mean_square, "must be a Flax module, a callable pytree"),
        (3, models.mean_square, "must be a Flax module, a callable pytree .* got int"),
        ([jnp.tanh], models.list_mean_square, "must hold floating-point arrays"),
        (LIST, lambda m, x: m[0](x), r"must return one real number, got float32\[24, 64\]"),
        (LIST, lambda m, x: jnp.sum(m[1](x)), "could not be computed: TypeError"),
        (LIST, lambda m, x: jnp.sum(x), "must depend on the model"),
        (LIST, None, "loss must be a function"),
        (linen.Dense(3), models.mean_square, "must be a bound Linen module"),
    ],
)
@pytest.mark.usefixtures("as_users_call")
def test_bad_input_is_one_clear_line(model, loss, message):
    with pytest.raises(ValueError, match=message) as raised:
        sigprop.diagnose(model, loss, models.batch(0))
    assert "\n" not in str(raised.value)


def test_asking_the_package_for_something_else():
    with pytest.raises(AttributeError, match="no attribute 'diagnoze'"):
        _ = sigprop.diagnoze
