"""Derivatives of NNGP and NTK, also where inputs coincide, vanish or oppose each other."""

import functools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from sigprop import activations, theory
from tests.reference.exact_kernels import KINKED, KNOWN, derivatives

# Two inputs of two features, weight_var, bias_var.
POINTS = {
    "apart": (1.0, 2.0, 0.3, -0.5, 1.7, 0.1),
    "equal": (1.0, 2.0, 1.0, 2.0, 1.7, 0.1),
    "equal, no bias": (1.0, 2.0, 1.0, 2.0, 1.3, 0.0),
    "opposite": (1.0, 2.0, -1.0, -2.0, 1.7, 0.1),
    "opposite, no bias": (1.0, 2.0, -1.0, -2.0, 1.7, 0.0),
    "aligned, no bias": (1.0, 2.0, 0.5, 1.0, 1.7, 0.0),
    "one zero": (1.0, 2.0, 0.0, 0.0, 1.7, 0.1),
    "one zero, no bias": (1.0, 2.0, 0.0, 0.0, 1.7, 0.0),
    "0.001 apart": (1.0, 2.0, 1.001, 1.9996, 1.7, 0.1),
    "1e-8 apart": (1.0, 2.0, 1.0 + 1e-8, 2.0 - 3e-8, 1.7, 0.1),
    "nearly zero": (1.0, 2.0, 1e-4, -2e-4, 1.7, 0.0),
}
NAMES = ("nngp own", "nngp cross", "ntk own", "ntk cross")


def _entries(name, depth, block, point):
    found = theory.kernels(
        name,
        point[:4].reshape(2, 2),
        depth=depth,
        weight_var=point[4],
        bias_var=point[5],
        block=block,
        branch_scale=0.8,
    )
    return jnp.stack([found.nngp[0, 0], found.nngp[0, 1], found.ntk[0, 0], found.ntk[0, 1]])


# ------------------------------------------------------------------- against 60 digits


def _exact(name, depth, block, *point):
    """The four entries by the recursion in plain variances and covariance."""
    x, (w, b) = (point[:2], point[2:4]), point[4:]
    gain, skip = w * mpmath.mpf(0.8) ** 2, block == "residual"
    pairs = ((0, 0), (1, 1), (0, 1))
    k = {p: w * (x[p[0]][0] * x[p[1]][0] + x[p[0]][1] * x[p[1]][1]) / 2 + b for p in pairs}
    ntk = dict(k)
    for _ in range(depth - 1):
        new = {}
        for i, j in pairs:
            product, slope = KNOWN[name](k[i, i], k[j, j], k[i, j])
            added = gain * product + b
            ntk[i, j] = gain * slope * ntk[i, j] + added + skip * ntk[i, j]
            new[i, j] = added + skip * k[i, j]
        k = new
    return k[0, 0], k[0, 1], ntk[0, 0], ntk[0, 1]


@functools.cache
def _derivatives(name, depth, block):
    entries = functools.partial(_entries, name, depth, block)
    return jax.jit(jax.jacfwd(entries)), jax.jit(jax.jacrev(entries))


def _smooth_there(name, where, order):
    """Which of the entries have that derivative by the inputs; kinks take some away."""
    if name not in KINKED:
        return [True] * 4
    if where == "one zero, no bias":
        return [True, False, True, False]  # positively homogeneous in the vanishing input
    coincide = where in ("equal", "equal, no bias", "opposite, no bias", "aligned, no bias")
    return [True, True, True, not (coincide and order == 2)]


def _compare(found, expected, exist, tolerance):
    for entry, one, other, there in zip(NAMES, np.asarray(found), expected, exist):
        if there:
            scale = 1 + np.abs(other).max()
            np.testing.assert_allclose(
                one, other, rtol=tolerance, atol=tolerance * scale, err_msg=entry
            )
        else:
            assert not np.isfinite(one).all(), f"{entry}: no derivative, and none refused"


