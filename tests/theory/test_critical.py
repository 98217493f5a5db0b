"""Where χ₁ = 1: critical points and lines, against reference values and their equations."""

import json
import pathlib

import numpy as np
import pytest

from sigprop import theory
from tests.reference import independent

REFERENCE = pathlib.Path(__file__).parents[1] / "reference"
TANH = json.loads((REFERENCE / "critical_points.json").read_text())["tanh"]
NAMES = sorted(independent.TABLE)
CLOSE = {"rtol": 1e-10, "atol": 0.0}


@pytest.mark.parametrize("exact", TANH, ids=lambda row: f"sigma_b {row['sigma_b']}")
def test_tanh_against_high_precision(exact):
    bias_var = float(exact["sigma_b"]) ** 2
    found = theory.critical_weight_var("tanh", bias_var=bias_var)
    np.testing.assert_allclose(found.weight_var, float(exact["sigma_w"]) ** 2, **CLOSE)
    np.testing.assert_allclose(found.variance, float(exact["q"]), rtol=1e-10, atol=1e-12)
    if exact["chi_q"] is not None:
        np.testing.assert_allclose(found.chi_q, float(exact["chi_q"]), **CLOSE)


@pytest.mark.parametrize("bias_var", [0.01, 0.09, 1.0])
@pytest.mark.parametrize("name", NAMES)
def test_critical_points_solve_their_equations(name, bias_var):
    """χ₁ = 1 and q = V(q), by a second quadrature; stable where χ_q < 1."""
    found = theory.critical_points(name, bias_var=bias_var)
    for point in found:
        q, w = float(point.variance), float(point.weight_var)
        if not np.isfinite(q):  # relu: critical at 2 with any bias, the variance grows for ever
            np.testing.assert_allclose(point.chi_q, 1.0, rtol=1e-10)
            continue
        np.testing.assert_allclose(independent.chi_1(name, q, w), 1.0, rtol=1e-10)
        # bias_var = q - σ_w² E[φ²] is a difference: rounding counts in units of q.
        np.testing.assert_allclose(independent.variance_map(name, q, w, bias_var), q, rtol=1e-10)
        np.testing.assert_allclose(point.chi_q, independent.chi_q(name, q, w), rtol=1e-8)
        assert bool(point.stable) == (float(point.chi_q) < 1)
    weights = [float(point.weight_var) for point in found]
    assert weights == sorted(weights)


@pytest.mark.parametrize("name", ["tanh", "erf", "hard_tanh", "softsign", "elu", "selu"])
def test_every_crossing_of_the_attractor_is_a_critical_point(name):
    """Scanning χ₁ of the attractor for sign changes finds what `critical_points` lists."""
    bias_var = 0.04
    weight_var = np.linspace(0.3, 4.0, 60)
    found = theory.fixed_point(name, weight_var=weight_var, bias_var=bias_var)
    finite = np.isfinite(found.variance)
    above = found.chi_1[finite] > 1
    crossings = int(np.sum(above[1:] != above[:-1]))
    listed = [
        float(p.weight_var)
        for p in theory.critical_points(name, bias_var=bias_var)
        if p.stable and 0.3 < float(p.weight_var) < 4.0
    ]
    assert len(listed) == crossings
    for w in listed:
        at = weight_var[finite]
        i = np.searchsorted(at, w)
        assert above[i - 1] != above[i]


def test_relu_is_critical_at_two_whatever_the_bias():
    """He et al. 2015."""
    for bias_var in (0.0, 0.05, 2.0):
        found = theory.critical_weight_var("relu", bias_var=bias_var)
        np.testing.assert_allclose(found.weight_var, 2.0, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "weight_var"),
    [
        ("leaky_relu(0.2)", 2 / 1.04),
        ("linear", 1.0),
        ("tanh", 1.0),
        ("sin", 1.0),
        ("softsign", 1.0),
    ],
)
def test_without_bias_the_tangent_at_zero_decides(name, weight_var):
    found = theory.critical_weight_var(name, bias_var=0.0)
    np.testing.assert_allclose(found.weight_var, weight_var, rtol=1e-10)


def test_erf_without_bias():
    np.testing.assert_allclose(
        theory.critical_weight_var("erf", bias_var=0.0).weight_var, np.pi / 4, rtol=1e-10
    )


@pytest.mark.parametrize(("name", "sigma_b"), [("gelu", 0.1), ("mish", 0.1), ("silu", 0.3)])
def test_no_network_sits_on_an_unstable_critical_point(name, sigma_b):
    """At small bias χ₁ = 1 where χ_q > 1: the answer says so instead of naming an attractor."""
    found = theory.critical_weight_var(name, bias_var=sigma_b**2)
    points = theory.critical_points(name, bias_var=sigma_b**2)
    assert points
    assert not any(p.stable for p in points)
    np.testing.assert_allclose(found.weight_var, points[0].weight_var, rtol=1e-12)
    assert float(found.chi_q) > 1
    assert found.status.name == "UNSTABLE"


def test_sigmoid_is_critical_only_far_out():
    """σ_w = 10.149, q = 45.6 without bias; nothing near the usual initialisations."""
    points = theory.critical_points("sigmoid", bias_var=0.0)
    assert len(points) >= 1
    np.testing.assert_allclose(np.sqrt(points[0].weight_var), 10.149, atol=5e-4)
    np.testing.assert_allclose(points[0].variance, 45.6, atol=0.05)


def test_no_critical_point_is_nan_with_a_status():
    """φ(x) = 0: no weights make it carry a gradient."""
    found = theory.critical_weight_var(lambda x: 0.0 * x, bias_var=0.1)
    assert np.isnan(found.weight_var)
    assert found.status.name == "NONE"
    assert theory.critical_points(lambda x: 0.0 * x, bias_var=0.1) == ()


def test_a_line_is_the_points_along_it():
    bias_var = np.asarray([0.0, 0.05, 0.4])
    line = theory.critical_weight_var("tanh", bias_var=bias_var)
    expected = [float(theory.critical_weight_var("tanh", bias_var=b).weight_var) for b in bias_var]
    np.testing.assert_allclose(line.weight_var, expected, rtol=1e-9)
    assert np.all(np.diff(line.weight_var) > 0)
