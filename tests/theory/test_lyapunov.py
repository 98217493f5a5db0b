"""Exponents of an endless network: closed forms, Newman's exact ones, and products of matrices."""

import numpy as np
import pytest
from scipy.special import digamma

from sigprop import jacobian, theory
from sigprop.activations import get

U = np.linspace(0.02, 0.98, 25)


def exponents(activation, ensemble="gaussian", **options):
    options = {"weight_var": 1.7, "variance": 0.8} | options
    return theory.lyapunov_exponents(activation, U, ensemble=ensemble, **options)


def test_linear_in_closed_form():
    np.testing.assert_allclose(exponents("linear"), np.log(1.7 * (1 - U)) / 2, atol=1e-13)
    np.testing.assert_allclose(exponents("linear", "orthogonal"), np.log(1.7) / 2, atol=1e-13)


@pytest.mark.parametrize("ensemble", ["gaussian", "orthogonal"])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "hard_tanh"])
def test_two_slopes_in_closed_form(activation, ensemble):
    """d = a with probability p, else b: E[d/(t + d)] = u is a quadratic in t."""
    low, high, p = {
        "relu": (0.0, 1.0, 0.5),
        "leaky_relu": (1e-4, 1.0, 0.5),
        "hard_tanh": (0.0, 1.0, _mass_within_one(0.8)),
    }[activation]
    # u (t + a)(t + b) = p a (t + b) + (1 - p) b (t + a)
    linear = U * (high + low) - p * high - (1 - p) * low
    constant = U * high * low - high * low
    t = (-linear + np.sqrt(linear**2 - 4 * U * constant)) / (2 * U)
    gain = U * t / (1 - U) * ((1 - U) if ensemble == "gaussian" else 1.0)
    with np.errstate(divide="ignore"):
        expected = np.where(gain > 1e-15, np.log(1.7 * gain) / 2, -np.inf)
    np.testing.assert_allclose(exponents(activation, ensemble), expected, atol=1e-11)


def _mass_within_one(variance):
    from scipy.special import erf

    return float(erf(1 / np.sqrt(2 * variance)))


def test_wide_limit_of_newmans_exact_exponents():
    size = 4000
    i = np.arange(1, size + 1)
    exact = np.log(1.3) + (np.log(2 / size) + digamma((size - i + 1) / 2)) / 2
    found = theory.lyapunov_exponents("linear", (i - 0.5) / size, weight_var=1.69, variance=1.0)
    np.testing.assert_allclose(found[: size // 2], exact[: size // 2], atol=1e-3)


@pytest.mark.parametrize("ensemble", ["gaussian", "orthogonal"])
def test_products_of_random_layers(ensemble):
    """500 layers of width 60: exponents within 4 standard errors and what the ends of it bring."""
    size, depth, variance = 60, 500, 1.2
    rng = np.random.default_rng(0)
    slopes = np.asarray(get("tanh").derivative(np.sqrt(variance) * rng.normal(size=(depth, size))))
    weights = rng.normal(size=(depth, size, size)) / np.sqrt(size)
    if ensemble == "orthogonal":
        weights = np.linalg.qr(weights)[0]
    found = jacobian.lyapunov_exponents(slopes[..., None].astype(float) * weights)
    fraction = (np.arange(size) + 0.5) / size
    told = theory.lyapunov_exponents(
        "tanh", fraction, weight_var=1.0, variance=variance, ensemble=ensemble
    )
    middle = slice(0, 3 * size // 4)  # the lowest feel the edge of the spectrum at this width
    np.testing.assert_allclose(found[middle], told[middle], atol=0.03)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_var": 0.0}, "weight_var must be a finite scalar > 0, got 0.0"),
        ({"variance": -1.0}, "variance must be a finite scalar > 0, got -1.0"),
        ({"ensemble": "haar"}, "ensemble must be one of 'gaussian', 'orthogonal', got 'haar'"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        exponents("tanh", **options)


def test_fraction_out_of_range():
    with pytest.raises(ValueError, match="fraction must lie strictly between 0 and 1"):
        theory.lyapunov_exponents("tanh", [0.0, 0.5], weight_var=1.0, variance=1.0)
