"""The maps from one layer to the next: against high-precision values and a second quadrature."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigprop import activations, theory
from tests.reference import independent

REFERENCE = pathlib.Path(__file__).parents[1] / "reference"
MOMENTS = json.loads((REFERENCE / "moments.json").read_text())
NAMES = sorted(independent.TABLE)
POINTS = [(name, q) for name in MOMENTS for q in MOMENTS[name]]
PAIRS = [(*point, c) for point in POINTS for c in MOMENTS[point[0]][point[1]]["pairs"]]
CLOSE = {"rtol": 1e-10, "atol": 0.0}
TIGHT = {"rtol": 1e-12, "atol": 1e-15}


@pytest.mark.parametrize(("name", "q"), POINTS)
def test_one_input_against_high_precision(name, q):
    exact = {key: float(x) for key, x in MOMENTS[name][q].items() if key != "pairs"}
    variance = theory.variance_map(name, float(q), weight_var=1.7, bias_var=0.3)
    np.testing.assert_allclose(variance, 1.7 * exact["E_phi2"] + 0.3, **TIGHT)
    chi = theory.chi(name, float(q), weight_var=1.7)
    np.testing.assert_allclose(chi, 1.7 * exact["E_dphi2"], **TIGHT)
    slope = theory.variance_slope(name, float(q), weight_var=1.7)
    np.testing.assert_allclose(slope, 1.7 * exact["dV_dq"], **TIGHT)


@pytest.mark.parametrize(("name", "q", "c"), PAIRS)
def test_two_inputs_against_high_precision(name, q, c):
    exact = {key: float(x) for key, x in MOMENTS[name][q]["pairs"][c].items()}
    weight_var, bias_var = 1.7, 0.3
    mapped = theory.correlation_map(
        name, float(c), variance=float(q), weight_var=weight_var, bias_var=bias_var
    )
    after = weight_var * float(MOMENTS[name][q]["E_phi2"]) + bias_var
    np.testing.assert_allclose(
        mapped, (weight_var * exact["E_phi_phi"] + bias_var) / after, **TIGHT
    )
    chi = theory.chi(name, float(q), weight_var=weight_var, correlation=float(c))
    np.testing.assert_allclose(chi, weight_var * exact["E_dphi_dphi"], **TIGHT)


@pytest.mark.parametrize("variance", [1e-3, 0.04, 1.0, 30.0, 1e3])
@pytest.mark.parametrize("name", NAMES)
def test_one_input_against_adaptive_quadrature(name, variance):
    expected = [
        independent.variance_map(name, variance, 1.3, 0.0),
        independent.chi_1(name, variance, 1.3),
        independent.chi_q(name, variance, 1.3),
    ]
    computed = [
        theory.variance_map(name, variance, weight_var=1.3, bias_var=0.0),
        theory.chi(name, variance, weight_var=1.3),
        theory.variance_slope(name, variance, weight_var=1.3),
    ]
    np.testing.assert_allclose(computed[:2], expected[:2], **CLOSE)
    # The slope may be the small difference of large parts (gelu at small variance).
    np.testing.assert_allclose(computed[2], expected[2], rtol=1e-10, atol=1e-13)


def _sin_at_large_variance(variance, c):
    # e^{-q} sinh(qc) and e^{-q} cosh(qc): waves too short for the grid of the second quadrature.
    near, far = np.exp(-variance * (1 - c)), np.exp(-variance * (1 + c))
    return (near - far) / 2, (near + far) / 2


def _pair(name, variance, c):
    """E[φ(u) φ(v)] and E[φ'(u) φ'(v)]."""
    if name == "sin" and variance > 100:
        return _sin_at_large_variance(variance, c)
    return independent.pair_moments(name, variance, 1 - c)[:2]


@pytest.mark.parametrize(("variance", "c"), [(1e-3, 0.4), (1.0, -0.7), (8.0, 0.97), (1e3, 0.4)])
@pytest.mark.parametrize("name", NAMES)
def test_two_inputs_against_a_second_quadrature(name, variance, c):
    value, slope = _pair(name, variance, c)
    after = independent.variance_map(name, variance, 1.3, 0.02)
    mapped = theory.correlation_map(name, c, variance=variance, weight_var=1.3, bias_var=0.02)
    np.testing.assert_allclose(mapped, (1.3 * value + 0.02) / after, rtol=1e-10, atol=1e-13)
    chi = theory.chi(name, variance, weight_var=1.3, correlation=c)
    np.testing.assert_allclose(chi, 1.3 * slope, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_correlation_map_by_the_hermite_series(name):
    """Mehler: E[φ(u)φ(v)] = Σ a_k² c^k, which shares nothing with a quadrature over the plane."""
    phi, variance, c = independent.TABLE[name], 2.3, 0.6
    value = independent.pair_expectation(phi.fn, variance, c, phi.kinks)
    after = independent.variance_map(name, variance, 1.0, 0.1)
    mapped = theory.correlation_map(name, c, variance=variance, weight_var=1.0, bias_var=0.1)
    np.testing.assert_allclose(mapped, (value + 0.1) / after, **CLOSE)


@given(
    name=st.sampled_from(NAMES),
    variance=st.floats(0.01, 50.0),
    weight_var=st.floats(0.05, 6.0),
    bias_var=st.floats(0.0, 2.0),
    c=st.floats(-1.0, 1.0),
)
def test_correlation_stays_a_correlation(name, variance, weight_var, bias_var, c):
    at = {"variance": variance, "weight_var": weight_var, "bias_var": bias_var}
    mapped = theory.correlation_map(name, c, **at)
    assert -1 - 1e-13 <= mapped <= 1 + 1e-13
    np.testing.assert_allclose(theory.correlation_map(name, 1.0, **at), 1.0, rtol=1e-13)


MONOTONE_AND_ODD = ["tanh", "erf", "hard_tanh", "softsign", "linear"]


@given(
    name=st.sampled_from([*MONOTONE_AND_ODD, "relu", "leaky_relu"]),
    variance=st.floats(1e-3, 1e3),
    factor=st.floats(1.01, 10.0),
    weight_var=st.floats(0.05, 6.0),
)
def test_variance_map_increases(name, variance, factor, weight_var):
    at = {"weight_var": weight_var, "bias_var": 0.1}
    assert theory.variance_map(name, factor * variance, **at) > theory.variance_map(
        name, variance, **at
    )


@given(
    name=st.sampled_from(MONOTONE_AND_ODD), variance=st.floats(1e-2, 50.0), c=st.floats(0.0, 0.99)
)
def test_odd_activations_map_correlations_oddly(name, variance, c):
    at = {"variance": variance, "weight_var": 1.5, "bias_var": 0.0}
    plus, minus = theory.correlation_map(name, c, **at), theory.correlation_map(name, -c, **at)
    np.testing.assert_allclose(minus, -plus, rtol=1e-11, atol=1e-14)


@given(
    name=st.sampled_from(NAMES),
    variance=st.floats(0.02, 20.0),
    c=st.floats(-0.9, 0.9),
    weight_var=st.floats(0.2, 4.0),
)
def test_price_theorem(name, variance, c, weight_var):
    """dE[φ(u)φ(v)]/dc = q E[φ'(u)φ'(v)]: chi is the slope of the map, times q'/q."""
    at = {"variance": variance, "weight_var": weight_var, "bias_var": 0.1}
    step = 1e-3
    values = [theory.correlation_map(name, c + k * step, **at) for k in (-2, -1, 1, 2)]
    slope = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)
    after = theory.variance_map(name, variance, weight_var=weight_var, bias_var=0.1)
    chi = theory.chi(name, variance, weight_var=weight_var, correlation=c)
    np.testing.assert_allclose(slope, chi * variance / after, rtol=1e-6, atol=1e-8)


