"""The blocks study: its columns are theory's and measurement's, on a grid of small networks."""

import dataclasses

import jax
import numpy as np
import pytest

from sigprop import propagation, studies, sweeps, theory
from sigprop.architecture import Architecture

SMALL = studies.Blocks(depth=6, width=24, seeds=3, batch=5, bias_var=0.1, seed=3)
GRID = {"activation": ["tanh"], "block": ["plain", "residual_batch_norm"], "weight_var": [1.2, 3.0]}


@pytest.fixture(scope="module")
def ds():
    return sweeps.run(SMALL, GRID, progress=False)


def test_every_variable_has_its_dimensions(ds):
    assert dict(ds.sizes) == {"activation": 1, "block": 2, "weight_var": 2, "layer": 6}
    assert set(ds.data_vars) >= set(SMALL.variables)


@pytest.mark.parametrize("block", GRID["block"])
@pytest.mark.parametrize("weight_var", GRID["weight_var"])
def test_theory_columns_are_those_of_the_theory(ds, block, weight_var):
    cell = ds.sel(activation="tanh", block=block, weight_var=weight_var)
    network = Architecture(6, 24, "tanh", weight_var, 0.1, **studies.BLOCKS[block])
    batch = 5 if block == "residual_batch_norm" else None
    # Images have mean square 1 and cosine 1/2: q = σ_w² + σ_b², c q = σ_w²/2 + σ_b².
    start = weight_var + 0.1
    known = theory.predict(
        network,
        variance0=start,
        correlation0=(weight_var / 2 + 0.1) / start,
        batch=batch,
    )
    np.testing.assert_allclose(cell["variance_theory"], known.variance, rtol=1e-12)
    gained = known.log_gradient[0] - known.log_gradient
    np.testing.assert_allclose(cell["log_gradient_theory"], gained, rtol=1e-12, atol=1e-15)
    law = theory.growth_law(network, batch=batch)
    assert cell["gradient_rate_theory"] == pytest.approx(law.gradient_rate, rel=1e-12)
    assert int(cell["gradient_kind_theory"]) == law.gradient_kind
    assert int(cell["theory_status"]) == theory.TheoryStatus.OK


def test_measured_columns_are_statistics_over_networks_on_their_own_images(ds):
    cell = ds.sel(activation="tanh", block="residual_batch_norm", weight_var=3.0)
    network = Architecture(6, 24, "tanh", 3.0, 0.1, **studies.BLOCKS["residual_batch_norm"])
    found = [
        propagation.measure(
            network,
            SMALL.images[seed].astype(np.float32),
            key=jax.random.fold_in(jax.random.key(3), seed),
            seeds=1,
        )
        for seed in range(3)
    ]
    gained = np.stack([one.log_gradient_z[0] - one.log_gradient_z for one in found])
    spread = gained.var(0, ddof=1)
    expected = {
        "log_gradient_measured": gained.mean(0),
        "log_gradient_stderr": np.sqrt(spread / 3),
        "log_gradient_corrected_measured": gained.mean(0) + spread / 2,
        # The variance of 3 Gaussian seeds is known to its own size, √(2/(S - 1)) = 1.
        "log_gradient_corrected_stderr": np.sqrt(spread / 3 + (spread / 2) ** 2),
        "variance_measured": np.mean([one.variance for one in found], axis=0),
    }
    narrow = [
        propagation.measure(
            dataclasses.replace(network, width=12),
            SMALL.images[seed].astype(np.float32),
            key=jax.random.fold_in(jax.random.key(3), 3 + seed),
            seeds=1,
        ).log_gradient_z
        for seed in range(3)
    ]
    half = np.mean([one[0] - one for one in narrow], axis=0)
    expected["log_gradient_infinite_width_measured"] = 2 * gained.mean(0) - half
    for name, value in expected.items():
        np.testing.assert_allclose(cell[name], value, rtol=1e-3, atol=1e-4, err_msg=name)
    assert not ds["diverged_at_layer_measured"].any()


def test_images_are_as_alike_as_theory_is_told():
    gram = np.einsum("sae,sbe->sab", SMALL.images, SMALL.images) / 64
    expected = np.full((5, 5), 0.5) + 0.5 * np.eye(5)
    np.testing.assert_allclose(gram, np.broadcast_to(expected, gram.shape), atol=1e-12)


def test_a_gradient_that_leaves_float32_is_data():
    """The variance gains 7.7 orders of magnitude a layer; gradients are finite in theory."""
    study = studies.Blocks(depth=12, width=8, seeds=2, batch=4)
    grid = {"activation": ["gelu"], "block": ["residual"], "weight_var": [1e8]}
    ds = sweeps.run(study, grid, progress=False).squeeze()
    assert 1 < int(ds["diverged_at_layer_measured"]) <= 12
    assert np.isfinite(ds["log_gradient_theory"]).all()
    assert np.isnan(ds["log_gradient_measured"][-1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 1}, "depth must be an integer >= 2, got 1"),
        ({"seeds": 1}, "seeds must be an integer >= 2, got 1"),
        ({"batch": 3}, "batch must be an integer >= 4, got 3"),
        ({"batch": 64}, "batch must be between 1 and 63 images, got 64"),
        ({"bias_var": -0.5}, r"bias_var must be finite and >= 0, got -0\.5"),
    ],
)
def test_a_study_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        studies.Blocks(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block": ["residul"]}, "'residul'; did you mean 'residual'"),
        ({"activation": ["tahn"]}, "'tahn'; did you mean 'tanh'"),
        ({"weight_var": [-1.0]}, r"weight_var must be finite and >= 0, got -1\.0"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        sweeps.run(SMALL, GRID | change, progress=False)
