"""Singular values of any function's Jacobian: dense, and matrix-free."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sigprop import jacobian
from sigprop.jacobian import ExtremeStatus

KEY = jax.random.key(0)
TALL = np.asarray(jax.random.normal(jax.random.key(1), (40, 25)))
SHAPES = {"tall": TALL, "wide": TALL.T, "square": TALL[:25]}


def _linear(matrix):
    return lambda x: jnp.asarray(matrix) @ x, jnp.ones(matrix.shape[1])


def _numpy(matrix):
    return np.linalg.svd(np.asarray(matrix, np.float64), compute_uv=False)


@pytest.mark.parametrize("shape", SHAPES)
def test_dense_is_right_in_either_mode(shape):
    fn, x = _linear(SHAPES[shape])
    np.testing.assert_allclose(jacobian.singular_values(fn, x), _numpy(SHAPES[shape]), atol=1e-5)
    np.testing.assert_allclose(jacobian.jacobian_matrix(fn, x), SHAPES[shape], atol=1e-6)


def test_pytrees_and_modules():
    model = nnx.Linear(6, 4, rngs=nnx.Rngs(0))
    x = {"a": jnp.ones(6), "b": (jnp.ones(2), jnp.ones((2, 1), jnp.bfloat16))}
    fn = lambda p: [model(p["a"]), 3 * p["b"][0], p["b"][1]]  # noqa: E731
    expected = np.sort([*_numpy(model.kernel[...]), 3.0, 3.0, 1.0, 1.0])[::-1]
    np.testing.assert_allclose(jacobian.singular_values(fn, x), expected, atol=1e-5)


def test_nonlinear_at_the_given_point():
    x = jnp.array([0.3, -2.0, 0.0])
    values = jacobian.singular_values(jnp.tanh, x)
    np.testing.assert_allclose(values, np.sort(1 / np.cosh(x) ** 2)[::-1], rtol=1e-5)


def test_a_small_budget_gives_the_same():
    fn, x = _linear(TALL)
    least = 2 * TALL.size * 4
    np.testing.assert_allclose(
        jacobian.singular_values(fn, x, memory_budget=least), _numpy(TALL), atol=1e-5
    )


def test_jit_and_vmap():
    fn, _ = _linear(TALL)
    x = jnp.ones((2, 25))
    squared = lambda x: fn(x) ** 2  # noqa: E731
    batch = jax.vmap(lambda x: jacobian.singular_values(squared, x))(x)
    single = jax.jit(lambda x: jacobian.singular_values(squared, x))(x[0])
    np.testing.assert_allclose(batch[1], single, rtol=1e-5)


@pytest.mark.parametrize(
    ("fn", "x", "message"),
    [
        (lambda x: x.astype(jnp.int32), jnp.ones(2), "what fn returns must hold floating-point"),
        (lambda x: {"n": x > 0}, jnp.ones(2), r"got dtype bool at \['n'\]"),
        (lambda x: x, jnp.arange(2), "x must hold floating-point numbers, got dtype int"),
        (lambda x: jnp.sqrt(x), jnp.array([1.0, 0.0]), "to output entry 1"),
        (lambda x: x, jnp.array([1.0, jnp.nan]), "x must be finite"),
        (lambda x: (), jnp.ones(2), "at least one number"),
        (3, jnp.ones(2), "fn must be a function"),
    ],
)
def test_bad_functions(fn, x, message, as_users_call):
    with pytest.raises(ValueError, match=message):
        jacobian.singular_values(fn, x)


def test_a_matrix_over_budget_names_the_way_out():
    fn, x = _linear(TALL)
    with pytest.raises(ValueError, match=r"at least 8000 bytes .* 40 x 25.*spectral_density"):
        jacobian.singular_values(fn, x, memory_budget=1000)


@pytest.mark.parametrize("which", ["largest", "smallest"])
@pytest.mark.parametrize("shape", SHAPES)
def test_extremes_of_the_whole_space_are_exact(shape, which):
    fn, x = _linear(SHAPES[shape])
    result = jacobian.extreme_singular_values(fn, x, 4, which, key=KEY)
    expected = _numpy(SHAPES[shape])
    expected = expected[:4] if which == "largest" else expected[-4:]
    difference = np.abs(result.singular_values - expected)
    assert np.all(result.status == ExtremeStatus.CONVERGED)
    np.testing.assert_array_less(difference, result.residual_bound + 1e-6)
    assert np.all(result.residual_bound < 1e-4)


def test_largest_of_a_large_matrix_with_multiplicities():
    """A top value of multiplicity three, gaps below it: all copies are found."""
    scales = jnp.concatenate([jnp.full(3, 5.0), jnp.array([4.0]), jnp.linspace(0.0, 2.0, 4000)])
    fn = lambda x: scales * jnp.roll(x, 7)  # noqa: E731
    result = jacobian.extreme_singular_values(fn, jnp.ones(4004), 4, key=KEY, vectors=80)
    np.testing.assert_allclose(result.singular_values, [5, 5, 5, 4], atol=1e-4)
    assert np.all(result.status == ExtremeStatus.CONVERGED)
    assert not result.invariant


def test_residual_bounds_hold_before_convergence():
    fn, x = _linear(TALL)
    result = jacobian.extreme_singular_values(fn, x, 3, key=KEY, vectors=9)
    assert np.all(result.status == ExtremeStatus.NOT_CONVERGED)
    distance = np.abs(_numpy(TALL)[:, None] - np.asarray(result.singular_values)).min(axis=0)
    assert np.all(distance <= result.residual_bound)


def test_krylov_space_that_closes_at_once():
    """The identity: one vector spans its Krylov space; two values more are asked for."""
    result = jacobian.extreme_singular_values(lambda x: x, jnp.ones(1000), 3, key=KEY)
    np.testing.assert_allclose(result.singular_values, 1.0, atol=1e-5)
    assert result.invariant


def test_zero_jacobian():
    result = jacobian.extreme_singular_values(lambda x: 0 * x, jnp.ones(50), 2, key=KEY)
    np.testing.assert_array_equal(result.singular_values, 0.0)


def test_below_resolution_is_a_status_and_a_bound():
    scales = jnp.array([3.0, 2.0, 1.0, 1e-9, 0.0])
    fn = lambda x: scales * x  # noqa: E731
    result = jacobian.extreme_singular_values(fn, jnp.ones(5), 3, "smallest", key=KEY)
    assert result.status.tolist() == [
        ExtremeStatus.CONVERGED,
        ExtremeStatus.BELOW_RESOLUTION,
        ExtremeStatus.BELOW_RESOLUTION,
    ]
    assert np.isnan(result.singular_values[1:]).all()
    assert np.all((result.residual_bound[1:] >= 1e-9) & (result.residual_bound[1:] < 1e-5))


def test_nan_in_the_jacobian_is_a_status():
    fn = lambda x: jnp.sqrt(x - x)  # noqa: E731
    result = jacobian.extreme_singular_values(fn, jnp.ones(5), 2, key=KEY)
    assert np.all(result.status == ExtremeStatus.NOT_FINITE)
    assert np.isnan(result.singular_values).all()


def test_float64_extremes(float64):
    matrix = np.random.default_rng(0).standard_normal((60, 50))
    result = jacobian.extreme_singular_values(*_linear(matrix), 3, key=KEY)
    np.testing.assert_allclose(result.singular_values, _numpy(matrix)[:3], rtol=1e-12)


def test_half_precision_functions():
    fn = lambda x: 3 * x.astype(jnp.bfloat16)  # noqa: E731
    x = jnp.ones(20, jnp.bfloat16)
    np.testing.assert_allclose(jacobian.singular_values(fn, x), 3.0)
    top = jacobian.extreme_singular_values(fn, x, 1, key=KEY).singular_values
    np.testing.assert_allclose(top, 3.0, rtol=0.01)
    np.testing.assert_allclose(jacobian.moments(fn, x, key=KEY).moments, [9.0, 81.0], rtol=0.01)


@pytest.mark.parametrize(
    ("k", "options", "message"),
    [
        (26, {}, "k must be at most 25, the smaller dimension of J, got 26"),
        (0, {}, "k must be an integer >= 1"),
        (2, {"vectors": 1}, "vectors must be an integer >= 2"),
        (2, {"which": "middle"}, "which must be one of 'largest', 'smallest'"),
    ],
)
def test_bad_extremes(k, options, message, as_users_call):
    with pytest.raises(ValueError, match=message):
        jacobian.extreme_singular_values(*_linear(TALL), k, key=KEY, **options)


@pytest.mark.parametrize("shape", SHAPES)
def test_density_has_the_moments_of_the_spectrum(shape):
    fn, x = _linear(SHAPES[shape])
    squares = _numpy(SHAPES[shape]) ** 2
    spectrum = jacobian.spectral_density(fn, x, key=KEY, probes=200)
    for function in (lambda s: s, lambda s: s**2, lambda s: jnp.exp(-s / 20)):
        mean, stderr = spectrum.mean_of(function)
        assert abs(mean - np.mean(np.asarray(function(squares)))) < 4 * stderr + 1e-5
    np.testing.assert_allclose(spectrum.weights.sum(axis=1), 1.0, rtol=1e-5)


def test_density_of_a_known_law():
    """s uniform on [0, 1]: fraction sqrt(λ) of the spectrum lies below λ."""
    scales = jnp.linspace(0.0, 1.0, 3000)
    spectrum = jacobian.spectral_density(lambda x: scales * x, jnp.ones(3000), key=KEY)
    points = jnp.array([0.1, 0.3, 0.6, 0.9])
    np.testing.assert_allclose(spectrum.cumulative(points), np.sqrt(points), atol=0.03)
    density, stderr = spectrum.density(points, width=0.03)
    np.testing.assert_allclose(density, 0.5 / np.sqrt(points), rtol=0.1)
    assert np.all((stderr > 0) & (stderr < 0.1))


@pytest.mark.parametrize("shape", SHAPES)
def test_moments_within_their_standard_errors(shape):
    fn, x = _linear(SHAPES[shape])
    squares = _numpy(SHAPES[shape]) ** 2
    result = jacobian.moments(fn, x, key=KEY, order=3, probes=500)
    expected = [np.mean(squares**p) for p in (1, 2, 3)]
    scores = (result.moments - np.asarray(expected)) / result.moments_stderr
    assert np.all(np.abs(scores) < 4)
    assert np.all(result.moments_stderr < 0.1 * result.moments)


def test_standard_errors_are_those_of_repeated_estimates():
    fn, x = _linear(TALL)
    keys = jax.random.split(KEY, 200)
    estimates = jax.vmap(lambda key: jacobian.moments(fn, x, key=key, order=1, probes=4))(keys)
    spread = np.std(estimates.moments, ddof=1)
    claimed = np.sqrt(np.mean(np.square(estimates.moments_stderr)))
    assert abs(spread / claimed - 1) < 4 / np.sqrt(2 * 200)


def test_circular_convolutions_of_16384_dimensions():
    """Ten linear layers: singular values known by the Fourier transform of the kernels."""
    side, channels, depth = 64, 4, 10
    kernels = jax.random.normal(KEY, (depth, 3, 3, channels, channels)) / 6
    x = jnp.zeros((side, side, channels))

    def network(x):
        def layer(x, kernel):
            padded = jnp.pad(x, ((1, 1), (1, 1), (0, 0)), mode="wrap")[None]
            out = jax.lax.conv_general_dilated(
                padded, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            return out[0], None

        return jax.lax.scan(layer, x, kernels)[0]

    spectrum = np.fft.fft2(np.asarray(kernels, np.float64), (side, side), axes=(1, 2))
    blocks = np.swapaxes(spectrum, -1, -2)  # (out, in) at every frequency
    product = blocks[0]
    for block in blocks[1:]:
        product = block @ product
    exact = np.sort(np.linalg.svd(product, compute_uv=False).ravel())[::-1]
    top = jacobian.extreme_singular_values(network, x, 4, key=KEY, vectors=80)
    np.testing.assert_allclose(top.singular_values, exact[:4], rtol=1e-4)
    assert np.all(np.abs(top.singular_values - exact[:4]) <= top.residual_bound)
    moments = jacobian.moments(network, x, key=KEY, probes=16)
    assert abs(moments.moments[0] - np.mean(exact**2)) < 4 * moments.moments_stderr[0]
