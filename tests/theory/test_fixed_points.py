"""Fixed points and phases: against high-precision values, and as solutions of their equations."""

import json
import pathlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigprop import theory
from sigprop.theory import CorrelationStatus, Phase, VarianceStatus
from tests.reference import independent

REFERENCE = pathlib.Path(__file__).parents[1] / "reference"
POINTS = json.loads((REFERENCE / "fixed_points.json").read_text())
CLOSE = {"rtol": 1e-10, "atol": 0.0}
CASES = [(name, point) for name, points in POINTS.items() for point in points]


def _variances(point):
    """σ² from the decimal σ of the reference; relu's √2 is meant exactly."""
    weight_var = float(point["sigma_w"]) ** 2
    exactly_two = abs(weight_var - 2) < 1e-15
    return {
        "weight_var": 2.0 if exactly_two else weight_var,
        "bias_var": float(point["sigma_b"]) ** 2,
    }


def _case_id(case):
    return f"{case['sigma_w'][:6]}, {case['sigma_b']}" if isinstance(case, dict) else case


SOUND = [
    (n, p) for n, p in CASES if any(f["stable"] and float(f["q"]) > 0 for f in p["fixed_points"])
]


@pytest.mark.parametrize(("name", "point"), SOUND, ids=_case_id)
def test_attractor_against_high_precision(name, point):
    (exact,) = [f for f in point["fixed_points"] if f["stable"]]
    found = theory.fixed_point(name, **_variances(point))
    np.testing.assert_allclose(found.variance, float(exact["q"]), **CLOSE)
    np.testing.assert_allclose(found.chi_1, float(exact["chi_1"]), **CLOSE)
    np.testing.assert_allclose(found.chi_q, float(exact["chi_q"]), **CLOSE)
    np.testing.assert_allclose(found.chi_c, float(exact["chi_c_star"]), **CLOSE)
    np.testing.assert_allclose(found.correlation, float(exact["c_star"]), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.depth_scale_variance, float(exact["xi_q"]), **CLOSE)
    np.testing.assert_allclose(found.depth_scale_correlation, float(exact["xi_c"]), **CLOSE)
    np.testing.assert_allclose(
        found.depth_scale_gradient, -1 / np.log(float(exact["chi_1"])), **CLOSE
    )
    assert Phase(int(found.phase)).name.lower() == exact["phase"]
    assert VarianceStatus(int(found.variance_status)) is VarianceStatus.FINITE
    assert CorrelationStatus(int(found.correlation_status)) is CorrelationStatus.CONVERGED


ISOLATED = [(n, p) for n, p in CASES if not p["all_q_fixed"]]


