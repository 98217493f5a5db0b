"""NNGP and NTK against references, explicit expectations and their limits at depth."""

import json
import pathlib

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from sigprop import gaussian, theory

REFERENCE = json.loads(
    (pathlib.Path(__file__).parents[1] / "reference" / "kernels.json").read_text()
)
RNG = np.random.default_rng(0)
X = RNG.standard_normal((4, 5))


@pytest.mark.parametrize("case", REFERENCE["cases"], ids=lambda c: c["activation"])
def test_values_to_25_digits(case):
    x = np.asarray([REFERENCE["x1"], REFERENCE["x2"]], float)
    for row in case["depths"]:
        found = theory.kernels(
            case["activation"],
            x,
            depth=int(row["depth"]),
            weight_var=float(case["sigma_w2"]),
            bias_var=float(case["sigma_b2"]),
        )
        for name in ("nngp", "ntk"):
            known = [[row[name]["11"], row[name]["12"]], [row[name]["12"], row[name]["22"]]]
            np.testing.assert_allclose(getattr(found, name), np.asarray(known, float), rtol=1e-12)


@pytest.mark.parametrize("activation", ["tanh", "gelu", "hard_tanh", "relu", "softplus"])
@pytest.mark.parametrize("block", ["plain", "residual"])
def test_one_step_by_two_dimensional_expectations(activation, block):
    weight_var, bias_var, scale = 1.4, 0.2, 0.7 if block == "residual" else 1.0
    first = weight_var * X @ X.T / X.shape[1] + bias_var
    found = theory.kernels(
        activation,
        X,
        depth=2,
        weight_var=weight_var,
        bias_var=bias_var,
        block=block,
        branch_scale=scale,
    )
    derivative = theory_derivative(activation)
    for a in range(2):
        for b in range(a + 1, 4):
            q_a, q_b = first[a, a], first[b, b]
            at = {
                "correlation": first[a, b] / np.sqrt(q_a * q_b),
                "variance_f": q_a,
                "variance_g": q_b,
            }
            gain = scale**2 * weight_var
            added = gain * gaussian.expectation_pair(activation, activation, **at) + bias_var
            passed = gain * gaussian.expectation_pair(derivative, derivative, **at)
            skip = float(block == "residual")
            np.testing.assert_allclose(
                found.nngp[a, b], skip * first[a, b] + added, rtol=1e-10, atol=1e-12
            )
            np.testing.assert_allclose(
                found.ntk[a, b], (skip + passed) * first[a, b] + added, rtol=1e-10, atol=1e-12
            )


def theory_derivative(activation):
    from sigprop import activations

    kind = activations.get(activation)
    return activations.Activation(kind.derivative, name="derivative", kinks=kind.kinks)


def test_the_diagonal_is_the_variance_trajectory_and_its_chi():
    depth, at = 6, {"weight_var": 1.7, "bias_var": 0.1}
    found = theory.kernels("gelu", X[0], depth=depth, **at)
    start = theory.input_variance(np.mean(X[0] ** 2), **at)
    path = theory.propagate("gelu", depth=depth, variance0=start, **at)
    ntk = path.variance[0]
    for layer in range(1, depth):
        ntk = path.variance[layer] + path.chi[layer - 1] * ntk
    np.testing.assert_allclose(found.nngp.item(), path.variance[-1], rtol=1e-12)
    np.testing.assert_allclose(found.ntk.item(), ntk, rtol=1e-12)


@pytest.mark.parametrize("activation", ["relu", "tanh", "hard_tanh"])
def test_inputs_that_nearly_coincide(activation):
    """K_aa + K_bb - 2 K_ab is positive and of the size of the square distance, not rounding."""
    near = np.stack([X[0], X[0] + 1e-9 * X[1]])
    near *= np.sqrt(5) / np.linalg.norm(near, axis=1, keepdims=True)
    found = theory.kernels(activation, near, depth=20, weight_var=1.5, bias_var=0.0)
    np.testing.assert_allclose(found.ntk[0, 1] / found.ntk[0, 0], 1.0, atol=1e-7)
    same = theory.kernels(activation, X[:1], X[[0, 0]], depth=20, weight_var=1.5, bias_var=0.0)
    np.testing.assert_array_equal(same.ntk[0, 0], same.ntk[0, 1])


def test_opposite_and_zero_inputs():
    x = np.asarray([[1.0, 2.0], [-1.0, -2.0], [0.0, 0.0]])
    odd = theory.kernels("tanh", x, depth=5, weight_var=1.5, bias_var=0.0)
    np.testing.assert_allclose(odd.nngp[0, 1], -odd.nngp[0, 0], rtol=1e-12)
    np.testing.assert_allclose(odd.nngp[2], 0.0, atol=1e-100)
    relu = theory.kernels("relu", x, depth=2, weight_var=2.0, bias_var=0.0)
    np.testing.assert_allclose(relu.nngp[0, 1] / relu.nngp[0, 0], 0.0, atol=1e-15)


