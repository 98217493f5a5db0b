"""Trajectories of blocks against their definitions, written out layer by layer in NumPy.

Gaussian expectations come from tests/reference/independent.py (mpmath and panels of its own), so
nothing but the activation's name is shared with the library.
"""

import math

import numpy as np
import pytest

from sigprop import theory
from sigprop.architecture import Architecture
from tests.reference import independent

DEPTH, WEIGHT_VAR, BIAS_VAR, ALPHA, DROPOUT = 5, 1.7, 0.2, 0.6, 0.25
START, COSINE = 2.3, 0.35


def by_definition(name, block, norm, masks):
    """q, c and χ of layers 1..DEPTH, from second moments and covariances of the stream."""
    before, after = norm in ("layer_norm", "rms_norm"), str(norm).startswith("post")
    keep, skip = 1 - DROPOUT, float(block == "residual")
    gain = WEIGHT_VAR * (ALPHA**2 if skip else 1.0)
    q, covariance, found = START, COSINE * START, []
    for _ in range(DEPTH):
        seen = 1.0 if before else q
        square = independent.variance_map(name, seen, 1.0, 0.0)
        slope = independent.chi_1(name, seen, 1.0)
        product, _, _ = independent.pair_moments(name, seen, 1 - covariance / q)
        chi = skip + gain * slope / keep / (q if before else 1.0)
        new_q = skip * q + gain * square / keep + BIAS_VAR
        both = product / keep if masks == "shared" else product
        new_covariance = skip * covariance + gain * both + BIAS_VAR
        if after:
            chi, new_covariance, new_q = chi / new_q, new_covariance / new_q, 1.0
        found.append((q, covariance / q, chi))
        q, covariance = new_q, new_covariance
    return np.asarray(found).T


CASES = [
    ("tanh", "plain", None, "independent"),
    ("erf", "plain", None, "shared"),
    ("gelu", "residual", None, "independent"),
    ("tanh", "plain", "rms_norm", "shared"),
    ("gelu", "plain", "post_rms_norm", "independent"),
    ("erf", "residual", "layer_norm", "independent"),
    ("relu", "residual", "rms_norm", "shared"),
    ("tanh", "residual", "post_layer_norm", "independent"),
]


@pytest.mark.every_run(
    "tanh-plain-None-independent",
    "gelu-residual-None-independent",
    "erf-residual-layer_norm-independent",
    "tanh-plain-rms_norm-shared",
)
@pytest.mark.parametrize(("name", "block", "norm", "masks"), CASES)
def test_a_trajectory_is_what_its_definition_gives(name, block, norm, masks):
    scale = {"branch_scale": ALPHA} if block == "residual" else {}
    network = Architecture(
        DEPTH, 8, name, WEIGHT_VAR, BIAS_VAR, block=block, norm=norm, dropout=DROPOUT, **scale
    )
    path = theory.predict(network, variance0=START, correlation0=COSINE, dropout_masks=masks)
    q, c, chi = by_definition(name, block, norm, masks)
    np.testing.assert_allclose(path.variance, q, rtol=1e-11)
    np.testing.assert_allclose(path.correlation, c, rtol=1e-10)
    np.testing.assert_allclose(path.chi, chi, rtol=1e-11)
    backward = [math.log(np.prod(chi[layer:-1])) for layer in range(DEPTH)]
    np.testing.assert_allclose(path.log_gradient, backward, rtol=1e-9, atol=1e-11)
    assert path.status == theory.TheoryStatus.OK


@pytest.mark.parametrize("name", ["relu", "gelu", "softplus"])
def test_batch_norm_of_a_large_batch_by_definition(name):
    """Its inputs become independent standard normals: what two share is E[φ]² and the biases."""
    phi = independent.TABLE[name]
    mean = independent.expectation(phi.fn, 1.0, phi.kinks)
    square = independent.variance_map(name, 1.0, 1.0, 0.0)
    slope = independent.chi_1(name, 1.0, 1.0)
    keep = 1 - DROPOUT
    network = Architecture(4, 8, name, WEIGHT_VAR, BIAS_VAR, norm="batch_norm", dropout=DROPOUT)
    path = theory.predict(network, variance0=START, correlation0=COSINE)
    variance = WEIGHT_VAR * square / keep + BIAS_VAR
    np.testing.assert_allclose(path.variance[1:], variance, rtol=1e-11)
    shared = WEIGHT_VAR * mean**2 + BIAS_VAR
    np.testing.assert_allclose(path.correlation[1:], shared / variance, rtol=1e-10)
    apart = np.asarray([START * (1 - COSINE), *[variance - shared] * 3])
    np.testing.assert_allclose(path.chi, WEIGHT_VAR * slope / keep / apart, rtol=1e-10)
