"""What the Jacobian spectra cost, against the least they could and against doing it by hand.

    python benchmarks/jacobian_spectra.py

Prints one JSON object as its last line. All ratios are of times measured in the same run.
"""

import functools
import json
import pathlib
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import get_blas_funcs, get_lapack_funcs
from threadpoolctl import threadpool_limits

from sigprop import jacobian
from sigprop.architecture import Architecture
from sigprop.networks import MLP

WIDTH, DEPTH = 256, 64
PRODUCT_DEPTH = 1000
SAMPLED_LAYERS = 8  # of those the slow way by hand is tried on
CHANNELS, SIDE, CONVOLUTIONS = 4, 64, 10


def main() -> None:
    """Measure, print, and end with the JSON line."""
    if sys.argv[1:] == ["--matrix-free"]:
        print(json.dumps(matrix_free()))
        return
    figures = layered() | products() | _in_fresh_process("--matrix-free")
    for name, value in figures.items():
        print(f"{name:32s} {value:.4g}")
    print(json.dumps(figures))


def layered() -> dict[str, float]:
    """Every cumulative spectrum of a network, against bare SVDs and against jacrev per layer."""
    architecture = Architecture(
        depth=DEPTH, width=WIDTH, activation="tanh", weight_var=1.2, bias_var=0.05
    )
    network = MLP(architecture, WIDTH, rngs=jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (WIDTH,))
    cumulative = functools.partial(jacobian.spectra, network, x, "cumulative")
    first_call, _ = _timed(cumulative)
    matrices = jax.block_until_ready(jacobian.span_jacobians(network, x, "cumulative"))
    decompose = jax.jit(jnp.linalg.svdvals)
    bare, ours = [], []
    jax.block_until_ready(decompose(matrices))
    for _ in range(7):
        bare.append(_with_best_threads(lambda: jax.block_until_ready(decompose(matrices))))
        ours.append(_timed(cumulative)[0])
    by_hand = jacrev_per_layer(network, x)
    return {
        "time_over_bare_svds": statistics.median(ours) / statistics.median(bare),
        "cumulative_spectra_seconds": statistics.median(ours),
        "speedup_vs_jacrev_per_layer": by_hand / first_call,
    }


def jacrev_per_layer(network: MLP, x) -> float:
    """Seconds for all layers by jacrev and svd, compile included, from an even sample of them."""
    first, hidden = network.first.effective(), network.hidden.effective()
    weights = [first[0], *hidden[0]]
    biases = [first[1], *hidden[1]]

    def through(depth, x):
        for weight, bias in zip(weights[:depth], biases[:depth]):
            x = jnp.tanh(weight @ x + bias)
        return x

    sample = np.linspace(DEPTH / SAMPLED_LAYERS / 2, DEPTH, SAMPLED_LAYERS, endpoint=False)
    seconds = 0.0
    for depth in sample.astype(int) + 1:
        spectrum = jax.jit(
            lambda x, d=depth: jnp.linalg.svdvals(jax.jacrev(lambda y: through(d, y))(x))
        )
        seconds += _timed(lambda run=spectrum: jax.block_until_ready(run(x)))[0]
    return seconds * DEPTH / SAMPLED_LAYERS


def products() -> dict[str, float]:
    """A deep product, against one QR and one multiply per factor."""
    rng = np.random.default_rng(0)
    factors = rng.standard_normal((PRODUCT_DEPTH, WIDTH, WIDTH)) / np.sqrt(WIDTH)
    floors, ours = [], []
    record = jacobian.log_product(factors[:100])
    for _ in range(3):
        # The threads that are best for a tenth of the chain are so for the whole.
        floors.append(10 * _with_best_threads(lambda: _qr_chain(factors[: PRODUCT_DEPTH // 10])))
        seconds, record = _timed(lambda: jacobian.log_product(factors))
        ours.append(seconds)
    return {
        "log_product_time_over_qr_floor": statistics.median(ours) / statistics.median(floors),
        "log_product_seconds": statistics.median(ours),
        "log_product_largest_error": float(np.max(record.error)),
    }


def _qr_chain(factors) -> None:
    """The floor: LAPACK's Householder QR, with the frame formed, and BLAS's multiply."""
    (multiply,) = get_blas_funcs(("gemm",), dtype=np.float64)
    decompose, form = get_lapack_funcs(("geqrf", "orgqr"), dtype=np.float64)
    frame, work = np.eye(WIDTH, order="F"), 64 * WIDTH
    for factor in factors:
        product = multiply(1.0, factor.T, frame, trans_a=1)
        packed, tau, _, _ = decompose(product, lwork=work, overwrite_a=1)
        frame, _, _ = form(packed, tau, lwork=work, overwrite_a=1)


def matrix_free() -> dict[str, float]:
    """Ten circular 3x3 convolutions of 64 x 64 x 4: time and memory beyond what imports take."""
    key = jax.random.key(0)
    kernels = jax.random.normal(key, (CONVOLUTIONS, 3, 3, CHANNELS, CHANNELS))
    kernels = kernels * (1.3 / (9 * CHANNELS)) ** 0.5
    x = jax.random.normal(jax.random.key(1), (SIDE, SIDE, CHANNELS))

    def network(x):
        def layer(x, kernel):
            padded = jnp.pad(x, ((1, 1), (1, 1), (0, 0)), mode="wrap")[None]
            out = jax.lax.conv_general_dilated(
                padded, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            return jnp.tanh(out[0]), None

        return jax.lax.scan(layer, x, kernels)[0]

    before = _peak_mb()
    seconds, largest = _timed(
        lambda: jax.block_until_ready(
            jacobian.extreme_singular_values(network, x, 4, "largest", key=key)
        )
    )
    smallest = jacobian.extreme_singular_values(network, x, 4, "smallest", key=key)
    density = jacobian.spectral_density(network, x, key=key)
    moments = jacobian.moments(network, x, key=key)
    jax.block_until_ready((smallest, density, moments))
    return {
        "matrix_free_peak_mb": _peak_mb() - before,
        "matrix_free_largest_seconds": seconds,
        "matrix_free_largest": float(largest.singular_values[0]),
        "matrix_free_largest_bound": float(largest.residual_bound[0]),
    }


def _in_fresh_process(argument: str) -> dict[str, float]:
    """Its last line, read as JSON: peak memory is that of a whole process."""
    done = subprocess.run(
        [sys.executable, __file__, argument], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def _peak_mb() -> float:
    """Peak resident memory of this process.

    Linux hands the peak that getrusage tells down to a child, so there it is read elsewhere.
    """
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) / 2**10
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


def _with_best_threads(run: Callable) -> float:
    """Seconds of the faster of one BLAS thread and as many as the user has set."""
    with threadpool_limits(limits=1, user_api="blas"):
        single, _ = _timed(run)
    return min(single, _timed(run)[0])


def _timed(run: Callable):
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


if __name__ == "__main__":
    main()