@pytest.mark.every_run("relu", "erf")
@pytest.mark.parametrize("where", POINTS)
@pytest.mark.parametrize("block", ["plain", "residual"])
@pytest.mark.parametrize("name", KNOWN)
def test_first_derivatives_in_closed_form(name, block, where, float64):
    expected = derivatives(functools.partial(_exact, name, 3, block), POINTS[where], 1)
    exist = _smooth_there(name, where, 1)
    for differentiate in _derivatives(name, 3, block):
        found = np.asarray(differentiate(jnp.asarray(POINTS[where])))
        if name in KINKED and POINTS[where][5] == 0:  # √bias_var where a correlation is -1 or none
            found, expected = found[:, :5], expected[:, :5]
        _compare(found, expected, exist, 1e-7)


@pytest.mark.every_run("relu", "erf")
@pytest.mark.parametrize("where", POINTS)
@pytest.mark.parametrize("name", KNOWN)
def test_second_derivatives_in_closed_form(name, where, float64):
    """Of the entry of two inputs; that of one of them is the same at all points."""
    expected = derivatives(functools.partial(_exact, name, 3, "plain"), POINTS[where], 2)
    exist = _smooth_there(name, where, 2)
    for place, kernel in ((1, "nngp"), (3, "ntk")):
        found = np.asarray(_hessian(name, kernel)(jnp.asarray(POINTS[where])))
        kept = 5 if name in KINKED and POINTS[where][5] == 0 else 6
        one, other = found[:kept, :kept], expected[place][:kept, :kept]
        if exist[place]:
            atol = 1e-6 * (1 + np.abs(other).max())
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=atol, err_msg=kernel)
        else:
            assert not np.isfinite(one).all(), f"{kernel}: no derivative, and none refused"


@functools.cache
def _hessian(name, kernel):
    def entry(p):
        x = p[:4].reshape(2, 2)
        at = {"depth": 3, "weight_var": p[4], "bias_var": p[5], "branch_scale": 0.8}
        return getattr(theory.kernels(name, x, **at), kernel)[0, 1]

    return jax.jit(jax.hessian(entry))


# ------------------------------------------------------------------- along lines, by differences

SMOOTH = ["tanh", "gelu", "silu", "softplus", "mish", "sigmoid", "gelu_tanh"]
BENT = ["hard_tanh", "elu", "selu", "softsign"]
# 0.001 apart, kinks bend on the scale of the distance, which differences of 1e-3 do not see.
LINES = {
    "apart": ((1.0, 2.0, 0.3, -0.5, 1.7, 0.1), 1e-3),
    "equal": ((1.0, 2.0, 1.0, 2.0, 1.7, 0.1), 1e-3),
    "opposite, no bias": ((1.0, 2.0, -1.0, -2.0, 1.7, 0.0), 1e-3),
    "one zero, no bias": ((1.0, 2.0, 0.0, 0.0, 1.7, 0.0), 1e-3),
    "0.001 apart": ((1.0, 2.0, 1.001, 2.0, 1.7, 0.1), 2e-5),
    "1e-8 apart": ((1.0, 2.0, 1.0 + 1e-8, 2.0, 1.7, 0.1), 1e-3),
}
DIRECTION = np.asarray([0.3, -0.2, -0.25, 0.15, 0.2, 0.0])


@functools.cache
def _along(name, block):
    """Entries of K(p + t v), and their first and second derivatives by t, at every t given."""

    def value(p, t):
        return _entries(name, 2, block, p + t * DIRECTION)

    first = jax.jacfwd(value, argnums=1)
    second = jax.jacfwd(jax.jacrev(value, argnums=1), argnums=1)
    return [jax.jit(f) for f in (value, first, second)]


def _central(values, step):
    return (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)


