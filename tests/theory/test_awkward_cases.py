"""Where naive solvers answer wrongly: no fixed point, several, a continuum, or one at zero."""

import numpy as np
import pytest

from sigprop import theory
from sigprop.theory import CorrelationStatus, Phase, VarianceStatus
from tests.reference import independent

NAN, INF = float("nan"), float("inf")
DEPENDS, CONVERGED = CorrelationStatus.DEPENDS_ON_START, CorrelationStatus.CONVERGED

# activation, weight_var, bias_var -> variance status, variance, χ₁, phase, c*, correlation status
CASES = [
    # relu: every q is fixed at (2, 0); with a bias q grows linearly, above 2 exponentially.
    ("relu", 2.0, 0.0, VarianceStatus.CONTINUUM, 1.0, 1.0, Phase.CRITICAL, 1.0, CONVERGED),
    ("relu", 2.0, 0.09, VarianceStatus.UNBOUNDED, INF, 1.0, Phase.CRITICAL, 1.0, CONVERGED),
    ("relu", 2.56, 0.0, VarianceStatus.UNBOUNDED, INF, 1.28, Phase.CHAOTIC, 1.0, CONVERGED),
    ("relu", 2.56, 0.4, VarianceStatus.UNBOUNDED, INF, 1.28, Phase.CHAOTIC, 1.0, CONVERGED),
    ("relu", 1.0, 0.0, VarianceStatus.ZERO, 0.0, 0.5, Phase.ORDERED, 1.0, CONVERGED),
    ("relu", 1.69, 0.0, VarianceStatus.ZERO, 0.0, 0.845, Phase.ORDERED, 1.0, CONVERGED),
    ("leaky_relu(0.2)", 1.0, 0.0, VarianceStatus.ZERO, 0.0, 0.52, Phase.ORDERED, 1.0, CONVERGED),
    (
        "leaky_relu(0.2)",
        3.0,
        0.0,
        VarianceStatus.UNBOUNDED,
        INF,
        1.56,
        Phase.CHAOTIC,
        1.0,
        CONVERGED,
    ),
    # A tangent at zero keeps the angle between two inputs: what is left depends on the start.
    ("tanh", 0.81, 0.0, VarianceStatus.ZERO, 0.0, 0.81, Phase.ORDERED, NAN, DEPENDS),
    ("tanh", 1.0, 0.0, VarianceStatus.ZERO, 0.0, 1.0, Phase.CRITICAL, NAN, DEPENDS),
    ("gelu", 1.0, 0.0, VarianceStatus.ZERO, 0.0, 0.25, Phase.ORDERED, NAN, DEPENDS),
    ("erf", 0.5, 0.0, VarianceStatus.ZERO, 0.0, 2 / np.pi, Phase.ORDERED, NAN, DEPENDS),
    ("linear", 0.5, 0.0, VarianceStatus.ZERO, 0.0, 0.5, Phase.ORDERED, NAN, DEPENDS),
    ("linear", 1.0, 0.0, VarianceStatus.CONTINUUM, 1.0, 1.0, Phase.CRITICAL, NAN, DEPENDS),
    ("linear", 0.5, 0.5, VarianceStatus.FINITE, 1.0, 0.5, Phase.ORDERED, 1.0, CONVERGED),
    # The jump of softsign's curvature at 0 does not turn its tangent.
    ("softsign", 0.9, 0.0, VarianceStatus.ZERO, 0.0, 0.9, Phase.ORDERED, NAN, DEPENDS),
]


def _case_id(value):
    return f"{value:g}" if isinstance(value, float) else getattr(value, "name", str(value))


@pytest.mark.parametrize(
    ("name", "weight_var", "bias_var", "status", "variance", "chi_1", "phase", "c", "c_status"),
    CASES,
    ids=_case_id,
)
def test_what_has_no_ordinary_fixed_point(
    name, weight_var, bias_var, status, variance, chi_1, phase, c, c_status
):
    found = theory.fixed_point(name, weight_var=weight_var, bias_var=bias_var, variance0=1.0)
    assert VarianceStatus(int(found.variance_status)) is status
    np.testing.assert_allclose(found.variance, variance, rtol=1e-10)
    np.testing.assert_allclose(found.chi_1, chi_1, rtol=1e-10)
    assert Phase(int(found.phase)) is phase
    np.testing.assert_allclose(found.correlation, c, rtol=1e-12)
    assert CorrelationStatus(int(found.correlation_status)) is c_status


