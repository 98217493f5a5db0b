"""Derivatives of the kernels of norms and of layers of one's own, against 90 digits.

The reference knows kernels alone: a norm divides both by √(q q̂), weights multiply K by σ_w² and add
it to Θ, a skip adds.
"""

import functools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from sigprop import kinds, theory
from sigprop.architecture import Architecture
from tests.reference.exact_kernels import KINKED, KNOWN, derivatives

PAIRS = ((0, 0), (1, 1), (0, 1))


def _activated(name):
    def step(k, ntk, w, b, scale):
        found = {p: KNOWN[name](k[p[0], p[0]], k[p[1], p[1]], k[p]) for p in PAIRS}
        return {p: f[0] for p, f in found.items()}, {p: f[1] * ntk[p] for p, f in found.items()}

    return step


def _dense(k, ntk, w, b, scale):
    k = {p: w * v + b for p, v in k.items()}
    return k, {p: w * ntk[p] + k[p] for p in PAIRS}


def _weights(k, ntk, w, b, scale):
    return _dense(k, ntk, w, 0, scale)


def _bias(k, ntk, w, b, scale):
    return {p: v + b for p, v in k.items()}, {p: v + b for p, v in ntk.items()}


def _norm(k, ntk, w, b, scale):
    size = {p: mpmath.sqrt(k[p[0], p[0]] * k[p[1], p[1]]) for p in PAIRS}
    return {p: k[p] / size[p] for p in PAIRS}, {p: ntk[p] / size[p] for p in PAIRS}


def _skip(*branch):
    def step(k, ntk, w, b, scale):
        after = _sequence(branch, k, ntk, w, b, scale)
        return tuple({p: v[p] + scale**2 * u[p] for p in PAIRS} for v, u in zip((k, ntk), after))

    return step


def _sequence(steps, k, ntk, *numbers):
    for step in steps:
        k, ntk = step(k, ntk, *numbers)
    return k, ntk


TWICE = kinds.Skip(
    kinds.Sequence(kinds.Norm(), kinds.Pointwise(), kinds.Dense(), kinds.Pointwise(), kinds.Dense())
)
# What an architecture is told, and the same as steps on kernels around an activation.
LAYERS = {
    "layer norm": ({"norm": "layer_norm"}, lambda φ: (_norm, φ, _dense)),
    "rms norm, skip": (
        {"norm": "rms_norm", "block": "residual"},
        lambda φ: (_skip(_norm, φ, _weights), _bias),
    ),
    "post norm": ({"norm": "post_layer_norm"}, lambda φ: (φ, _dense, _norm)),
    "post norm, skip": (
        {"norm": "post_rms_norm", "block": "residual"},
        lambda φ: (_skip(φ, _weights), _bias, _norm),
    ),
    "weight norm": ({"norm": "weight_norm"}, lambda φ: (φ, _dense)),
    "one's own": ({"layer": TWICE}, lambda φ: (_skip(_norm, φ, _dense, φ, _dense),)),
}
# Two inputs of two features, weight_var, bias_var.
POINTS = {
    "apart": (1.0, 2.0, 0.3, -0.5, 1.7, 0.1),
    "equal variance": (1.0, 2.0, -2.0, 1.0, 1.7, 0.1),
    "equal": (1.0, 2.0, 1.0, 2.0, 1.7, 0.1),
    "opposite, no bias": (1.0, 2.0, -1.0, -2.0, 1.7, 0.0),
    "one zero": (1.0, 2.0, 0.0, 0.0, 1.7, 0.1),
    "one zero, no bias": (1.0, 2.0, 0.0, 0.0, 1.7, 0.0),
    "1e-8 apart": (1.0, 2.0, 1.0 + 1e-8, 2.0 - 3e-8, 1.7, 0.1),
}
SCALE = 0.8


