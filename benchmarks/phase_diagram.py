"""How fast a phase diagram is measured and predicted, against what one would otherwise write.

    python benchmarks/phase_diagram.py            # width 512, depth 64, 64 x 64 cells
    python benchmarks/phase_diagram.py --quick    # a small one, to see that it works

Prints what it finds and, as its last line, one JSON object. Every ratio compares things measured in
the same round of the same run, and is the median over rounds: on a shared machine speeds drift.
"""

import argparse
import json
import os
import resource
import statistics
import time
from dataclasses import dataclass

import jax
import numpy as np
import numpy_loops
import scipy_theory
from threadpoolctl import threadpool_limits

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Size:
    """What is run."""

    width: int = 512
    depth: int = 64
    grid: int = 64  # cells along each axis
    rounds: int = 5
    eager_cells: int = 3  # a round and thread count
    shared_cells: int = 16
    matmul: int = 2048
    scipy_side: int = 4  # scipy runs on this many cells along each axis
    compile_repeats: int = 3

    @property
    def weight_vars(self) -> np.ndarray:
        """First axis of the grid, as a column."""
        return np.linspace(0.5, 4.0, self.grid)[:, None]

    @property
    def bias_vars(self) -> np.ndarray:
        """Second axis of the grid."""
        return np.linspace(0.01, 0.5, self.grid)

    @property
    def cells(self) -> int:
        """Of the whole diagram."""
        return self.grid**2

    @property
    def flops(self) -> float:
        """Of the multiplies the method needs: one forward and one backward a layer, two inputs."""
        return 2 * 2 * self.width**2 * 2 * self.depth * self.cells


QUICK = Size(width=128, depth=16, grid=16, rounds=2, matmul=512, scipy_side=2, compile_repeats=1)


def seconds(run, repeats: int = 1) -> float:
    """Median wall time of one call."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


# ------------------------------------------------------------------------- measuring


def diagram(size: Size, seed: int):
    """The product's own run."""
    from sigprop import propagation
    from sigprop.architecture import Architecture

    architecture = Architecture(
        size.depth, size.width, "tanh", weight_var=size.weight_vars, bias_var=size.bias_vars
    )
    return propagation.measure(architecture, inputs(size), key=jax.random.key(seed), seeds=1)


def inputs(size: Size) -> np.ndarray:
    """Two Gaussian inputs."""
    return np.random.default_rng(0).standard_normal((2, size.width)).astype(np.float32)