def test_the_table_in_one_call_gives_the_same_statuses():
    """Cells of different kinds side by side in one array do not disturb each other."""
    rows = [case for case in CASES if case[0] == "relu"]
    found = theory.fixed_point(
        "relu",
        weight_var=np.asarray([r[1] for r in rows]),
        bias_var=np.asarray([r[2] for r in rows]),
    )
    np.testing.assert_array_equal(found.variance_status, [int(r[3]) for r in rows])
    np.testing.assert_array_equal(found.variance, [r[4] for r in rows])
    np.testing.assert_allclose(found.chi_1, [r[5] for r in rows], rtol=1e-12)


def test_a_continuum_keeps_the_start():
    for variance0 in (0.3, 7.0):
        found = theory.fixed_point("relu", weight_var=2.0, bias_var=0.0, variance0=variance0)
        np.testing.assert_allclose(found.variance, variance0, rtol=1e-14)
        np.testing.assert_allclose(found.chi_q, 1.0, rtol=1e-14)
        assert np.isinf(found.depth_scale_variance)
        assert np.isinf(found.depth_scale_gradient)


BISTABLE = {"weight_var": 1.414**2, "bias_var": 0.333**2}


def test_bistable_gelu_has_two_attractors_and_a_watershed():
    low, middle, high = theory.fixed_points("gelu", **BISTABLE)
    assert [round(float(f.variance), 2) for f in (low, middle)] == [0.41, 9.21]
    assert round(float(high.variance)) == 295
    assert float(low.chi_q) < 1 < float(middle.chi_q)
    assert float(high.chi_q) < 1
    assert float(low.chi_1) < 1 < float(high.chi_1)
    for record in (low, middle, high):
        q = float(record.variance)
        residual = independent.variance_map("gelu", q, **BISTABLE) / q - 1
        assert abs(residual) < 1e-12


@pytest.mark.parametrize(
    ("variance0", "place"),
    [(0.001, 0), (0.4, 0), (1.0, 0), (9.2, 0), (9.22, 2), (40.0, 2), (295.0, 2), (1e4, 2)],
)
def test_bistable_gelu_flows_to_the_side_it_started_on(variance0, place):
    found = theory.fixed_point("gelu", variance0=variance0, **BISTABLE)
    expected = theory.fixed_points("gelu", **BISTABLE)[place]
    np.testing.assert_allclose(found.variance, expected.variance, rtol=1e-10)
    assert Phase(int(found.phase)) is (Phase.ORDERED if place == 0 else Phase.CHAOTIC)


def test_bistable_starts_side_by_side():
    starts = np.asarray([1.0, 9.2, 9.22, 1e4])
    found = theory.fixed_point("gelu", variance0=starts, **BISTABLE)
    low, _, high = (float(f.variance) for f in theory.fixed_points("gelu", **BISTABLE))
    np.testing.assert_allclose(found.variance, [low, low, high, high], rtol=1e-10)


def test_selu_is_chaotic_without_bias():
    """SELU at (1, 0): q* = 1 by construction (Klambauer et al. 2017) and inputs decorrelate."""
    found = theory.fixed_point("selu", weight_var=1.0, bias_var=0.0)
    np.testing.assert_allclose(found.variance, 1.0, rtol=1e-10)
    np.testing.assert_allclose(found.correlation, 0.0, atol=1e-10)
    assert float(found.chi_1) > 1
    assert Phase(int(found.phase)) is Phase.CHAOTIC


@pytest.mark.parametrize("variance0", [1e-6, 1.0, 1e6])
def test_the_start_does_not_matter_where_there_is_one_attractor(variance0):
    found = theory.fixed_point("tanh", weight_var=2.25, bias_var=0.0025, variance0=variance0)
    np.testing.assert_allclose(found.variance, 0.798387114308096022, rtol=1e-10)


