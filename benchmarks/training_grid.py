"""How fast a grid of networks is trained, against what one would otherwise write.

    python benchmarks/training_grid.py            # 16 x 16 networks, width 64, depth 16, 200 steps
    python benchmarks/training_grid.py --quick    # a small grid, to see that it works

Prints what it finds and, as its last line, one JSON object. Every ratio compares things measured in
the same round of the same run, and is the median over rounds: on a shared machine speeds drift.
"""

import argparse
import functools
import itertools
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax
from jax.sharding import AxisType, PartitionSpec

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Size:
    """What is run."""

    width: int = 64
    depth: int = 16
    grid: int = 16  # networks along each axis
    batch: int = 64
    steps: int = 200
    rounds: int = 5
    loop_networks: int = 2  # built and compiled one by one
    single_steps: int = 300
    digits_steps: int = 1000

    @property
    def networks(self) -> int:
        """Of the whole grid."""
        return self.grid**2


QUICK = Size(width=32, depth=4, grid=4, steps=20, rounds=2, loop_networks=1, digits_steps=200)


def seconds(run: Callable[[], Any]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def examples():
    """Digits, standardised: 64 entries, 10 classes."""
    from sigprop import training

    return training.standardised(training.digits()).train


# ------------------------------------------------------------------------- the product


def grid(size: Size, data) -> Callable[[], Any]:
    """Training over weight_var and learning rate: one compile, no readings but at the end."""
    from sigprop import training
    from sigprop.architecture import Architecture

    weight_var = np.linspace(1.0, 2.0, size.grid)[:, None]
    rates = np.geomspace(1e-3, 1e-1, size.grid)
    return lambda: (
        training.train_grid(
            Architecture(size.depth, size.width, "tanh", weight_var, 0.05),
            data,
            training.Optimiser("sgd", rates),
            steps=size.steps,
            batch_size=size.batch,
            key=jax.random.key(0),
            readings=training.Readings(gradient_norms=False, activations=False),
        ).loss
    )


def digits_run(size: Size, data) -> Callable[[], Any]:
    """One run on digits: depth 4, width 128, Adam, readings every tenth of it."""
    from sigprop import training
    from sigprop.architecture import Architecture

    relu = Architecture(depth=4, width=128, activation="relu", initialiser="he")
    readings = training.Readings(every=size.digits_steps // 10)
    return lambda: (
        training.train(
            relu, data, training.Optimiser("adam", 1e-3), steps=size.digits_steps,
            batch_size=size.batch, key=jax.random.key(0), readings=readings,
        ).loss
    )  # fmt: skip


# ------------------------------------------------------------------------- the alternatives


class Plain(nnx.Module):
    """A deep tanh network as one would write it."""

    def __init__(self, size: Size, weight_var: float, rngs: nnx.Rngs):
        draw = nnx.initializers.variance_scaling(weight_var, "fan_in", "normal")
        width = size.width
        entries = [64, *[width] * size.depth]
        self.layers = nnx.List(
            [nnx.Linear(a, b, kernel_init=draw, rngs=rngs) for a, b in itertools.pairwise(entries)]
        )
        self.readout = nnx.Linear(width, 10, kernel_init=draw, rngs=rngs)

    def __call__(self, x):
        for layer in self.layers:
            x = jnp.tanh(layer(x))
        return self.readout(x)


def loop_network(size: Size, data, index: int) -> Callable[[], Any]:
    """One network of the grid built, its step jitted, and trained by a Python loop."""

    def run():
        model = Plain(size, 1.0 + index / 10, nnx.Rngs(index))
        optimizer = nnx.Optimizer(model, optax.sgd(0.01), wrt=nnx.Param)

        @nnx.jit
        def step(model, optimizer, x, y):
            def loss(model):
                return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()

            value, gradient = nnx.value_and_grad(loss)(model)
            optimizer.update(model, gradient)
            return value

        rng, losses = np.random.default_rng(index), []
        for _ in range(size.steps):
            chosen = rng.integers(0, len(data), size.batch)
            losses.append(step(model, optimizer, data.inputs[chosen], data.targets[chosen]))
        return losses

    return run


def single_step(size: Size, data) -> Callable[[], Any]:
    """Steps of one scanned network, its step jitted once and dispatched from Python."""
    from sigprop.architecture import Architecture
    from sigprop.networks import MLP

    tanh = Architecture(size.depth, size.width, "tanh", 1.5, 0.05)
    network = MLP(tanh, 64, 10, rngs=jax.random.key(0))

    @functools.partial(jax.jit, donate_argnums=0)
    def step(network, x, y):
        def loss(network):
            return optax.softmax_cross_entropy_with_integer_labels(network(x), y).mean()

        value, gradient = jax.value_and_grad(loss)(network)
        return jax.tree.map(lambda p, g: p - 0.01 * g, network, gradient), value

    x, y = jnp.asarray(data.inputs[: size.batch]), jnp.asarray(data.targets[: size.batch])

    def run():
        trained = jax.tree.map(jnp.copy, network)
        for _ in range(size.single_steps):
            trained, value = step(trained, x, y)
        return value

    return run


def multiplies(size: Size) -> Callable[[], Any]:
    """The grid's matrix products and nothing else, four networks at a time on every device.

    For each layer and step x Wᵀ, d W and dᵀ x; the products of the last kind are kept, as gradients
    are. Weights are orthogonal, so that nothing grows.
    """
    devices, together = jax.local_device_count(), 4
    if jax.default_backend() != "cpu":
        together = size.networks // devices
    groups = -(-size.networks // (devices * together)) * devices
    turn = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (size.width, size.width)))[0]
    shape = (groups, together, size.depth, size.width, size.width)
    weights = jnp.broadcast_to(turn, shape) + 0.0
    x = jax.random.normal(jax.random.key(1), (groups, together, size.batch, size.width))

    def layer(carried, weight):
        x, d = carried
        gradient = jnp.einsum("gbi,gbj->gij", d, x)
        return (jnp.einsum("gbj,gij->gbi", x, weight), jnp.einsum("gbi,gij->gbj", d, weight)), (
            gradient
        )

    def step(_, carried):
        x, d, gradients, weights = carried
        (x, d), gradients = lax.scan(layer, (x, d), weights)
        return x, d, gradients, weights

    def group(inputs):
        weights, x = inputs
        weights = jnp.moveaxis(weights, 1, 0)
        x, d, gradients, _ = lax.fori_loop(
            0, size.steps, step, (x, x, jnp.zeros_like(weights), weights)
        )
        return x[0, 0, 0] + d[0, 0, 0] + gradients[0, 0, 0, 0]

    mesh = jax.make_mesh((devices,), ("cells",), axis_types=(AxisType.Auto,))
    spread = PartitionSpec("cells")
    share = jax.shard_map(
        lambda inputs: lax.map(group, inputs), mesh=mesh, in_specs=spread, out_specs=spread
    )
    return functools.partial(jax.jit(share), (weights, x))


# ------------------------------------------------------------------------- comparing


def compared(size: Size) -> dict[str, float]:
    """All figures, from rounds in which everything is run once."""
    data = examples()
    runs = {
        "grid": grid(size, data),
        "digits": digits_run(size, data),
        "single": single_step(size, data),
        "multiplies": multiplies(size),
    }
    first = {name: seconds(run) for name, run in runs.items()}
    rounds = [{name: seconds(run) for name, run in runs.items()} for _ in range(size.rounds)]
    built = statistics.median(
        seconds(loop_network(size, data, index)) for index in range(size.loop_networks)
    )
    of = lambda ratio: statistics.median(ratio(times) for times in rounds)  # noqa: E731
    steps = size.networks * size.steps
    return {
        "speedup_vs_loop_with_compile": built * size.networks / first["grid"],
        "time_over_single_jitted_step": of(
            lambda t: (t["grid"] / steps) / (t["single"] / size.single_steps)
        ),
        "fraction_of_batched_matmul": of(lambda t: t["multiplies"] / t["grid"]),
        "digits_steps_per_second": of(lambda t: size.digits_steps / t["digits"]),
        "microseconds_per_configuration_step": of(lambda t: 1e6 * t["grid"] / steps),
        "microseconds_per_single_step": of(lambda t: 1e6 * t["single"] / size.single_steps),
        "matmul_gflops": of(
            lambda t: 3 * 2e-9 * size.batch * size.width**2 * size.depth * steps / t["multiplies"]
        ),
        "seconds_grid_with_compile": first["grid"],
        "seconds_grid": of(lambda t: t["grid"]),
        "seconds_per_network_built_and_trained": built,
    }


def main() -> None:
    """Measure, explain, and print the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small grid")
    parser.add_argument("--rounds", type=int, help="how often everything is run")
    given = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", CORES)
    size = QUICK if given.quick else Size()
    if given.rounds:
        size = Size(**{**vars(size), "rounds": given.rounds})
    found = compared(size)
    print(f"{size}, on {jax.local_device_count()} devices")
    for name, value in found.items():
        print(f"{name:40s} {value:.4g}")
    device = jax.devices()[0].device_kind
    print(json.dumps({"device": device, **{k: float(f"{v:.4g}") for k, v in found.items()}}))


if __name__ == "__main__":
    main()
