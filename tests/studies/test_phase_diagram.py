import dataclasses
import json

import jax
import numpy as np
import pytest

from sigprop import propagation, sweeps, theory
from sigprop.architecture import Architecture
from sigprop.studies import Growth, PhaseDiagram, stability_table

SMALL = PhaseDiagram(depth=12, width=64, seeds=6, input_correlation=0.3)
GRID = {
    "activation": ["relu", "linear"],
    "initialiser": ["gaussian", "he", "orthogonal"],
    "weight_var": [0.5, 1.0, 2.0, 4.0],
    "bias_var": [0.0, 0.05, 0.3],
}


@pytest.fixture(scope="module")
def ds():
    return sweeps.run(SMALL, GRID, progress=False)


def test_theory_and_measurement_have_parallel_names(ds):
    for name in ("variance", "log_gradient_z"):
        assert ds[f"{name}_theory"].dims == ("activation", "weight_var", "bias_var", "layer")
        for kind in ("measured", "stderr"):
            dims = ds[f"{name}_{kind}"].dims
            assert dims == ("activation", "initialiser", "weight_var", "bias_var", "layer")
    for name in ("gradient_rate", "phase", "growth"):
        assert {f"{name}_theory", f"{name}_measured"} <= set(ds.data_vars)


def test_theory_columns_are_those_of_the_theory(ds):
    cell = ds.sel(activation="relu", weight_var=2.0, bias_var=0.3)
    q1 = theory.input_variance(1.0, weight_var=2.0, bias_var=0.3)
    path = theory.propagate("relu", depth=12, weight_var=2.0, bias_var=0.3, variance0=q1)
    np.testing.assert_allclose(cell["variance_theory"], path.variance, rtol=1e-12)
    np.testing.assert_allclose(cell["gradient_rate_theory"], path.gradient_rate, rtol=1e-12)
    relative = cell["log_gradient_z_theory"] - cell["log_gradient_z_theory"][-1]
    np.testing.assert_allclose(relative, path.log_gradient, atol=1e-12)
    assert cell["log_gradient_z_theory"][-1] == pytest.approx(np.log(64))


def test_measured_columns_are_those_of_the_measurement(ds):
    cell = ds.sel(activation="relu", initialiser="orthogonal", weight_var=1.0, bias_var=0.05)
    network = Architecture(12, 64, "relu", 1.0, 0.05, initialiser="orthogonal")
    key = jax.random.fold_in(jax.random.key(0), 64)
    alone = propagation.measure(network, SMALL.pairs.astype(np.float32), key=key, seeds=6)
    np.testing.assert_allclose(cell["variance_measured"], alone.variance, rtol=1e-5)
    np.testing.assert_allclose(cell["log_gradient_w_measured"], alone.log_gradient_w, rtol=1e-5)
    np.testing.assert_allclose(cell["gradient_rate_measured"], alone.gradient_rate, rtol=1e-4)


def test_inputs_start_where_theory_is_told_they_do(ds):
    """Layer 1 is Gaussian of known variance: measured within 5 standard errors of theory."""
    first = ds.sel(activation="linear", initialiser="gaussian").isel(layer=0)
    weight_var, bias_var = np.meshgrid(first["weight_var"], first["bias_var"], indexing="ij")
    told = {"weight_var": weight_var, "bias_var": bias_var}
    expected = {
        "variance": first["variance_theory"],
        "correlation": theory.input_correlation(SMALL.input_correlation, **told),
    }
    for name, value in expected.items():
        off = abs(first[f"{name}_measured"] - value)
        assert (off < 5 * first[f"{name}_stderr"] + 1e-6).all()


def test_corrected_disagreement_is_noise(ds):
    """Six seeds: |z| above 6 has odds below 1 in 500 a network, and cells of one err together."""
    z = ds["disagreement_corrected"]
    assert (abs(z) < 6).all()
    assert float(abs(z).median()) < 2


def test_phases_agree_away_from_the_line(ds):
    away = ds.sel(weight_var=[0.5, 4.0], activation="relu")
    assert (away["phase_theory"] == away["phase_measured"]).all()
    assert (away["growth_theory"] == away["growth_measured"]).sel(weight_var=4.0).all()


def test_a_recipe_lends_its_distribution(ds):
    he, gaussian = (ds["variance_measured"].sel(initialiser=i) for i in ("he", "gaussian"))
    np.testing.assert_array_equal(he, gaussian)
    assert not np.array_equal(he, ds["variance_measured"].sel(initialiser="orthogonal"))


def test_results_do_not_depend_on_chunks(ds):
    grid = {**GRID, "activation": ["relu"], "initialiser": ["gaussian"]}
    budget = 5 * SMALL.bytes_per_cell
    parts = sweeps.run(SMALL, grid, memory_budget=budget, progress=False)
    whole = ds.sel(activation=["relu"], initialiser=["gaussian"])
    for name in parts.data_vars:
        np.testing.assert_array_equal(parts[name], whole[name], err_msg=name)