def test_gelu_without_bias_above_its_threshold_leaves_zero_only_if_pushed():
    """χ = σ_w²/4 at 0 and σ_w²/2 far out: between 2 and 4 a network's own start decides."""
    found = theory.fixed_points("gelu", weight_var=3.0, bias_var=0.0)
    assert float(found[0].variance) == 0.0
    np.testing.assert_allclose(found[0].chi_1, 0.75, rtol=1e-12)
    up = theory.fixed_point("gelu", weight_var=3.0, bias_var=0.0, variance0=1e3)
    down = theory.fixed_point("gelu", weight_var=3.0, bias_var=0.0, variance0=1e-3)
    assert VarianceStatus(int(up.variance_status)) is VarianceStatus.UNBOUNDED
    np.testing.assert_allclose(up.chi_1, 1.5, rtol=1e-10)  # σ_w² (0² + 1²)/2 far out
    assert VarianceStatus(int(down.variance_status)) is VarianceStatus.ZERO


@pytest.mark.parametrize("offset", [-1e-8, -1e-6, 1e-6, 1e-4])
def test_near_critical_tanh_without_bias(offset):
    """q* of tanh near (1, 0): χ_q -> 1, iteration would need 1/offset layers."""
    weight_var = 1.0 + offset
    found = theory.fixed_point("tanh", weight_var=weight_var, bias_var=0.0)
    if offset < 0:
        assert VarianceStatus(int(found.variance_status)) is VarianceStatus.ZERO
        np.testing.assert_allclose(found.chi_1, weight_var, rtol=1e-12)
        return
    # tanh² = x² - 2x⁴/3 + 17x⁶/45 - ...: 1 = σ_w²(1 - 2q + 17q²/3 - ...)
    q = float(found.variance)
    assert abs(q - offset / 2) < 5 * offset**2
    residual = independent.variance_map("tanh", q, weight_var, 0.0) / q - 1
    slope = independent.chi_q("tanh", q, weight_var)
    assert abs(residual) <= max(1e-10 * (1 - slope), 1e-14)
    assert abs(found.condition - 1 / (1 - slope)) < 0.05 * found.condition


@pytest.mark.parametrize("offset", [-1e-3, 1e-3])
def test_near_critical_cells_get_their_phase(offset):
    line = theory.critical_weight_var("tanh", bias_var=0.1)
    found = theory.fixed_point("tanh", weight_var=float(line.weight_var) + offset, bias_var=0.1)
    assert Phase(int(found.phase)) is (Phase.ORDERED if offset < 0 else Phase.CHAOTIC)
    on = theory.fixed_point("tanh", weight_var=float(line.weight_var), bias_var=0.1)
    assert Phase(int(on.phase)) is Phase.CRITICAL


def test_a_dead_network():
    """weight_var = 0: the bias is all there is."""
    found = theory.fixed_point("tanh", weight_var=0.0, bias_var=0.4)
    np.testing.assert_allclose(found.variance, 0.4, rtol=1e-14)
    assert float(found.chi_1) == 0.0
    assert Phase(int(found.phase)) is Phase.ORDERED
    np.testing.assert_allclose(found.correlation, 1.0)


def test_a_function_not_in_the_table():
    """A quadratic φ: E[φ²] = 3q², one unstable fixed point q = 1/(3σ_w²) and 0."""
    found = theory.fixed_points(lambda x: x * x, weight_var=0.5, bias_var=0.0)
    np.testing.assert_allclose([float(f.variance) for f in found], [0.0, 2 / 3], atol=1e-12)
    np.testing.assert_allclose(found[1].chi_q, 2.0, rtol=1e-10)
    small = theory.fixed_point(lambda x: x * x, weight_var=0.5, bias_var=0.0, variance0=0.5)
    large = theory.fixed_point(lambda x: x * x, weight_var=0.5, bias_var=0.0, variance0=0.9)
    assert VarianceStatus(int(small.variance_status)) is VarianceStatus.ZERO
    assert VarianceStatus(int(large.variance_status)) is VarianceStatus.UNBOUNDED
