"""The kernel-condition study: theory's columns, networks near them, mistakes; its figure."""

import numpy as np
import pytest

from sigprop import plots, sweeps, theory
from sigprop.studies import KernelCondition

STUDY = KernelCondition(depth=20, measured_depth=4, width=256, count=3, outputs=16, seeds=6)
CRITICAL = float(theory.critical_weight_var("tanh", bias_var=0.05).weight_var)
GRID = {"activation": ["tanh"], "weight_var": [1.0, CRITICAL, 3.0], "bias_var": [0.05]}


@pytest.fixture(scope="module")
def ds():
    return sweeps.run(STUDY, GRID, progress=False)


def test_inputs_have_equal_norms_and_correlations():
    gram = STUDY.digits @ STUDY.digits.T / 64
    expected = np.full((3, 3), 0.2) + 0.8 * np.eye(3)
    np.testing.assert_allclose(gram, expected, rtol=1e-12)


def test_theory_columns_are_condition_numbers_of_the_kernels(ds):
    for i, weight_var in enumerate(GRID["weight_var"]):
        exact = theory.kernels("tanh", STUDY.digits, depth=4, weight_var=weight_var, bias_var=0.05)
        cell = ds.isel(activation=0, weight_var=i, bias_var=0).sel(depth=4)
        for name, matrix in (("nngp", exact.nngp), ("ntk", exact.ntk)):
            np.testing.assert_allclose(
                cell[f"{name}_condition_theory"], np.linalg.cond(matrix), rtol=1e-8
            )


def test_networks_lie_near_theory(ds):
    """Six networks of width 256: a kernel's entries fluctuate by about √(L/N)."""
    told = np.log(ds["ntk_condition_theory"].sel(depth=ds["measured_depth"].values))
    off = ds["log_ntk_condition_measured"].values - told.values
    assert np.abs(off).max() < 0.25
    limit, stderr = (
        ds[f"log_ntk_condition_infinite_width_{kind}"].values for kind in ("measured", "stderr")
    )
    assert (np.abs(limit - told.values) < 5 * stderr + 1e-3).all()
    # A linear model's kernel does not depend on its weights.
    np.testing.assert_allclose(off[..., 0], 0.0, atol=1e-4)


def test_the_figure_shows_what_the_dataset_holds(ds):
    figure = plots.kernel_condition_figure(ds)
    ntk, nngp = figure.axes
    assert ntk.get_xscale() == ntk.get_yscale() == "log"
    drawn = [np.asarray(line.get_ydata()) for line in nngp.lines]
    expected = ds["nngp_condition_theory"].isel(activation=0, bias_var=0).values
    np.testing.assert_allclose(drawn, expected)
    legend = nngp.get_legend()
    assert legend is not None
    assert [t.get_text().split(", ")[1] for t in legend.get_texts()] == [
        "ordered", "critical", "chaotic"
    ]  # fmt: skip


def test_figures_of_what_is_not_there_are_refused(ds):
    with pytest.raises(ValueError, match="kernel must be one of nngp, ntk, got 'rbf'"):
        plots.kernel_condition(ds, kernel="rbf")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 1}, "depth must be an integer >= 2, got 1"),
        ({"measured_depth": 30}, "measured_depth must be <= depth = 20, got 30"),
        ({"outputs": 300}, "outputs must be <= width = 256, got 300"),
        ({"input_correlation": 1.0}, "input_correlation must be >= 0 and < 1, got 1.0"),
    ],
)
def test_mistakes(change, message):
    with pytest.raises(ValueError, match=message):
        KernelCondition(**(STUDY.config() | change))
