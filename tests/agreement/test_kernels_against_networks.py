"""NNGP and NTK of infinite width against networks in NTK parameterisation of two widths.

Over many initialisations the mean of z_i(x) z_i(x') is the NNGP and the mean of the empirical
kernel the NTK, each up to order 1/N, which 2 m(2N) - m(N) removes. The tolerance is the standard
error of that combination, √(4 s(2N)² + s(N)²): every entry must lie within
4.5 of them (72 entries).
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sigprop import gradients, theory
from sigprop.architecture import Architecture
from sigprop.networks import MLP
from tests.agreement.stored import NETWORKS, measured_once

DEPTH, WIDTH, SEEDS, OUTPUTS = 3, 48, 384, 8
CASES = [
    ("tanh", 1.7, 0.1, {}),
    ("relu", 2.0, 0.1, {}),
    ("gelu", 2.0, 0.2, {}),
    ("erf", 2.0, 0.05, {"block": "residual", "branch_scale": 0.5}),
    ("tanh", 1.7, 0.1, {"norm": "layer_norm", "block": "residual", "branch_scale": 0.5}),
    ("relu", 2.0, 0.1, {"norm": "post_rms_norm"}),
]
X = np.random.default_rng(3).standard_normal((3, 10)).astype(np.float32) * np.asarray(
    [[0.7], [1.0], [1.4]], np.float32
)


@measured_once(*NETWORKS, "gradients")
def _measured(index: int, width: int):
    """Means over seeds and outputs of both kernels, and their standard errors over seeds."""
    name, weight_var, bias_var, block = CASES[index]
    network = Architecture(
        DEPTH, width, name, weight_var, bias_var, parameterisation="ntk", **block
    )

    def held(path, leaf):
        names = {str(getattr(part, "key", getattr(part, "name", ""))) for part in path}
        return jax.lax.stop_gradient(leaf) if names & {"scale", "shift", "gain"} else leaf

    def some(model, x):
        return jax.tree_util.tree_map_with_path(held, model)(x)[:OUTPUTS]

    def one(key):
        model = MLP(network, X.shape[1], rngs=key)
        out = model(jnp.asarray(X))  # all outputs are alike
        nngp = jnp.matmul(out, out.T, precision="highest") / width
        return nngp, gradients.empirical_ntk(model, X, apply=some, trace=True)

    keys = jax.random.split(jax.random.fold_in(jax.random.key(index), width), SEEDS)
    found = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=16))(keys)
    return [
        (np.mean(f, axis=0, dtype=float), np.std(f, axis=0, dtype=float) / np.sqrt(SEEDS))
        for f in map(np.asarray, found)
    ]


@pytest.mark.parametrize("index", range(len(CASES)), ids=lambda i: f"{CASES[i][0]}-{i}")
def test_both_kernels_extrapolate_to_theory(index):
    name, weight_var, bias_var, block = CASES[index]
    predicted = theory.kernels(Architecture(DEPTH, 8, name, weight_var, bias_var, **block), X)
    narrow, wide = _measured(index, WIDTH), _measured(index, 2 * WIDTH)
    for exact, (at_n, error_n), (at_2n, error_2n) in zip(
        (predicted.nngp, predicted.ntk), narrow, wide
    ):
        error = np.sqrt(4 * error_2n**2 + error_n**2)
        assert np.all(error < 0.05 * np.max(exact))  # a few per cent would be seen
        assert np.all(np.abs(2 * at_2n - at_n - exact) < 4.5 * error)


def test_fluctuations_of_the_kernel_fall_as_the_width_grows():
    """Var of an entry is of order 1/N: doubling the width halves it."""
    (_, narrow), (_, wide) = _measured(0, WIDTH)[1], _measured(0, 2 * WIDTH)[1]
    ratio = np.mean(np.diag(narrow) ** 2) / np.mean(np.diag(wide) ** 2)
    # A ratio of two variances over 384 seeds: ±10%; order 1/N of its own: ±10%.
    assert 1.5 < ratio < 2.7
