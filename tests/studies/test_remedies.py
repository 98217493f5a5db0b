"""The remedies study: the table of remedies, the rule of verdicts, the known answers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from sigprop import studies, sweeps, training
from sigprop.networks import MLP
from sigprop.studies.remedies import verdicts
from sigprop.studies.remedies.patients import PATIENTS, Budget, Setup, patient
from sigprop.studies.remedies.remedy_theory import prediction
from sigprop.studies.remedies.treated_runs import (
    curvature,
    data_of,
    gradient_ratio,
    networks_of,
    outcome,
)
from sigprop.studies.remedies.treatments import REMEDIES, NotApplicable, treated
from sigprop.studies.remedies.verdicts import Verdict

ROWS = [
    *("xavier", "he", "lecun", "orthogonal", "critical_initialisation"),
    *("relu", "leaky_relu", "batch_norm", "layer_norm", "weight_norm", "residual"),
    *("dropout", "l2", "clip_by_norm", "clip_by_value", "adam", "rmsprop", "adagrad"),
    *("smaller_step", "input_standardisation", "small_batch", "early_stopping"),
]
SICK = {name: patient(name, Budget()).untreated for name in PATIENTS}


def test_the_remedies_are_those_that_people_are_told_of():
    assert list(REMEDIES) == ROWS


def test_the_patients_are_ill_as_described():
    chi = {name: prediction(setup).chi_1 for name, setup in SICK.items()}
    np.testing.assert_allclose(chi["sigmoid_unit_entries"], 0.79, atol=0.005)
    np.testing.assert_allclose(chi["sigmoid_xavier"], 0.056, atol=0.0005)
    assert chi["tanh_ordered"] < 0.5
    assert chi["relu_exploding"] == pytest.approx(4.0)
    regression = SICK["unscaled_regression"]
    assert regression.optimiser.learning_rate == 0.01 > 2 / curvature(regression)
    data = data_of(regression).train
    np.testing.assert_array_equal(data.inputs**2, data.targets)
    assert (data.inputs.min(), data.inputs.max()) >= (1, 999)


@pytest.mark.parametrize("name", PATIENTS)
def test_controls_have_the_shape_and_the_budget_of_their_patients(name):
    pair = patient(name, Budget(depth=7, width=12, steps=33, batch_size=9))
    for field in ("task", "optimiser", "steps", "batch_size", "patience"):
        assert getattr(pair.control, field) == getattr(pair.untreated, field)
    for field in ("depth", "width", "block", "norm", "initialiser", "bias_var"):
        sick, well = pair.untreated.architecture, pair.control.architecture
        assert getattr(sick, field) == getattr(well, field)


@pytest.mark.parametrize("remedy", REMEDIES)
@pytest.mark.parametrize("name", PATIENTS)
def test_a_remedy_changes_something_and_keeps_the_budget(name, remedy):
    found = treated(remedy, SICK[name])
    if isinstance(found, NotApplicable):
        assert found.reason
        return
    assert found != SICK[name]
    assert (found.steps, found.task) == (SICK[name].steps, SICK[name].task)
    fields = [f.name for f in dataclasses.fields(Setup)]
    changed = [f for f in fields if getattr(found, f) != getattr(SICK[name], f)]
    assert len(changed) == 1


def test_an_unknown_name_is_told_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'batch_norm'"):
        treated("batchnorm", SICK["relu_exploding"])
    with pytest.raises(ValueError, match="did you mean 'relu_exploding'"):
        patient("relu_exploded", Budget())
    with pytest.raises(ValueError, match=r"seed must be an integer >= 0, got 0\.5"):
        studies.Remedies().check({"patient": [], "remedy": [], "seed": [0.5]})


@pytest.mark.parametrize("changes", [{}, {"norm": "batch_norm"}, {"block": "residual"}])
def test_the_gradient_ratio_is_that_of_the_gradient_by_the_layers_outputs(changes):
    """By z^1 directly, and by the biases of the last layer, one copy for each example."""
    setup = patient("sigmoid_unit_entries", Budget(depth=3, width=8)).untreated
    setup = setup.with_network(**changes)
    networks = networks_of(setup, jax.random.split(jax.random.key(1), 2))
    batch = jax.tree.map(jnp.asarray, data_of(setup).train.take(slice(0, 16)))
    network = jax.tree.map(lambda leaf: leaf[1], networks)

    def loss_of(last: MLP, z):
        return training.cross_entropy(last.readout(last.outputs(z)), batch.targets)

    z = network.preactivations(batch.inputs)
    layers = [jax.tree.map(lambda leaf, i=i: leaf[i], network.layers()) for i in range(2)]
    through = lambda z1: loss_of(network, network.layer(network.layer(z1, layers[0]), layers[1]))  # noqa: E731
    first = jnp.linalg.norm(jax.grad(through)(z[0]))
    last = jnp.linalg.norm(jax.grad(lambda z: loss_of(network, z))(z[-1]))
    np.testing.assert_allclose(gradient_ratio(networks, batch)[1], first / last, rtol=1e-4)


def test_the_line_is_fitted_as_gradient_descent_does_by_hand():
    """One full step on mean squared error, from the drawn w and b; the others follow suit."""
    setup = dataclasses.replace(patient("unscaled_regression", Budget()).control, steps=25)
    keys = jax.random.split(jax.random.key(0), 2)
    network = jax.tree.map(lambda leaf: leaf[0], networks_of(setup, keys))
    w, b = float(network.first.weight[0, 0]), float(network.first.bias[0])
    splits = data_of(setup)
    x, y = (np.asarray(a, np.float64).ravel() for a in (splits.train.inputs, splits.train.targets))
    for _ in range(25):
        error = w * x + b - y
        w, b = w - 0.02 * np.mean(error * x), b - 0.02 * np.mean(error)
    test = splits.test
    expected = np.mean((w * test.inputs + b - test.targets) ** 2)
    np.testing.assert_allclose(outcome(setup, keys).loss[0], expected, rtol=1e-4)


def runs(accuracy, loss=(1.0, 1.0, 1.0), applicable=1):
    return xr.Dataset(
        {
            "accuracy": ("seed", np.asarray(accuracy, float)),
            "loss": ("seed", np.asarray(loss, float)),
            "applicable": applicable,
            "test_examples": 400,
        }
    )


NONE = (np.nan,) * 3
# Untreated 0.5 with spread 0.1 and binomial error 0.025: two standard errors are 0.206.
CASES = [
    ((0.81, 0.81, 0.81), Verdict.CURED),
    ((0.80, 0.80, 0.80), Verdict.HELPED),
    ((0.71, 0.71, 0.71), Verdict.HELPED),
    ((0.70, 0.70, 0.70), Verdict.NO_EFFECT),
    ((0.30, 0.30, 0.30), Verdict.NO_EFFECT),
    ((0.29, 0.29, 0.29), Verdict.WORSE),
]


@pytest.mark.parametrize(("accuracy", "expected"), CASES)
def test_verdicts_by_accuracy(accuracy, expected):
    untreated, control = runs((0.4, 0.5, 0.6)), runs((0.9, 0.9, 0.9))
    assert verdicts.verdict(runs(accuracy), untreated, control) == expected
    refused = runs(NONE, NONE, applicable=0)
    assert verdicts.verdict(refused, untreated, control) == Verdict.NOT_APPLICABLE


def test_a_remedy_that_makes_every_run_diverge_is_worse():
    untreated, control = runs((0.1, 0.2, 0.3)), runs((0.9, 0.9, 0.9))
    gone = runs((0.0, 0.0, 0.0), (np.inf,) * 3)
    assert verdicts.verdict(gone, untreated, control) == Verdict.WORSE
    assert verdicts.verdict(gone, gone, control) == Verdict.NO_EFFECT
    once = runs((0.0, 0.2, 0.2), (np.inf, 1.0, 1.0))
    assert verdicts.verdict(once, untreated, control) == Verdict.NO_EFFECT


@pytest.mark.parametrize(
    ("loss", "untreated", "expected"),
    [
        ((2, 2, 2), (9, 10, 11), Verdict.CURED),
        ((7.9, 7.9, 7.9), (9, 10, 11), Verdict.HELPED),
        ((8.1, 8.1, 8.1), (9, 10, 11), Verdict.NO_EFFECT),
        ((13, 13, 13), (9, 10, 11), Verdict.WORSE),
        ((np.inf, 1, 1), (9, 10, 11), Verdict.WORSE),
        ((1e9, 1e9, 1e9), (np.inf,) * 3, Verdict.HELPED),
        ((2, 2, 2), (np.inf,) * 3, Verdict.CURED),
        ((np.inf,) * 3, (np.inf,) * 3, Verdict.NO_EFFECT),
    ],
)
def test_verdicts_by_loss(loss, untreated, expected):
    control = runs(NONE, (1, 1, 1))
    assert verdicts.verdict(runs(NONE, loss), runs(NONE, untreated), control) == expected


@pytest.fixture(scope="module")
def ds():
    """Four patients at full size, remedies whose answers are known, few steps."""
    return sweeps.run(
        studies.Remedies(steps=100, batch_size=32),
        {
            "patient": [name for name in PATIENTS if name != "tanh_ordered"],
            "remedy": ["control", "untreated", "xavier", "he", "relu", "smaller_step",
                       "input_standardisation", "clip_by_value"],
            "seed": [0, 1, 2],
        },
        progress=False,
    )  # fmt: skip


def found(ds):
    return {(row.patient, row.remedy): row for row in verdicts.remedies_table(ds)}


def test_known_answers(ds):
    verdict_of = {pair: row.verdict for pair, row in found(ds).items()}
    for remedy in ("input_standardisation", "smaller_step"):
        assert verdict_of["unscaled_regression", remedy] == "cured"
    for name in ("sigmoid_unit_entries", "sigmoid_xavier"):
        assert verdict_of[name, "xavier"] != "cured"
    assert verdict_of["relu_exploding", "he"] == "cured"
    assert verdict_of["unscaled_regression", "clip_by_value"] == "helped"
    assert verdict_of["unscaled_regression", "he"] == "no effect"
    assert verdict_of["unscaled_regression", "relu"] == "not applicable"
    assert verdict_of["relu_exploding", "relu"] == "not applicable"


def test_untreated_runs_fail_and_controls_do_not(ds):
    digits = ds.drop_sel(patient="unscaled_regression")["accuracy"].mean("seed")
    assert (digits.sel(remedy="untreated") < 0.3).all()
    assert (digits.sel(remedy="control", patient="sigmoid_xavier") > 0.4).all()
    lost = ds["diverged_at"].sel(remedy="untreated")
    assert (lost.sel(patient=["relu_exploding", "unscaled_regression"]) >= 0).all()
    assert (ds["diverged_at"].sel(remedy="control") == -1).all()


def test_reasons_name_what_changes_from_what_to_what(ds):
    rows = found(ds)
    assert rows["sigmoid_unit_entries", "xavier"].reason.startswith("chi_1 0.795 → 0.0557; chi_q")
    assert rows["relu_exploding", "he"].reason == "chi_1 4.00 → 1.00; chi_q 4.00 → 1.00"
    assert rows["relu_exploding", "smaller_step"].reason == "step size 0.0100 → 0.00100"
    assert rows["sigmoid_xavier", "xavier"].reason == "chi_1 stays 0.0557"
    kept = rows["unscaled_regression", "he"].reason
    assert kept.startswith("step size stays 0.0100, above the 2.9")


def test_the_measured_ratio_is_the_predicted_one(ds):
    """Growth over 19 layers of width 64: the norm within a factor of 2 a seed, on average."""
    networks = ds.drop_sel(patient="unscaled_regression").where(ds["applicable"] == 1)
    measured = np.log(networks["ratio"]).mean("seed")
    predicted = np.log(networks["growth_theory"]) * 19 / 2
    error = abs(measured - predicted).where(np.isfinite(predicted))
    assert float(error.max()) < 0.1 * float(abs(predicted).max())


def test_the_same_in_every_form(ds, tmp_path):
    rows = verdicts.remedies_table(ds)
    assert len(rows) == 4 * 6 * 3
    verdicts.write_csv(rows, tmp_path / "remedies.csv")
    header, first = (tmp_path / "remedies.csv").read_text().splitlines()[:2]
    assert header == "patient,remedy,seed,ratio_before,ratio_after,loss,accuracy,verdict,reason"
    assert first.startswith("sigmoid_unit_entries,xavier,0,")
    for text in (verdicts.as_text(rows), verdicts.as_markdown(rows)):
        assert len(text.splitlines()) - 4 * 6 in (1, 2)
        assert "chi_1 4.00 → 1.00" in text
    shown = verdicts.with_verdicts(ds)
    code = shown["verdict"].sel(patient="relu_exploding", remedy="he")
    assert code.attrs["flag_meanings"].split()[int(code)] == "cured"
    assert "control" not in shown["remedy"].values


def test_a_table_needs_something_to_compare_with(ds):
    with pytest.raises(ValueError, match="no control"):
        verdicts.remedies_table(ds.drop_sel(remedy="control"))
    with pytest.raises(ValueError, match="got 1 seeds"):
        verdicts.remedies_table(ds.isel(seed=[0]))
