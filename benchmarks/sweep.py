"""What the runner and its store cost, and what engines and refinement gain.

    python benchmarks/sweep.py            # 200 chunks, a dataset of several gigabytes (of zeros)
    python benchmarks/sweep.py --quick    # a small one, to see that it works

Prints what it finds and, as its last line, one JSON object. Every ratio compares things measured in
the same run; on a busy machine two workers cannot be twice as fast as one.
"""

import argparse
import contextlib
import dataclasses
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from sigprop import propagation, sweeps
from sigprop.architecture import Architecture


@dataclasses.dataclass(frozen=True)
class Variable:
    """One output."""

    axes: tuple[str, ...]
    dims: tuple[str, ...] = ()
    dtype: str = "float32"
    attrs: dict = dataclasses.field(default_factory=dict)


class Plain:
    """What all studies here share."""

    version = 1
    static_axes, traced_axes = (), ("x", "y")
    axis_attrs, coordinates = {}, {}
    bytes_per_cell, cell_multiple, seconds_per_cell = 1000, 1, 1e-6

    def check(self, grid):
        """Anything goes."""

    def config(self):
        """Nothing besides the grid decides."""
        return {}

    def attributes(self):
        """No more."""
        return {}


class Layers(Plain):
    """Layers of a deep network at every cell."""

    name = "layers"

    def __init__(self, width: int, depth: int):
        self.width, self.depth = width, depth
        self.coordinates = {"layer": np.arange(depth)}
        everywhere = ("x", "y")
        self.variables = {
            "variance": Variable(everywhere, ("layer",)),
            "last": Variable(everywhere),
            "stable": Variable(everywhere, dtype="int8"),
        }

    def compute(self, static, cells):
        """One multiply a layer for all cells of the chunk."""
        variance = np.asarray(_variances(self.width, self.depth, cells["x"].astype(np.float32)))
        return {"variance": variance, "last": variance[:, -1], "stable": variance[:, -1] > 0.1}


@functools.partial(jax.jit, static_argnums=(0, 1))
def _variances(width: int, depth: int, scale):
    weights = jax.random.normal(jax.random.key(0), (width, width)) / width**0.5

    def layer(h, _):
        z = scale[:, None] * (h @ weights)
        return jnp.tanh(z), (z * z).mean(1)

    start = jnp.ones((len(scale), width))
    return jax.lax.scan(layer, start, None, depth)[1].T


class Large(Plain):
    """A cell of a megabyte, of which the study says that it is a thousand bytes."""

    name = "large"
    coordinates = {"entry": np.arange(2**17)}  # noqa: RUF012
    variables = {"value": Variable(("x", "y"), ("entry",), "float64")}  # noqa: RUF012

    def compute(self, static, cells):
        """Zeros, which take no room on the disk."""
        return {"value": np.zeros((len(cells["x"]), 2**17))}


class Phases(Plain):
    """A wavy boundary across the plane."""

    name = "phases"
    variables = {"phase": Variable(("x", "y"), (), "int8", {"flag_values": [0, 1]})}  # noqa: RUF012

    def compute(self, static, cells):
        """Above the line or below."""
        return {"phase": cells["y"] > 0.5 + 0.2 * np.sin(5 * cells["x"])}


def plane(x: int, y: int) -> dict[str, np.ndarray]:
    """A grid."""
    return {"x": np.linspace(0.5, 2.0, x), "y": np.linspace(0.0, 1.0, y)}


class Diagram(Plain):
    """What phase_diagram.py --preset small measures, 256 cells a chunk as the runner has them.

    The script measures two widths and asks theory too: its chunks take several times longer.
    """

    name = "diagram"
    traced_axes = ("weight_var", "bias_var")
    depth, width, seeds = 50, 256, 4
    per_layer = ("variance", "correlation", "log_gradient_z", "log_gradient_w", "log_gradient_b")
    per_cell = ("gradient_rate", "gradient_rate_stderr", "diverged_at_layer")
    coordinates = {"layer": np.arange(depth)}  # noqa: RUF012

    @property
    def variables(self):
        """Every layer's, their errors, and some of the cell."""
        layers = [f"{name}{kind}" for name in self.per_layer for kind in ("", "_stderr")]
        dims = dict.fromkeys(layers, ("layer",)) | dict.fromkeys(self.per_cell, ())
        return {name: Variable(self.traced_axes, own) for name, own in dims.items()}

    def compute(self, static, cells):
        """Real networks, forward and backward."""
        networks = Architecture(self.depth, self.width, "tanh", **cells)
        found = propagation.measure(
            networks, np.ones((2, self.width)), key=jax.random.key(0), seeds=self.seeds
        )
        return {name: np.asarray(getattr(found, name)) for name in self.variables}