@given(name=st.sampled_from(NAMES), variance=st.floats(0.02, 20.0))
def test_variance_slope_is_the_slope_of_the_variance_map(name, variance):
    at = {"weight_var": 1.5, "bias_var": 0.1}
    step = 1e-3 * variance
    values = [theory.variance_map(name, variance + k * step, **at) for k in (-2, -1, 1, 2)]
    slope = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)
    computed = theory.variance_slope(name, variance, weight_var=1.5)
    np.testing.assert_allclose(computed, slope, rtol=1e-8, atol=1e-10)


def test_two_inputs_of_unequal_variance():
    """E[relu(u) relu(v)] = √(q_a q_b) (sin θ + (π - θ) cos θ)/2π (Cho and Saul 2009, n = 1)."""
    q_a, q_b, c, weight_var, bias_var = 0.7, 2.9, -0.35, 1.6, 0.2
    angle = np.arccos(c)
    product = np.sqrt(q_a * q_b) * (np.sin(angle) + (np.pi - angle) * c) / (2 * np.pi)
    after = [weight_var * q / 2 + bias_var for q in (q_a, q_b)]
    expected = (weight_var * product + bias_var) / np.sqrt(after[0] * after[1])
    mapped = theory.correlation_map(
        "relu", c, variance=q_a, variance_b=q_b, weight_var=weight_var, bias_var=bias_var
    )
    np.testing.assert_allclose(mapped, expected, **TIGHT)