@pytest.mark.every_run("tanh", "hard_tanh")
@pytest.mark.parametrize("name", SMOOTH + BENT)
def test_derivatives_along_a_line(name, float64):
    value, first, second = _along(
        name, "residual" if name in SMOOTH[1::2] + BENT[1::2] else "plain"
    )
    for where, (point, step) in LINES.items():
        p = jnp.asarray(point)
        if name in BENT and where == "1e-8 apart":
            step = 2e-10  # within the distance of the two
        around = [k * step for k in (-2, -1, 1, 2)]
        expected = _central([np.asarray(value(p, t)) for t in around], step)
        if name in BENT and where in ("equal", "opposite, no bias", "one zero, no bias"):
            # A bend at the very place, of which both sides are met: errs linearly in the step.
            nearer = _central([np.asarray(value(p, t / 10)) for t in around], step / 10)
            expected = (10 * nearer - expected) / 9
        noise = 1e-7 + 1e-14 / step
        found = np.asarray(first(p, 0.0))
        if name == "selu" and where == "one zero, no bias":  # its slope jumps at 0
            assert not np.isfinite(found[[1, 3]]).any()
            found, expected = found[[0, 2]], expected[[0, 2]]
        np.testing.assert_allclose(found, expected, rtol=noise, atol=noise, err_msg=where)
        if name in SMOOTH:
            expected = _central([np.asarray(first(p, t)) for t in around], step)
            found = second(p, 0.0)
            np.testing.assert_allclose(found, expected, rtol=noise, atol=noise, err_msg=where)


SINGLE = ("apart", "equal", "opposite, no bias", "0.001 apart")


@pytest.mark.every_run("erf", "relu")
@pytest.mark.parametrize("name", activations.names())
def test_derivatives_in_single_precision(name):
    differentiate = jax.jit(jax.jacrev(functools.partial(_entries, name, 2, "plain")))
    for where in SINGLE:
        point = jnp.asarray(POINTS[where], jnp.float32)
        single = differentiate(point)
        assert single.dtype == jnp.float32
        with jax.enable_x64(True):  # at what single precision takes for the point
            double = differentiate(jnp.asarray(np.asarray(point, np.float64)))
        kept = 5 if POINTS[where][5] == 0 else 6  # √bias_var where c is -1
        single, double = np.asarray(single)[:, :kept], np.asarray(double)[:, :kept]
        scale = 1e-3 * (1 + np.abs(double).max())
        np.testing.assert_allclose(single, double, rtol=1e-3, atol=scale, err_msg=where)


def test_gradients_of_a_diagonal_are_those_of_a_variance():
    """Linear, two layers, weight_var 1: Θ(x, x) = |x|²."""

    def corner(x):
        return theory.kernels("linear", x, depth=2, weight_var=1.0, bias_var=0.0).ntk[0, 0]

    x = jnp.asarray([[1.0, 2.0]])
    np.testing.assert_allclose(jax.grad(corner)(x), [[2.0, 4.0]], rtol=1e-6)
    np.testing.assert_allclose(jax.hessian(corner)(x)[0, :, 0, :], 2 * np.eye(2), atol=1e-6)


@pytest.mark.parametrize("name", ["relu", "hard_tanh"])
def test_zero_weights_and_zero_inputs_take_no_other_derivative_away(name, float64):
    """By the number, and by inputs that do not vanish."""

    def total(x, weight_var):
        found = theory.kernels(name, x, depth=3, weight_var=weight_var, bias_var=0.0)
        return found.ntk.sum() + found.nngp.sum()

    x = jnp.asarray([[1.0, 2.0], [0.0, 0.0], [0.5, -1.0]])
    by_x, by_weight = jax.jit(jax.grad(total, argnums=(0, 1)))(x, jnp.asarray(1.3))
    without = jax.jit(jax.grad(total, argnums=(0, 1)))(x[::2], jnp.asarray(1.3))
    np.testing.assert_allclose(by_x[::2], without[0], rtol=1e-12)
    np.testing.assert_allclose(by_weight, without[1], rtol=1e-12)