def overhead(chunks: int, rounds: int) -> dict[str, float]:
    """What a stored sweep takes over the bare calls: medians over shards that alternate with them.

    A shard opens the store, reads what is there, and computes its part: more than one run does.
    """
    study = Diagram()
    grid = {"weight_var": np.linspace(0.5, 2.0, chunks), "bias_var": np.linspace(0.0, 1.0, 256)}
    calls = [
        {"weight_var": np.full(256, x), "bias_var": grid["bias_var"]} for x in grid["weight_var"]
    ]
    study.compute({}, calls[0])
    each, bare, swept = chunks // rounds, [], []
    with tempfile.TemporaryDirectory() as folder:
        run = functools.partial(sweeps.run, store=Path(folder) / "diagram.zarr", progress=False)
        for number in range(rounds):
            mine = calls[number::rounds]
            bare.append(_seconds(lambda mine=mine: [study.compute({}, cells) for cells in mine]))
            shard = f"{number}/{rounds}"
            swept.append(_seconds(lambda shard=shard: run(study, grid, shard=shard)))
            print(f"{each} chunks: bare {bare[-1]:.2f} s, swept and stored {swept[-1]:.2f} s")
        with sweeps.open(Path(folder) / "diagram.zarr") as ds:
            if ds.attrs["status"] != "complete" or ds.attrs["cells_per_call"] != 256:
                raise SystemExit("the sweep is not what was to be measured")
    return {
        "overhead_fraction": statistics.median(s / b - 1 for b, s in zip(bare, swept)),
        "overhead_ms_per_chunk": 1e3
        * statistics.median((s - b) / each for b, s in zip(bare, swept)),
        "chunk_seconds": statistics.median(bare) / each,
    }


def _seconds(call) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def dask_two_workers_speedup(chunks: int) -> float:
    """A sweep by two Dask workers of one core each, over one; both have compiled before."""
    seconds = {count: _dask_seconds(count, chunks) for count in (1, 2)}
    print(f"{chunks} chunks by Dask: " + ", ".join(f"{n}: {s:.2f} s" for n, s in seconds.items()))
    return seconds[1] / seconds[2]


def _dask_seconds(workers: int, chunks: int) -> float:
    from sigprop.sweeps import dask_engine

    study = Layers(512, 64)
    with _cores(workers), dask_engine.opened("dask", None, workers) as engine:
        run = functools.partial(
            sweeps.run, study, engine=engine.client, chunk_cells=256, progress=False
        )
        run(plane(4 * workers, 256))
        return _seconds(lambda: run(plane(chunks, 256)))


@contextlib.contextmanager
def _cores(count: int):
    """Keep to ``count`` cores, as do the processes started meanwhile."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(sorted(cores)[:count]))
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def memory(budget_mb: int) -> dict[str, float]:
    """A sweep of ten times its budget, in a process of its own whose resident size is watched."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--large", str(budget_mb), f"{folder}/large.zarr"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        status, peak = Path(f"/proc/{process.pid}/statm"), 0
        while process.poll() is None:
            with contextlib.suppress(OSError, IndexError):
                peak = max(peak, int(status.read_text().split()[1]) * 4096)
            time.sleep(0.002)
        held = float((process.stdout.read() if process.stdout else "0").splitlines()[-1])
    found = {
        "cells_in_memory_mb": peak / 2**20 - held,
        "peak_mb": peak / 2**20,
        "memory_budget_mb": float(budget_mb),
        "dataset_mb": 10.0 * budget_mb,
    }
    print("sweep ten times its budget: " + ", ".join(f"{k} {v:.0f}" for k, v in found.items()))
    return found


def large(budget_mb: int, store: str) -> None:
    """Run the large sweep; prints what the process held before its first cell."""
    from sigprop.sweeps.memory import resident_bytes

    jnp.zeros(1).block_until_ready()
    held = resident_bytes() / 2**20
    sweeps.run(
        Large(), plane(10 * budget_mb // 64, 64), store=store,
        memory_budget=budget_mb * 2**20, progress=False,
    )  # fmt: skip
    print(held)


def refinement_fraction(side: int) -> float:
    """Cells of a refined plane over those of the full one."""
    ds = sweeps.run(Phases(), plane(side, side), refine=["x", "y"], progress=False)
    return float(ds["done"].mean())


def main() -> None:
    """Measure, print, and end with a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--large", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.large:
        large(int(options.large[0]), options.large[1])
        return
    chunks, rounds, budget = (20, 2, 640) if options.quick else (200, 5, 640)
    told = {
        **overhead(chunks, rounds),
        "dask_two_workers_speedup": dask_two_workers_speedup(chunks),
        **memory(budget),
        "refinement_fraction": refinement_fraction(1024),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0,
        "load_average": os.getloadavg()[0],
    }
    print(json.dumps({name: round(value, 4) for name, value in told.items()}))


if __name__ == "__main__":
    main()