def test_arguments_broadcast_as_a_loop_would():
    weight_var = np.linspace(0.5, 3.0, 4)[:, None]
    bias_var = np.linspace(0.0, 0.5, 3)
    variance = np.asarray(0.8)
    mapped = theory.variance_map("mish", variance, weight_var=weight_var, bias_var=bias_var)
    assert mapped.shape == (4, 3)
    for i, w in enumerate(weight_var[:, 0]):
        for j, b in enumerate(bias_var):
            one = theory.variance_map("mish", 0.8, weight_var=w, bias_var=b)
            np.testing.assert_allclose(mapped[i, j], one, rtol=1e-15)
    c = np.asarray([-0.5, 0.2, 0.9])
    several = theory.correlation_map("mish", c, variance=0.8, weight_var=2.0, bias_var=bias_var)
    single = [
        theory.correlation_map("mish", x, variance=0.8, weight_var=2.0, bias_var=b)
        for x, b in zip(c, bias_var)
    ]
    np.testing.assert_allclose(several, single, rtol=1e-14)


# ------------------------------------------------------------------- derivatives at c = ±1


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("name", ["tanh", "erf", "gelu"])
def test_derivatives_where_the_correlation_is_one(name, sign, float64):
    """Price: each derivative by c is q times the expectation of one more derivative of both."""
    q, weight_var, fn = 1.3, 1.5, activations.get(name).fn
    z, weights = independent.composite_rule(q, ())

    def product(f):
        a, b = (np.asarray(jax.vmap(f)(jnp.asarray(s * np.sqrt(q) * z))) for s in (1.0, sign))
        return weight_var * (weights @ (a * b))

    def chi(c):
        return theory.chi(name, q, weight_var=weight_var, correlation=c)

    def mapped(c):
        return theory.correlation_map(name, c, variance=q, weight_var=weight_var, bias_var=0.1)

    square = weight_var * (weights @ np.square(fn(np.sqrt(q) * z))) + 0.1
    slope = product(jax.grad(fn))
    bend = q * product(jax.grad(jax.grad(fn)))
    np.testing.assert_allclose(jax.grad(chi)(sign), bend, rtol=1e-9)
    np.testing.assert_allclose(jax.grad(mapped)(sign), q * slope / square, rtol=1e-9)
    np.testing.assert_allclose(jax.hessian(mapped)(sign), q * bend / square, rtol=1e-9)


@pytest.mark.parametrize("name", ["relu", "hard_tanh"])
def test_derivatives_that_a_jumping_slope_does_not_have(name, float64):
    at = {"variance": 1.3, "weight_var": 1.5}
    for c in (1.0, -1.0):
        slope = jax.grad(lambda c: theory.chi(name, correlation=c, **at))(c)
        assert not np.isfinite(slope)
        bend = jax.hessian(lambda c: theory.correlation_map(name, c, bias_var=0.1, **at))(c)
        assert not np.isfinite(bend)
    by_q = jax.grad(lambda q: theory.chi("hard_tanh", q, weight_var=1.0))(1.3)
    exact = -np.exp(-1 / 2.6) / np.sqrt(2 * np.pi) * 1.3**-1.5  # of P(|z| < 1/√q)
    np.testing.assert_allclose(by_q, exact, rtol=1e-9)


@pytest.mark.parametrize("correlation0", [1.0, -1.0, 0.5])
@pytest.mark.parametrize("name", ["relu", "erf"])
def test_trajectories_differentiate_wherever_they_start(name, correlation0, float64):
    def last(weight_var):
        path = theory.propagate(
            name, depth=4, weight_var=weight_var, bias_var=0.1, correlation0=correlation0
        )
        return path.one_minus_correlation[-1]

    step = 1e-4
    slope = (last(1.5 + step) - last(1.5 - step)) / (2 * step)
    np.testing.assert_allclose(jax.grad(last)(1.5), slope, rtol=1e-6, atol=1e-12)