def matmul_rates(size: Size):
    """The ways to ask a machine for its matrix-multiply rate; the best of them is its peak."""
    n = size.matmul
    mesh = jax.make_mesh((jax.device_count(),), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.NamedSharding(mesh, jax.P("d"))
    product = jax.jit(lambda a, b: jax.numpy.matmul(a, b, precision="highest"))
    host = np.random.default_rng(0).standard_normal((n, n)).astype(np.float32)
    one = jax.device_put(host)
    many = jax.device_put(np.broadcast_to(host, (jax.device_count(), n, n)), split)
    ways = {"one device": (one, one, 1), "all devices": (many, many, jax.device_count())}

    def rates() -> dict[str, float]:
        found = {}
        for name, (a, b, count) in ways.items():
            product(a, b).block_until_ready()
            took = seconds(lambda a=a, b=b: product(a, b).block_until_ready(), 5)
            found[name] = 2 * n**3 * count / took
        return found

    return rates


def eager_seconds(size: Size, rng: np.random.Generator) -> float:
    """A cell of the eager loop that draws every network afresh."""
    x, cotangent = inputs(size), inputs(size)

    def one_cell():
        weights, biases = numpy_loops.unit_draws(rng, size.depth, size.width)
        numpy_loops.measure_cell(weights, biases, x, cotangent, 1.5, 0.05)

    return best_over_threads(one_cell, size.eager_cells)


def shared_draw_seconds(size: Size, draws) -> float:
    """A cell of the eager loop whose draws are made once (and not counted)."""
    x, cotangent = inputs(size), inputs(size)
    weights, biases = draws

    def one_cell():
        numpy_loops.measure_cell(weights, biases, x, cotangent, 1.5, 0.05)

    return best_over_threads(one_cell, size.shared_cells)


def best_over_threads(one_cell, cells: int) -> float:
    """Median seconds a cell, with the number of BLAS threads that serves best."""
    best = float("inf")
    for threads in sorted({1, CORES}):
        with threadpool_limits(limits=threads, user_api="blas"):
            best = min(best, seconds(one_cell, cells))
    return best


def compare_measuring(size: Size) -> dict[str, float]:
    """Medians over rounds of the product against its peers and the machine's peak."""
    rates, rng = matmul_rates(size), np.random.default_rng(1)
    draws = numpy_loops.unit_draws(rng, size.depth, size.width)
    first = seconds(lambda: diagram(size, 0))
    print(f"first call, compiling: {first:.1f} s; memory {peak_memory_mb():.0f} MB")
    memory, rounds = peak_memory_mb(), []
    for number in range(size.rounds):
        peak = max(rates().values())
        ours = seconds(lambda number=number: diagram(size, number + 1))
        peak = max(peak, *rates().values())  # the better of before and after
        fresh, shared = eager_seconds(size, rng), shared_draw_seconds(size, draws)
        rounds.append(
            {
                "cells_per_second": size.cells / ours,
                "fraction_of_matmul_peak": size.flops / ours / peak,
                "speedup_vs_eager_loop": fresh * size.cells / ours,
                "speedup_vs_shared_draw_loop": shared * size.cells / ours,
                "matmul_gflops": peak / 1e9,
                "eager_loop_cells_per_second": 1 / fresh,
                "shared_draw_loop_cells_per_second": 1 / shared,
            }
        )
        print(f"round {number + 1}: " + ", ".join(f"{k} {v:.3g}" for k, v in rounds[-1].items()))
    found = {name: statistics.median(r[name] for r in rounds) for name in rounds[0]}
    return found | {"peak_memory_mb": memory, "first_call_seconds": first}


def peak_memory_mb() -> float:
    """Of this process so far; of the device where it has memory of its own."""
    on_device = jax.local_devices()[0].memory_stats()
    if on_device and "peak_bytes_in_use" in on_device:
        return on_device["peak_bytes_in_use"] / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


# ------------------------------------------------------------------------- compiling

_compiling: list[float] = []


def _listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
    if event.startswith("/jax/core/compile/"):
        _compiling.append(duration_secs)


def compile_seconds(size: Size, depth: int) -> float:
    """What JAX spends on tracing, lowering and compiling a measurement of this depth."""
    from sigprop import propagation
    from sigprop.architecture import Architecture

    jax.clear_caches()
    _compiling.clear()
    architecture = Architecture(depth, size.width, "tanh", weight_var=[1.0, 2.0], bias_var=0.05)
    propagation.measure(architecture, inputs(size), key=jax.random.key(0), seeds=1)
    return sum(_compiling)


def compare_compiling(size: Size) -> dict[str, float]:
    """Depth 1000 against depth 10."""
    pairs = [
        (compile_seconds(size, 10), compile_seconds(size, 1000))
        for _ in range(size.compile_repeats)
    ]
    for shallow, deep in pairs:
        print(f"compiling depth 10: {shallow:.2f} s, depth 1000: {deep:.2f} s")
    ratio = statistics.median(deep / shallow for shallow, deep in pairs)
    return {"compile_seconds_ratio_depth_1000_to_10": ratio}


# ------------------------------------------------------------------------- predicting

STATED_ACCURACY = 1e-9
FIELDS = ("variance", "chi_1", "correlation", "chi_c")


def compare_theory(size: Size) -> dict[str, float]:
    """The theory's diagram against scipy, which runs on cells spread evenly over the grid."""
    from sigprop import theory

    predict = lambda: theory.fixed_point(  # noqa: E731
        "tanh", weight_var=size.weight_vars, bias_var=size.bias_vars
    )
    first, predicted = seconds(predict), predict()
    chosen = np.linspace(0, size.grid - 1, size.scipy_side + 2).round().astype(int)[1:-1]
    rounds, per_cell, worst = [], {True: [], False: []}, 0.0
    for i in chosen:
        for j in chosen:
            weight_var, bias_var = float(size.weight_vars[i, 0]), float(size.bias_vars[j])
            start = time.perf_counter()
            reference = scipy_theory.fixed_point(weight_var, bias_var)
            per_cell[reference[1] > 1].append(time.perf_counter() - start)
            ours = [float(getattr(predicted, name)[i, j]) for name in FIELDS]
            worst = max(worst, *(abs(a / b - 1) for a, b in zip(ours, reference)))
        rounds.append(seconds(predict))
    if worst > STATED_ACCURACY:
        raise SystemExit(f"theory and scipy differ by {worst:.1e}, more than {STATED_ACCURACY:.0e}")
    ours, scipys = (
        statistics.median(rounds),
        _scipy_diagram_seconds(per_cell, np.asarray(predicted.chi_1) > 1),
    )
    print(
        f"theory: {ours:.2f} s (first call {first:.1f} s); scipy on {len(chosen) ** 2} cells, "
        f"extrapolated: {scipys:.0f} s; largest relative difference {worst:.1e}"
    )
    return {
        "theory_speedup_vs_scipy": scipys / ours,
        "theory_seconds": ours,
        "theory_largest_difference": worst,
    }


def _scipy_diagram_seconds(per_cell: dict[bool, list[float]], chaotic: np.ndarray) -> float:
    """Ordered cells are cheap and chaotic ones dear: each phase counts with its own mean."""
    counts = {True: int(chaotic.sum()), False: int((~chaotic).sum())}
    return sum(counts[c] * statistics.mean(times) for c, times in per_cell.items() if times)


def main() -> None:
    """Run everything and print one JSON object last."""
    parser = argparse.ArgumentParser(description="How fast a phase diagram is made.")
    parser.add_argument("--quick", action="store_true", help="small sizes: does it work?")
    size = QUICK if parser.parse_args().quick else Size()
    jax.config.update("jax_num_cpu_devices", CORES)
    jax.monitoring.register_event_duration_secs_listener(_listen)
    device = jax.local_devices()[0]
    name = f"{jax.device_count()} x {device.device_kind} ({device.platform})"
    print(f"{name}; width {size.width}, depth {size.depth}, {size.grid} x {size.grid} cells")
    found = compare_measuring(size) | compare_compiling(size) | compare_theory(size)
    print(json.dumps({"device": name, **{k: float(f"{v:.4g}") for k, v in found.items()}}))


if __name__ == "__main__":
    main()