def test_seed_decides_the_draws():
    grid = {**GRID, "activation": ["relu"], "initialiser": ["gaussian"], "weight_var": [2.0]}
    study = dataclasses.replace(SMALL, depth=3, width=8, seeds=2)
    one, same, other = (
        sweeps.run(dataclasses.replace(study, seed=seed), grid, progress=False)
        for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(one["variance_measured"], same["variance_measured"])
    assert not np.array_equal(one["variance_measured"], other["variance_measured"])


def test_files_are_known_by_content(tmp_path):
    pairs = np.random.default_rng(0).normal(size=(2, 2, 10))
    np.save(tmp_path / "a.npy", pairs)
    np.save(tmp_path / "b.npy", pairs)
    np.save(tmp_path / "c.npy", pairs + 1)
    configs = [
        PhaseDiagram(depth=2, width=4, seeds=3, input_file=tmp_path / f"{n}.npy").config()
        for n in "abc"
    ]
    assert configs[0] == configs[1] != configs[2]
    assert "a.npy" not in json.dumps(configs)
    study = PhaseDiagram(depth=2, width=4, seeds=3, input_file=tmp_path / "a.npy")
    np.testing.assert_array_equal(study.pairs[0], study.pairs[2])  # cycled


BAD = [
    ({"depth": 1}, "depth must be an integer >= 2, got 1"),
    ({"depth": 0}, "depth must be an integer >= 2, got 0"),
    ({"width": 3}, "width must be an integer >= 4, got 3"),
    ({"seeds": 1}, "seeds must be an integer >= 2, got 1"),
    ({"seed": -1}, "seed must be an integer >= 0, got -1"),
    ({"stable_factor": 1.0}, r"stable_factor must be > 1 and finite, got 1\.0"),
    ({"input_second_moment": -1.0}, r"input_second_moment must be > 0 and finite, got -1\.0"),
    ({"input_correlation": 2.0}, r"input_correlation must be between -1 and 1, got 2\.0"),
    ({"input_file": "nowhere.npy"}, r"inputs must be a readable \.npy file, got nowhere\.npy"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_bad_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        PhaseDiagram(**changes)


BAD_GRIDS = [
    ({"activation": ["relu", "tahn"]}, "got 'tahn'; did you mean 'tanh'"),
    ({"initialiser": ["gaussian", "hee"]}, "initialiser must be one of .* got 'hee'"),
    ({"weight_var": [1.0, -2.0]}, r"weight_var must be finite and >= 0, got -2\.0 at index \(1,\)"),
    ({"bias_var": [-0.1]}, r"bias_var must be finite and >= 0, got -0\.1"),
]


@pytest.mark.parametrize(("changes", "message"), BAD_GRIDS)
def test_bad_grids_are_named_before_anything_is_computed(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        sweeps.run(SMALL, {**GRID, **changes}, store=tmp_path / "x.zarr", progress=False)
    assert not list(tmp_path.iterdir())


def test_the_table_names_where_recipes_land(ds, tmp_path):
    rows = stability_table.stability_table(ds)
    assert [(r.activation, r.recipe) for r in rows] == [
        (a, r) for a in ("relu", "linear") for r in ("he", "xavier", "lecun")
    ]
    he, xavier = rows[0], rows[1]
    assert he.recipe_weight_var == he.critical_weight_var_0 == pytest.approx(2.0)
    assert he.predicted == he.measured == Growth.STABLE.name.lower()
    assert xavier.variance_factor == xavier.chi_1 == pytest.approx(0.5)
    assert xavier.measured == "unmeasured", "the dataset holds no draws of that recipe"
    assert rows[2].measured == rows[2].predicted == "vanishing", "lecun draws what gaussian does"
    assert rows[3].critical_weight_var_0 == pytest.approx(1.0)  # linear

    text = stability_table.as_lines(rows)
    assert len(text) == 7
    assert text[0].startswith("activation")
    stability_table.write_csv(rows, tmp_path / "table.csv")
    lines = (tmp_path / "table.csv").read_text().splitlines()
    assert lines[0].split(",")[0] == "activation"
    assert float(lines[1].split(",")[lines[0].split(",").index("chi_1")]) == he.chi_1


def test_the_table_needs_its_bias_variances(ds):
    with pytest.raises(ValueError, match=r"bias_var must hold \(0\.0, 0\.05\), got none of .0\.05"):
        stability_table.stability_table(ds.sel(bias_var=[0.0, 0.3]))


def test_error_bars_are_predicted(ds):
    """Six seeds say little of a variance: the predicted one lies within its 99.98% interval."""
    found = ds["log_gradient_variance_measured"] / ds["log_gradient_variance_theory"]
    held = (ds["activation"] == "linear") & (ds["initialiser"] == "orthogonal")
    assert found.dims == ("activation", "initialiser", "weight_var", "bias_var")
    assert ((found > 0.02) & (found < 7)).where(~held, True).all()
    ratio = (ds["gradient_rate_stderr"] / ds["gradient_rate_stderr_theory"]).where(~held)
    assert 0.5 < float(ratio.median()) < 1.6
    np.testing.assert_allclose(
        ds["log_gradient_variance_theory"].sel(
            activation="relu", initialiser=["gaussian", "he"], bias_var=0.0
        ),
        5 * 11 / 64,
        rtol=1e-12,
    )
