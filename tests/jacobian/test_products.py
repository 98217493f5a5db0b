"""Log singular values of products, against 500-digit arithmetic and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import digamma

from sigprop import jacobian
from sigprop.jacobian import ProductStatus
from tests.jacobian.chains import CHAINS, haar, reference

ACCURACY = 1e-10  # asked of float64 are 1e-5


def assert_right(record, expected):
    """Values to the accuracy, rank exactly, and an error estimate that holds."""
    values = record.log_singular_values
    assert values.dtype == np.float64
    np.testing.assert_array_equal(np.isneginf(values), np.isneginf(expected))
    finite = np.isfinite(expected)
    assert record.rank == finite.sum()
    assert record.status == ProductStatus.ACCURATE
    difference = np.abs(values[finite] - expected[finite])
    rounding = 1e-15 * np.abs(expected[finite])
    np.testing.assert_array_less(difference, ACCURACY + rounding)
    np.testing.assert_array_less(difference, record.error[finite] + rounding + 1e-15)
    assert np.all(record.error[finite] < 1e-9 + 1e-14 * np.abs(expected[finite]))


@pytest.mark.parametrize("length", [1, 2, 12])
@pytest.mark.parametrize("kind", CHAINS)
def test_agrees_with_500_digits(kind, length):
    factors = CHAINS[kind](np.random.default_rng(length), 7, length)
    assert_right(jacobian.log_product(factors), reference(factors, digits=1500))


@pytest.mark.parametrize(
    "kind",
    ["gaussian", "orthogonal", "near_isometric", "orthogonal_then_gaussian", "rectangular"],
)
def test_agrees_with_500_digits_at_depth_400(kind):
    factors = CHAINS[kind](np.random.default_rng(0), 4, 400)
    assert_right(jacobian.log_product(factors), reference(factors))


def test_agrees_with_500_digits_at_size_24():
    factors = CHAINS["gaussian"](np.random.default_rng(0), 24, 10)
    assert_right(jacobian.log_product(factors), reference(factors, digits=100))


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("kind", CHAINS)
def test_small_sizes(kind, size):
    factors = CHAINS[kind](np.random.default_rng(size), size, 5)
    assert_right(jacobian.log_product(factors), reference(factors))


@given(
    logs=st.lists(st.floats(-300, 300), min_size=1, max_size=6),
    length=st.integers(1, 30),
    seed=st.integers(0, 2**31),
)
def test_commuting_symmetric_factors(logs, length, seed):
    """Powers of diag(d) between orthogonal matrices: length · log d, whatever the range."""
    rng = np.random.default_rng(seed)
    left, right = (haar(rng, len(logs)) for _ in range(2))
    middle = [np.diag(np.exp(logs))] * length
    values = jacobian.log_singular_values([right, *middle, left])
    expected = length * np.sort(logs)[::-1]
    np.testing.assert_allclose(values, expected, atol=1e-11, rtol=1e-13)


@given(seed=st.integers(0, 2**31), length=st.integers(1, 20))
def test_transposing_the_product_changes_nothing(seed, length):
    factors = CHAINS["rows_graded"](np.random.default_rng(seed), 5, length)
    transposed = [factor.T for factor in reversed(factors)]
    record = jacobian.log_product(factors)
    other = jacobian.log_product(transposed)
    difference = np.abs(record.log_singular_values - other.log_singular_values)
    np.testing.assert_array_less(difference, record.error + other.error)


def test_log_determinant_at_depth_2000_and_width_24():
    rng = np.random.default_rng(0)
    factors = rng.standard_normal((2000, 24, 24))
    record = jacobian.log_product(factors)
    determinant = np.linalg.slogdet(factors)[1].sum()
    assert record.status == ProductStatus.ACCURATE
    np.testing.assert_allclose(record.log_singular_values.sum(), determinant, rtol=1e-12)


def test_lyapunov_exponents_are_newmans():
    """To four standard errors, var(log R_ii) = trigamma((N - i + 1)/2)/4 <= 1.24 each."""
    size, length, scale = 6, 4000, 1.3
    rng = np.random.default_rng(1)
    factors = scale / np.sqrt(size) * rng.standard_normal((length, size, size))
    i = np.arange(1, size + 1)
    expected = np.log(scale) + (np.log(2 / size) + digamma((size - i + 1) / 2)) / 2
    measured = jacobian.lyapunov_exponents(factors)
    np.testing.assert_allclose(measured, expected, atol=4 * np.sqrt(1.24 / length))


def test_isometric_products_stay_isometric_at_any_depth():
    factors = CHAINS["orthogonal"](np.random.default_rng(0), 8, 1000)
    values = jacobian.log_singular_values(np.stack(factors))
    np.testing.assert_allclose(values, 0.0, atol=1e-11)


@pytest.mark.parametrize("kind", ["gaussian", "near_isometric", "relu_rows"])
def test_array_list_and_jax_arrays_agree(kind):
    factors = CHAINS[kind](np.random.default_rng(3), 5, 6)
    expected = jacobian.log_singular_values(factors)
    np.testing.assert_array_equal(jacobian.log_singular_values(np.stack(factors)), expected)
    with jax.enable_x64(True):
        on_device = jnp.asarray(np.stack(factors))
        np.testing.assert_array_equal(jacobian.log_singular_values(on_device), expected)


def test_factors_of_a_scan_are_those_of_the_array():
    def step(key):
        key, draw = jax.random.split(key)
        return key, jax.random.normal(draw, (4, 4))

    key, factors = jax.random.key(0), []
    for _ in range(50):
        key, factor = step(key)
        factors.append(factor)
    produced = jacobian.log_singular_values((step, jax.random.key(0), 50))
    np.testing.assert_allclose(produced, jacobian.log_singular_values(factors), atol=1e-5)


def test_scan_with_a_float64_carry_runs_in_float64():
    def step(exponent):
        return exponent + 1, jnp.eye(3, dtype=exponent.dtype) * (1 + 1e-9 * exponent)

    values = jacobian.log_singular_values((step, np.float64(1.0), 100))
    np.testing.assert_allclose(values, np.log1p(1e-9 * np.arange(1, 101)).sum(), rtol=1e-9)


def test_scan_over_stored_float64_factors_runs_in_float64():
    factors = CHAINS["near_isometric"](np.random.default_rng(0), 4, 30)
    stored = np.stack(factors)
    step = lambda index: (index + 1, jnp.asarray(stored)[index])  # noqa: E731
    expected = jacobian.log_singular_values(factors)
    produced = jacobian.log_singular_values((step, np.int32(0), 30))
    np.testing.assert_allclose(produced, expected, atol=1e-13)


def test_scan_of_depth_10000_holds_no_more_than_a_block(monkeypatch):
    """Blocks of 7 factors give what one block does."""
    from sigprop.jacobian import factors

    chain = (lambda key: (jax.random.split(key)[0], jax.random.normal(key, (3, 3))),)
    whole = jacobian.log_singular_values((*chain, jax.random.key(2), 10_000))
    monkeypatch.setattr(factors, "_SCAN_BYTES", 7 * 9 * 4)
    assert whole.shape == (3,)
    short = jacobian.log_singular_values((*chain, jax.random.key(2), 100))
    monkeypatch.undo()
    np.testing.assert_array_equal(
        short, jacobian.log_singular_values((*chain, jax.random.key(2), 100))
    )


def test_under_jit_and_vmap():
    factors = np.random.default_rng(0).standard_normal((3, 5, 4, 4)).astype(np.float32)
    record = jax.vmap(jacobian.log_product)(factors)
    for index, chain in enumerate(factors):
        expected = jacobian.log_singular_values(chain)
        np.testing.assert_allclose(record.log_singular_values[index], expected, rtol=1e-5)
        jitted = jax.jit(jacobian.log_singular_values)(chain)
        np.testing.assert_allclose(jitted, expected, rtol=1e-5)
    assert record.rank.tolist() == [4, 4, 4]


def test_scan_under_jit():
    def exponents(scale):
        step = lambda carry: (carry, carry * jnp.eye(3))  # noqa: E731
        return jacobian.lyapunov_exponents((step, scale, 7))

    np.testing.assert_allclose(jax.jit(exponents)(jnp.float32(2.0)), np.log(2.0), rtol=1e-6)


@pytest.mark.parametrize(
    ("factors", "expected"),
    [
        (np.zeros((0, 3, 3)), [0.0, 0.0, 0.0]),
        (np.zeros((4, 0, 0)), []),
        (np.zeros((2, 2, 2)), [-np.inf, -np.inf]),
        ([np.zeros((0, 3)), np.zeros((2, 0))], [-np.inf, -np.inf]),
        (np.full((1, 1, 3), 2.0), [np.log(12.0) / 2]),
        ([np.full((3, 1), 2.0), np.full((1, 3), 2.0)], [np.log(12.0)]),
    ],
)
def test_edges(factors, expected):
    record = jacobian.log_product(factors)
    np.testing.assert_allclose(record.log_singular_values, expected, atol=1e-14)
    assert record.rank == np.isfinite(expected).sum()


def test_cumulative_values_are_those_of_the_shorter_products():
    factors = CHAINS["relu_rows"](np.random.default_rng(5), 5, 8)
    rows = jacobian.cumulative_log_singular_values(factors, [8, 0, 3])
    np.testing.assert_allclose(rows[0], jacobian.log_singular_values(factors), atol=1e-12)
    np.testing.assert_allclose(rows[1], 0.0, atol=1e-12)
    np.testing.assert_allclose(rows[2], jacobian.log_singular_values(factors[:3]), atol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_first_factor_that_is_not_finite_is_named(bad):
    factors = np.random.default_rng(0).standard_normal((6, 3, 3))
    factors[3, 1, 2] = factors[5, 0, 0] = bad
    record = jacobian.log_product(factors)
    assert record.status == ProductStatus.NOT_FINITE
    assert record.nonfinite_layer == 4
    assert np.isnan(record.log_singular_values).all()
    rows = jacobian.cumulative_log_singular_values(factors, [3, 4])
    assert np.isfinite(rows[0]).all()
    assert np.isnan(rows[1]).all()


def test_what_cannot_be_afforded_is_called_inaccurate(monkeypatch):
    """Without exact arithmetic the estimate says that the small values are lost, and they are."""
    from sigprop.jacobian import small_products

    monkeypatch.setattr(small_products, "_WORK", 0)
    factors = CHAINS["exponentially_spread"](np.random.default_rng(0), 8, 1)
    record = jacobian.log_product(factors)
    wrong = np.abs(record.log_singular_values - reference(factors))
    assert record.status == ProductStatus.INACCURATE
    assert np.max(wrong) > 1e-3
    np.testing.assert_array_less(wrong, record.error + 1e-14)


@pytest.mark.parametrize("kind", ["rank_deficient", "annihilating", "duplicate_rows"])
def test_a_large_singular_product_says_which_values_are_lost(kind):
    """Beyond what is multiplied out exactly: tiny values where there are zeros, and it is said."""
    factors = CHAINS[kind](np.random.default_rng(0), 40, 3)
    record = jacobian.log_product(factors)
    rank = np.linalg.matrix_rank(np.linalg.multi_dot(factors[::-1]))
    assert record.status == ProductStatus.INACCURATE
    assert rank <= record.rank <= 40
    assert not np.any(record.error[rank : record.rank] < 1)
    product = np.linalg.svd(np.linalg.multi_dot(factors[::-1]), compute_uv=False)[:rank]
    np.testing.assert_allclose(record.log_singular_values[:rank], np.log(product), atol=1e-8)


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ([], "at least one matrix"),
        (np.ones((2, 2)), r"shape \(length, size, size\), got \(2, 2\)"),
        (np.ones((3, 2, 4)), "give a list"),
        ([np.ones((2, 3)), np.ones((2, 3))], r"factors\[1\] must have 2 columns"),
        ([np.ones(3)], r"factors\[0\] must be a matrix"),
        (np.ones((2, 2, 2), complex), "real numbers, got dtype complex"),
        ((lambda c: (c, c), np.ones((2, 2)), -1), "length must be an integer >= 0"),
        ((lambda c: (c, c), np.ones(2), 3), "square matrix"),
        ((lambda c: (c[0], c), np.ones((2, 2)), 3), "carry of the structure"),
    ],
)
def test_bad_input(factors, message, as_users_call):
    with pytest.raises(ValueError, match=message):
        jacobian.log_product(factors)


def test_exponents_of_no_factors():
    with pytest.raises(ValueError, match="at least one matrix"):
        jacobian.lyapunov_exponents(np.zeros((0, 2, 2)))
