"""How fast each block is measured, against a plain network of equal depth, width and inputs.

    python benchmarks/blocks.py            # width 512, depth 64
    python benchmarks/blocks.py --quick    # a small one, to see that it works

Prints what it finds and, as its last line, one JSON object: ``<block>_over_plain`` is cells a
second of the block over those of the plain network. Both sides of a ratio have the same inputs and
run one after the other in the same round; the ratio is the median over rounds.
"""

import argparse
import json
import os
import statistics
import time
from dataclasses import dataclass

import jax
import numpy as np

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

# (what the architecture says, inputs of a cell): batch norm needs a batch.
BLOCKS = {
    "residual": ({"block": "residual", "branch_scale": "1/sqrt(depth)"}, 2),
    "layer_norm": ({"norm": "layer_norm"}, 2),
    "post_layer_norm": ({"norm": "post_layer_norm"}, 2),
    "rms_norm": ({"norm": "rms_norm"}, 2),
    "post_rms_norm": ({"norm": "post_rms_norm"}, 2),
    "weight_norm": ({"norm": "weight_norm"}, 2),
    "dropout": ({"dropout": 0.1}, 2),
    "residual_layer_norm_dropout": (
        {"block": "residual", "norm": "layer_norm", "dropout": 0.1},
        2,
    ),
    "batch_norm": ({"norm": "batch_norm"}, 32),
}
REQUIRED = {"residual": 0.4, "layer_norm": 0.4, "rms_norm": 0.4, "batch_norm": 0.25}


@dataclass(frozen=True)
class Size:
    """What is run."""

    width: int = 512
    depth: int = 64
    rows: int = 4096  # cells times inputs
    rounds: int = 5


QUICK = Size(width=64, depth=8, rows=512, rounds=3)


def measurement(size: Size, change: dict, inputs: int):
    """A function that measures a row of cells with the draws of a seed."""
    from sigprop import propagation
    from sigprop.architecture import Architecture

    cells = size.rows // inputs
    architecture = Architecture(
        size.depth,
        size.width,
        "tanh",
        weight_var=np.linspace(0.5, 4.0, cells),
        bias_var=0.05,
        **change,
    )
    x = np.random.default_rng(0).standard_normal((inputs, size.width)).astype(np.float32)
    return lambda seed: propagation.measure(architecture, x, key=jax.random.key(seed), seeds=1)


def seconds(run, seed: int) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    run(seed)
    return time.perf_counter() - start


def compare(size: Size, change: dict, inputs: int) -> tuple[float, float]:
    """The block's speed over the plain network's, and its cells a second: medians over rounds."""
    plain, block = measurement(size, {}, inputs), measurement(size, change, inputs)
    for run in (plain, block):
        run(0)  # compiles
    ratios, rates = [], []
    for number in range(1, size.rounds + 1):
        before, ours = seconds(plain, number), seconds(block, number)
        after = seconds(plain, number)  # speeds drift on a shared machine
        ratios.append((before + after) / 2 / ours)
        rates.append(size.rows // inputs / ours)
    return statistics.median(ratios), statistics.median(rates)


def main() -> None:
    """Run every block and print one JSON object last."""
    parser = argparse.ArgumentParser(description="How fast each block is measured.")
    parser.add_argument("--quick", action="store_true", help="small sizes: does it work?")
    size = QUICK if parser.parse_args().quick else Size()
    jax.config.update("jax_num_cpu_devices", CORES)
    device = jax.local_devices()[0]
    name = f"{jax.device_count()} x {device.device_kind} ({device.platform})"
    print(f"{name}; width {size.width}, depth {size.depth}, {size.rows} rows (cells x inputs)")
    found = {}
    for block, (change, inputs) in BLOCKS.items():
        ratio, rate = compare(size, change, inputs)
        wanted = f" (required: {REQUIRED[block]})" if block in REQUIRED else ""
        print(f"{block}, {inputs} inputs: {ratio:.3f} of plain{wanted}, {rate:.0f} cells a second")
        found[f"{block}_over_plain"] = float(f"{ratio:.4g}")
        found[f"{block}_cells_per_second"] = float(f"{rate:.4g}")
    print(json.dumps({"device": name, **found}))


if __name__ == "__main__":
    main()
