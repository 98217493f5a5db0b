"""Theory of functions that no table knows: jumps, infinite slopes, detail, or a status.

For sign the covariance map is q' = σ_w² + σ_b², E[φφ] = 2/π asin c; for a step at 0, (π - θ)/(2π).
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from sigprop import theory
from sigprop.architecture import Architecture
from sigprop.theory import CriticalStatus, Phase, TheoryStatus, VarianceStatus

AT = {"weight_var": 1.5, "bias_var": 0.1}


def _step(x):
    return jnp.where(x > 0, 1.0, 0.0).astype(x.dtype)


def _sign_root(w=1.5):
    """C* of sign at AT, or at another σ_w²."""
    return optimize.brentq(lambda c: (w * 2 / np.pi * np.arcsin(c) + 0.1) / (w + 0.1) - c, 0, 0.9)


def _step_root():
    def excess(c):
        return (1.5 * (np.pi - np.arccos(c)) / (2 * np.pi) + 0.1) / 0.85 - c

    return optimize.brentq(excess, 0, 0.99)


def _wave_root():
    """Of sin(300 x): E[φφ] is 0 unless inputs are alike."""
    return 0.1 / 0.85


ROUGH = {
    "sign": (jnp.sign, 1.6, _sign_root()),
    "step": (_step, 0.85, _step_root()),
}
EXTREME = {
    "floor": jnp.floor,
    "rounding": jnp.round,
    "sawtooth": lambda x: x - jnp.floor(x),
    "threshold": lambda x: jnp.where(x > 0.5, x, 0.0),
    "a small jump": lambda x: 0.5 * jnp.tanh(x) + 1e-3 * jnp.sign(x),
    "signed root": lambda x: jnp.sign(x) * jnp.sqrt(jnp.abs(x)),
    "cube root": jnp.cbrt,
}
EVERY_RUN = ("sign", "step", "floor", "a small jump", "cube root")


@pytest.mark.parametrize("case", ROUGH)
def test_a_jump_makes_every_network_chaotic(case):
    fn, variance, c = ROUGH[case]
    found = theory.fixed_point(fn, **AT)
    np.testing.assert_allclose(found.variance, variance, rtol=1e-12)
    np.testing.assert_allclose(found.correlation, c, rtol=1e-10)
    assert np.isinf(found.chi_1)
    assert Phase(int(found.phase)) is Phase.CHAOTIC
    [same] = theory.fixed_points(fn, **AT)
    np.testing.assert_allclose(same.correlation, c, rtol=1e-10)


def test_the_number_of_the_issue():
    found = theory.fixed_point(jnp.sign, **AT)
    np.testing.assert_allclose(found.correlation, 0.155968352261965, rtol=1e-13)


@pytest.mark.every_run(*EVERY_RUN)
@pytest.mark.parametrize("case", EXTREME)
def test_the_correlation_map_itself_says_so(case):
    """Started nearly alike, inputs part until they have the correlation that was predicted."""
    fn = EXTREME[case]
    numbers = {"weight_var": 0.7, "bias_var": 0.1}
    found = theory.fixed_point(fn, **numbers)
    assert np.isinf(found.chi_1)
    # A root makes inputs part ever more slowly on the way.
    depth = 300 if case == "signed root" else 80
    start = {"variance0": float(found.variance), "correlation0": 1 - 1e-6}
    path = theory.propagate(fn, depth=depth, **start, **numbers)
    assert np.all(np.isinf(path.chi))
    np.testing.assert_allclose(path.one_minus_correlation[-1], found.one_minus_correlation, 1e-5)
    once = theory.correlation_map(
        fn, float(found.correlation), variance=float(found.variance), **numbers
    )
    np.testing.assert_allclose(1 - once, found.one_minus_correlation, rtol=1e-7, atol=1e-15)


def test_under_jit_and_grad(float64):
    def correlation(weight_var):
        return theory.fixed_point(jnp.sign, weight_var=weight_var, bias_var=0.1).correlation

    value, slope = jax.jit(jax.value_and_grad(correlation))(1.5)
    np.testing.assert_allclose(value, _sign_root(), rtol=1e-10)
    step = 1e-4
    expected = (_sign_root(1.5 + step) - _sign_root(1.5 - step)) / (2 * step)
    np.testing.assert_allclose(slope, expected, rtol=1e-6)
    assert jax.jit(lambda q: theory.chi(jnp.sign, q, weight_var=1.5))(1.0) == jnp.inf


@pytest.mark.parametrize("fn", [jnp.sign, jnp.cbrt])
def test_there_is_no_critical_point_and_the_reason_is_given(fn):
    assert theory.critical_points(fn, bias_var=0.1) == ()
    none = theory.critical_weight_var(fn, bias_var=[0.0, 0.1])
    assert np.isnan(none.weight_var).all()
    np.testing.assert_array_equal(none.status, CriticalStatus.NONE)
    assert "infinite" in none.reason
    assert "x = 0" in none.reason
    assert theory.critical_weight_var("tanh", bias_var=0.1).reason == ""


def test_a_jacobian_without_mean_square_has_no_theory():
    law = theory.jacobian_spectrum(jnp.sign, depth=3, **AT)
    assert law.status is TheoryStatus.NO_THEORY
    assert np.isnan(law.mean)
    spread = theory.log_gradient_variance(jnp.sign, depth=4, width=64, **AT)
    assert np.isnan(spread.variance)
    with pytest.raises(ValueError, match="jumps at x = 0"):
        theory.lyapunov_exponents(jnp.sign, [0.5], weight_var=1.5, variance=1.0)


def test_a_fast_wave_has_its_own_fixed_point():
    found = theory.fixed_point(lambda x: jnp.sin(300 * x), **AT)
    np.testing.assert_allclose(found.variance, 0.85, rtol=1e-12)
    np.testing.assert_allclose(found.chi_1, 1.5 * 45000, rtol=1e-10)
    np.testing.assert_allclose(found.correlation, _wave_root(), rtol=1e-8)


def test_a_long_period_takes_little_memory():
    """A triangle wave of period 20: its E[φ'²] is 1 at any variance."""
    found = theory.fixed_point(lambda x: jnp.abs(jnp.mod(x, 20.0) - 10), **AT)
    np.testing.assert_allclose(found.chi_1, 1.5, rtol=1e-10)
    assert VarianceStatus(int(found.variance_status)) is VarianceStatus.FINITE


def _fast_and_growing(x):
    return jnp.sin(300 * x) + x


def test_what_is_not_resolved_has_a_status():
    found = theory.fixed_point(_fast_and_growing, weight_var=1.5, bias_var=0.1)
    assert VarianceStatus(int(found.variance_status)) is VarianceStatus.UNRESOLVED
    assert np.isnan(found.variance)
    assert Phase(int(found.phase)) is Phase.UNDEFINED


def test_what_is_not_resolved_is_named_with_its_variance():
    with pytest.warns(theory.UnresolvedWarning, match=r"_fast_and_growing.*variance 10000"):
        assert np.isnan(theory.variance_map(_fast_and_growing, [1e4], weight_var=1.0, bias_var=0.0))
    with pytest.warns(theory.UnresolvedWarning, match=r"_fast_and_growing.*variance 10000"):
        assert np.isnan(theory.chi(_fast_and_growing, 1e4, weight_var=1.0))
    with pytest.warns(theory.UnresolvedWarning, match="_fast_and_growing"):
        path = theory.propagate(_fast_and_growing, depth=40, weight_var=1.5, bias_var=0.1)
    assert np.isnan(path.variance[-1])


def test_kernels_and_finite_width_say_so_too():
    x = 200 * np.eye(2)
    with pytest.warns(theory.UnresolvedWarning, match="_fast_and_growing.*variance 30000"):
        found = theory.kernels(_fast_and_growing, x, depth=3, weight_var=1.5, bias_var=0.1)
    assert np.isnan(found.nngp).all()
    assert np.isnan(found.ntk).all()
    at = {"depth": 4, "width": 64, "weight_var": 1e4, "bias_var": 0.1}
    with pytest.warns(theory.UnresolvedWarning, match="_fast_and_growing"):
        assert np.isnan(theory.log_gradient_variance(_fast_and_growing, **at).variance)


@pytest.mark.parametrize("batch", [None, 8])
def test_batch_norm_before_a_jump_makes_gradients_infinite(batch):
    net = Architecture(4, 32, jnp.sign, 1.5, 0.1, norm="batch_norm")
    path = theory.predict(net, batch=batch)
    np.testing.assert_array_equal(path.chi, np.inf)
    assert np.isfinite(path.variance).all()


@pytest.mark.parametrize("fn", [jnp.sign, jnp.cbrt])
def test_a_kernel_has_no_derivative_by_an_input_that_vanishes_where_it_breaks(fn, float64):
    x = jnp.asarray([[1.0, 2.0], [0.0, 0.0]])

    def entry(x, i, j):
        return theory.kernels(fn, x, depth=2, weight_var=1.5, bias_var=0.0).nngp[i, j]

    for place in ((0, 1), (1, 1)):
        assert not np.isfinite(jax.grad(entry)(x, *place)[1]).any()
        np.testing.assert_allclose(jax.grad(entry)(x, *place)[0], 0.0, atol=1e-12)


def test_no_activation_that_has_no_variance():
    with pytest.raises(ValueError, match="must have a finite E"):
        theory.fixed_point(lambda x: 1 / x, weight_var=1.0, bias_var=0.1)