def test_under_jit_and_grad():
    def corner(weight_var):
        found = theory.kernels(
            "tanh", X[:2], depth=2, weight_var=weight_var, bias_var=0.1, block="residual"
        )
        return found.ntk[0, 1]

    np.testing.assert_allclose(jax.jit(corner)(1.3), corner(1.3), rtol=1e-5)
    step = 1e-5
    slope = (corner(1.3 + step) - corner(1.3 - step)) / (2 * step)
    np.testing.assert_allclose(jax.grad(corner)(1.3), slope, rtol=1e-3)


@pytest.mark.parametrize("depth", [30, 100])
def test_equal_and_opposite_inputs_stay_so_in_chaos(depth):
    """One variance, whatever the depth: rounding has nothing to amplify."""
    x = np.random.default_rng(0).standard_normal((1, 100))
    at = {"depth": depth, "weight_var": 64.0, "bias_var": 0.0}
    own = theory.kernels("tanh", x, **at)
    np.testing.assert_allclose(own.nngp, 57.3018645889576, rtol=1e-14)
    start = theory.input_variance(np.mean(x**2), weight_var=64.0, bias_var=0.0)
    path = theory.propagate("tanh", variance0=start, **at)
    ntk = path.variance[0]
    for layer in range(1, depth):
        ntk = path.variance[layer] + path.chi[layer - 1] * ntk
    np.testing.assert_allclose(own.ntk.item(), ntk, rtol=1e-11)
    both = theory.kernels("tanh", x, np.concatenate([x, -x]), **at)
    for kernel, known in ((both.nngp, own.nngp), (both.ntk, own.ntk)):
        np.testing.assert_allclose(kernel[0, 0], known[0, 0], rtol=1e-12)
        np.testing.assert_allclose(kernel[0, 1], -kernel[0, 0], rtol=1e-12)
    twice = theory.kernels("tanh", np.concatenate([x, x]), **at)
    np.testing.assert_array_equal(twice.nngp, twice.nngp[0, 0])