@pytest.mark.parametrize(("name", "point"), ISOLATED, ids=_case_id)
def test_every_fixed_point_against_high_precision(name, point):
    found = theory.fixed_points(name, **_variances(point))
    exact = point["fixed_points"]
    assert len(found) == len(exact)
    for record, expected in zip(found, exact):
        np.testing.assert_allclose(record.variance, float(expected["q"]), rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(record.chi_1, float(expected["chi_1"]), **CLOSE)
        np.testing.assert_allclose(record.chi_q, float(expected["chi_q"]), **CLOSE)


# Points without high-precision values, through every phase: (weight_var, bias_var).
GRID = [(0.5, 0.3), (1.2, 0.05), (2.0, 0.5), (3.5, 0.01), (9.0, 1.0)]
NAMES = sorted(independent.TABLE)


@pytest.mark.every_run(*independent.EVERY_RUN)
@pytest.mark.parametrize("name", NAMES)
def test_attractor_solves_its_equations(name):
    """By a second quadrature: q = V(q), and the slopes there; the same call for all cells."""
    weight_var, bias_var = np.asarray(GRID).T
    found = theory.fixed_point(name, weight_var=weight_var, bias_var=bias_var)
    for i, (w, b) in enumerate(GRID):
        if VarianceStatus(int(found.variance_status[i])) is not VarianceStatus.FINITE:
            continue
        q = float(found.variance[i])
        slope = independent.chi_q(name, q, w)
        residual = independent.variance_map(name, q, w, b) - q
        # An error δ of the root leaves a residual (1 - χ_q) δ.
        assert abs(residual) <= 1e-10 * q * max(abs(1 - slope), 1e-3), (w, b)
        np.testing.assert_allclose(found.chi_q[i], slope, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(found.chi_1[i], independent.chi_1(name, q, w), rtol=1e-9)
        assert slope <= 1 + 1e-9, f"an attractor repels at {(w, b)}"


def _iterated(name, variance0, weight_var, bias_var, layers):
    q = variance0
    for _ in range(layers):
        q = independent.variance_map(name, q, weight_var, bias_var)
    return q


@pytest.mark.parametrize("name", ["tanh", "gelu", "silu", "selu", "softplus", "sigmoid", "sin"])
@pytest.mark.parametrize("variance0", [0.1, 1.0, 60.0])
def test_attractor_is_where_iteration_goes(name, variance0):
    at = {"weight_var": 0.9, "bias_var": 0.2}
    found = theory.fixed_point(name, variance0=variance0, **at)
    np.testing.assert_allclose(
        found.variance, _iterated(name, variance0, layers=400, **at), rtol=1e-9
    )


@pytest.mark.every_run(*independent.EVERY_RUN)
@pytest.mark.parametrize("name", NAMES)
def test_correlation_solves_its_equation(name):
    """σ_w² E[(φ(u) - φ(v))²]/2 = q (1 - c*), without cancellation, where c* < 1."""
    weight_var, bias_var = np.asarray([(2.6, 0.3), (4.5, 0.05)]).T
    found = theory.fixed_point(name, weight_var=weight_var, bias_var=bias_var)
    np.testing.assert_allclose(found.one_minus_correlation, 1 - found.correlation, atol=1e-15)
    for i, w in enumerate(weight_var):
        gap, q = float(found.one_minus_correlation[i]), float(found.variance[i])
        finite = VarianceStatus(int(found.variance_status[i])) is VarianceStatus.FINITE
        if not finite:
            continue
        if found.chi_1[i] <= 1:
            assert gap == 0
            np.testing.assert_allclose(found.chi_c[i], found.chi_1[i], rtol=1e-12)
            continue
        _, slope, lost = independent.pair_moments(name, q, gap)
        chi_c, residual = w * slope, w * lost - q * gap
        assert abs(residual) <= 1e-10 * q * gap * max(1 - chi_c, 1e-3)
        np.testing.assert_allclose(found.chi_c[i], chi_c, rtol=1e-8, atol=1e-10)
        assert chi_c < 1


def test_a_weakly_chaotic_cell_keeps_the_digits_of_one_minus_c():
    """Just above criticality 1 - c* is small: its relative digits are the ones that matter."""
    line = theory.critical_weight_var("tanh", bias_var=0.05)
    for excess in (1e-2, 1e-4, 1e-6):
        weight_var = float(line.weight_var) * (1 + excess)
        found = theory.fixed_point("tanh", weight_var=weight_var, bias_var=0.05)
        gap, q = float(found.one_minus_correlation), float(found.variance)
        assert 0 < gap < 10 * excess
        ratio = weight_var * independent.pair_moments("tanh", q, gap)[2] / (q * gap)
        # ratio - 1 = (1 - χ_c)(error of gap)/gap + ..., with 1 - χ_c ~ excess
        np.testing.assert_allclose(ratio, 1.0, atol=1e-7 * excess + 1e-14)


@given(
    name=st.sampled_from(["tanh", "erf", "relu", "gelu", "hard_tanh", "elu", "sigmoid"]),
    weight_var=st.floats(0.1, 5.0),
    bias_var=st.floats(0.01, 2.0),
    variance0=st.floats(0.01, 100.0),
)
def test_a_fixed_point_is_fixed(name, weight_var, bias_var, variance0):
    at = {"weight_var": weight_var, "bias_var": bias_var}
    found = theory.fixed_point(name, variance0=variance0, **at)
    if int(found.variance_status) != VarianceStatus.FINITE:
        return
    q = float(found.variance)
    np.testing.assert_allclose(theory.variance_map(name, q, **at), q, rtol=1e-10)
    np.testing.assert_allclose(theory.chi(name, q, weight_var=weight_var), found.chi_1, rtol=1e-10)
    mapped = theory.correlation_map(name, float(found.correlation), variance=q, **at)
    np.testing.assert_allclose(mapped, found.correlation, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["tanh", "relu", "gelu", "hard_tanh"])
def test_the_record_of_fixed_points_and_of_the_attractor_agree(name):
    at = {"weight_var": 1.9, "bias_var": 0.1}
    attractor = theory.fixed_point(name, variance0=1.0, **at)
    near = [
        f
        for f in theory.fixed_points(name, **at)
        if np.isclose(float(f.variance), float(attractor.variance), rtol=1e-9)
    ]
    assert len(near) == 1
    np.testing.assert_allclose(near[0].chi_1, attractor.chi_1, rtol=1e-9)
    np.testing.assert_allclose(near[0].correlation, attractor.correlation, rtol=1e-8, atol=1e-10)


def test_a_grid_of_cells_is_the_loop_over_cells():
    weight_var = np.linspace(0.5, 4.0, 4)[:, None]
    bias_var = np.asarray([0.0, 0.1, 0.8])
    grid = theory.fixed_point("tanh", weight_var=weight_var, bias_var=bias_var)
    assert grid.variance.shape == grid.phase.shape == (4, 3)
    for i in range(4):
        for j in range(3):
            one = theory.fixed_point("tanh", weight_var=weight_var[i, 0], bias_var=bias_var[j])
            for field in ("variance", "correlation", "chi_1", "chi_q", "chi_c"):
                np.testing.assert_allclose(
                    getattr(grid, field)[i, j], getattr(one, field), rtol=1e-11, atol=1e-13
                )
            assert grid.phase[i, j] == one.phase


def test_depth_scales():
    found = theory.fixed_point("tanh", weight_var=np.asarray([0.8, 2.5]), bias_var=0.1)
    np.testing.assert_allclose(found.depth_scale_variance, -1 / np.log(found.chi_q), rtol=1e-14)
    np.testing.assert_allclose(found.depth_scale_correlation, -1 / np.log(found.chi_c), rtol=1e-14)
    np.testing.assert_allclose(found.depth_scale_gradient, -1 / np.log(found.chi_1), rtol=1e-14)
    assert found.depth_scale_gradient[0] > 0 > found.depth_scale_gradient[1]