def _entry(name, change, kernel, point):
    extra = {} if "norm" in change and "block" not in change else {"branch_scale": SCALE}
    net = Architecture(3, 8, name, point[4], point[5], **extra, **change)
    return getattr(theory.kernels(net, point[:4].reshape(2, 2)), kernel)[0, 1]


def _exact(steps, *point):
    x, (w, b) = (point[:2], point[2:4]), point[4:]
    k = {(i, j): w * (x[i][0] * x[j][0] + x[i][1] * x[j][1]) / 2 + b for i, j in PAIRS}
    k, ntk = _sequence(2 * steps, k, dict(k), w, b, mpmath.mpf(SCALE))
    return k[0, 1], ntk[0, 1]


@functools.cache
def _compiled(name, layer, kernel, order):
    entry = functools.partial(_entry, name, LAYERS[layer][0], kernel)
    return jax.jit((lambda f: f, jax.jacrev, jax.hessian)[order](entry))


def _refused(name, layer, where, kernel, order):
    """Where there is no such derivative."""
    if where == "one zero, no bias" and order:
        return layer != "weight norm" or name in KINKED
    cone = where in ("equal", "opposite, no bias") and name in KINKED
    return cone and kernel == "ntk" and order == 2


CASES = [(n, k, o) for n in ("relu", "erf") for k in LAYERS for o in (1, 2)]
CASES += [("leaky_relu(0.2)", k, 0) for k in LAYERS]


@pytest.mark.every_run("erf-layer norm-1", "relu-rms norm, skip-1", "relu-weight norm-1")
@pytest.mark.parametrize(
    ("name", "layer", "order"), [pytest.param(*c, id="-".join(map(str, c))) for c in CASES]
)
def test_derivatives(name, layer, order, float64):
    exact = functools.partial(_exact, LAYERS[layer][1](_activated(name)))
    for place, kernel in enumerate(("nngp", "ntk")):
        differentiate = _compiled(name, layer, kernel, order)
        for where, point in POINTS.items():
            label = f"{where}, {kernel}"
            found = np.asarray(differentiate(jnp.asarray(point)))
            if _refused(name, layer, where, kernel, order):
                assert not np.isfinite(found).all(), label
            elif where != "one zero, no bias" or layer == "weight norm":  # by which a norm divides
                kept = 5 if name in KINKED and point[5] == 0 else 6  # √bias_var where c is -1
                at = (slice(kept),) * order
                one, other = found[at], derivatives(exact, point, order)[place][at]
                atol = 1e-6 * (1 + np.abs(other).max())
                np.testing.assert_allclose(one, other, rtol=1e-6, atol=atol, err_msg=label)


def test_an_input_that_vanishes_is_normalised_to_nothing():
    """As the layer does it: what has no size is left at 0."""
    x = np.asarray([[0.0, 0.0], [1.0, 2.0]])
    found = theory.kernels(Architecture(2, 8, "relu", 1.5, norm="layer_norm"), x)
    np.testing.assert_allclose(found.nngp, [[0, 0], [0, 1.5 / 2]], rtol=1e-12)
    np.testing.assert_allclose(found.ntk, [[0, 0], [0, 1.5]], rtol=1e-12)


def test_equal_rows_stay_one_and_near_rows_part_at_their_own_rate():
    """Tanh in the chaotic phase behind RMS norm: 1 - c grows by χ a layer, and no faster."""
    base, other = np.random.default_rng(0).standard_normal((2, 50))
    near = base + 1e-8 * other
    apart = 1e-16 * (other @ other - (other @ base) ** 2 / (base @ base)) / (base @ base) / 2
    net = Architecture(120, 8, "tanh", 64.0, norm="rms_norm")
    found = theory.kernels(net, np.stack([base, base, near])).nngp
    assert found[0, 1] == found[0, 0]
    expected = apart * float(theory.predict(net).chi[-1]) ** 119
    assert 1e-9 < expected < 1e-6
    np.testing.assert_allclose(1 - found[0, 2] / found[0, 0], expected, rtol=1e-4)