def test_equal_inputs_found_when_run_stay_equal():
    """Under jit nothing is known of the inputs when it is compiled."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 100)), jnp.float32)

    @jax.jit
    def entry(a, b):
        return theory.kernels("erf", a, b, depth=100, weight_var=64.0, bias_var=0.0).nngp[0, 0]

    np.testing.assert_allclose(entry(x, x), entry(x[:, ::-1], x[:, ::-1]), rtol=1e-5)
    np.testing.assert_allclose(entry(x, -x), -entry(x, x), rtol=1e-6)


@pytest.mark.parametrize("turned", [0.0, 1.0])
def test_inputs_that_nearly_coincide_part_at_the_rate_of_the_map(turned):
    """erf in 40 digits, from inputs 1e-8 apart, along one another or not."""
    weight_var, bias_var, depth = 20.0, 0.3, 27
    x = np.asarray([[1.0, 2.0], [1.0 + 1e-8, 2.0 + (2 - 3 * turned) * 1e-8]])
    found = theory.kernels("erf", x, depth=depth, weight_var=weight_var, bias_var=bias_var)
    with mpmath.workdps(40):
        rows = [[mpmath.mpf(float(v)) for v in row] for row in x]
        k = {
            (i, j): weight_var * mpmath.fdot(rows[i], rows[j]) / 2 + bias_var
            for i, j in ((0, 0), (0, 1), (1, 1))
        }
        for _ in range(depth - 1):
            size = {i: 1 + 2 * k[i, i] for i in (0, 1)}
            k = {
                (i, j): weight_var
                * 2
                / mpmath.pi
                * mpmath.asin(2 * v / mpmath.sqrt(size[i] * size[j]))
                + bias_var
                for (i, j), v in k.items()
            }
        parted = float(1 - k[0, 1] / mpmath.sqrt(k[0, 0] * k[1, 1]))
    assert parted > 1e-6
    size = np.sqrt(found.nngp[0, 0] * found.nngp[1, 1])
    np.testing.assert_allclose(1 - found.nngp[0, 1] / size, parted, rtol=1e-6, atol=1e-15)


@pytest.mark.parametrize(
    ("activation", "weight_var", "block"),
    [
        ("relu", 1e60, "plain"),
        ("linear", 1e60, "plain"),
        ("gelu", 1e60, "residual"),
        ("tanh", 1e60, "plain"),
    ],
)
def test_what_lies_beyond_the_numbers_is_infinite(activation, weight_var, block):
    x = np.asarray([[1.0, 2.0], [2.0, -1.0], [-1.0, -2.0], [0.0, 0.0]])
    found = theory.kernels(
        activation, x, depth=12, weight_var=weight_var, bias_var=0.0, block=block
    )
    assert np.isinf(found.ntk[0, 0])
    assert activation == "tanh" or np.isinf(found.nngp[0, 0])
    assert not np.isnan(found.nngp).any()
    assert not np.isnan(found.ntk).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x1": X[None]}, r"x1 must have shape \(inputs, features\), got \(1, 4, 5\)"),
        ({"x2": X[:, :3]}, "x1 and x2 must have equally many features, got 5, 3"),
        ({"depth": 0}, "depth must be an integer >= 1, got 0"),
        ({"weight_var": -1.0}, r"weight_var must be finite and >= 0, got -1\.0"),
        ({"weight_var": np.ones(2)}, r"weight_var must be a scalar, got shape \(2,\)"),
        ({"block": "residul"}, "did you mean 'residual'"),
    ],
)
def test_bad_input(arguments, message):
    usual = {"x1": X, "x2": X, "depth": 2, "weight_var": 1.0, "bias_var": 0.0} | arguments
    with pytest.raises(ValueError, match=message):
        theory.kernels("tanh", usual.pop("x1"), usual.pop("x2"), **usual)


# ------------------------------------------------------------------- condition numbers

CRITICAL = [("tanh", 0.05), ("erf", 0.1), ("sin", 0.05), ("relu", 0.0)]


@pytest.mark.every_run("tanh", "relu")
@pytest.mark.parametrize(("activation", "bias_var"), CRITICAL)
@pytest.mark.parametrize("inputs", [2, 5])
def test_at_criticality_the_ntk_tends_to_a_condition_number_of_its_own(
    activation, bias_var, inputs
):
    """(m + 2)/2 for smooth φ, (m + 3)/3 for relu; approached as 1/l, which two depths remove."""
    weight_var = theory.critical_weight_var(activation, bias_var=bias_var).weight_var
    start = 1.0
    if activation != "relu":
        at = theory.fixed_point(activation, weight_var=weight_var, bias_var=bias_var)
        start = at.variance
    found = theory.kernel_conditioning(
        activation,
        inputs=inputs,
        depth=4000,
        weight_var=weight_var,
        bias_var=bias_var,
        variance0=start,
        correlation0=0.2,
    )
    limit = (inputs + 3) / 3 if activation == "relu" else (inputs + 2) / 2
    assert abs(2 * found.ntk[-1] - found.ntk[1999] - limit) < 2e-3 * limit


def test_ordered_networks_are_exponentially_badly_conditioned_and_chaotic_ones_well():
    ordered = theory.fixed_point("tanh", weight_var=1.0, bias_var=0.05)
    common = {"inputs": 4, "depth": 1000, "bias_var": 0.05}
    found = theory.kernel_conditioning("tanh", weight_var=1.0, **common)
    layers = np.arange(1, 1001)
    for kernel in (found.nngp, layers * found.ntk):
        rate = np.log(kernel[-1] / kernel[500]) / 499
        np.testing.assert_allclose(rate, -np.log(ordered.chi_1), rtol=1e-3)
    chaotic = theory.kernel_conditioning("tanh", weight_var=3.0, **common)
    np.testing.assert_allclose(chaotic.ntk[-1], 1.0, rtol=1e-6)


def test_condition_numbers_are_those_of_the_matrices():
    inputs, depth, at = 4, 6, {"weight_var": 1.5, "bias_var": 0.1}
    cosine = 0.3
    x = np.linalg.cholesky((1 - cosine) * np.eye(inputs) + cosine) * np.sqrt(inputs)
    start = theory.input_variance(1.0, **at)
    apart = theory.input_correlation(cosine, second_moment=1.0, **at)
    found = theory.kernel_conditioning(
        "gelu", inputs=inputs, depth=depth, variance0=start, correlation0=apart, **at
    )
    matrices = theory.kernels("gelu", x, depth=depth, **at)
    np.testing.assert_allclose(found.nngp[-1], np.linalg.cond(matrices.nngp), rtol=1e-9)
    np.testing.assert_allclose(found.ntk[-1], np.linalg.cond(matrices.ntk), rtol=1e-9)


def test_conditioning_of_bad_input():
    with pytest.raises(ValueError, match="inputs must be an integer >= 2, got 1"):
        theory.kernel_conditioning("tanh", inputs=1, depth=2, weight_var=1.0, bias_var=0.0)
    with pytest.raises(ValueError, match=r"correlation0 must be >= -1/\(inputs - 1\) = -0\.5"):
        theory.kernel_conditioning(
            "tanh", inputs=3, depth=2, weight_var=1.0, bias_var=0.0, correlation0=-0.9
        )
