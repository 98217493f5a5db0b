"""One network spread over all processes of a job: none holds all of its weights.

Usage: python wide_study.py STORE DEVICES [COORDINATOR PROCESS]. Prints how many bytes of weights
this process holds.
"""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from sigprop import jacobian, sweeps
from sigprop.architecture import Architecture
from sigprop.networks import MLP
from tests.sweeps.toy_study import Output

DEPTH, WIDTH, VALUES = 6, 256, 3
GRID = {"weight_var": [0.8, 1.5, 2.5], "bias_var": [0.05]}


def placed(*axes):
    """Over the devices of the whole job, in one line."""
    mesh = jax.make_mesh((jax.device_count(),), ("units",), axis_types=(AxisType.Auto,))
    return NamedSharding(mesh, PartitionSpec(*axes))


def by_rows(leaf):
    """Each device has some rows of every weight."""
    weight = leaf.shape[-2:] == (WIDTH, WIDTH)
    return placed(*[None] * (leaf.ndim - 2), "units") if weight else placed()


def network(weight_var, bias_var):
    architecture = Architecture(DEPTH, WIDTH, "tanh", weight_var, bias_var)
    return MLP(architecture, WIDTH, rngs=jax.random.key(0))


@functools.cache
def programs():
    """One that draws a network where it is to be, so that no device ever has a whole weight.

    And one that asks it for the variance of every layer, and the largest singular values of its
    Jacobian with their bounds.
    """
    graph, shapes = nnx.split(nnx.eval_shape(lambda: network(1.0, 0.0)))

    def asked(weights):
        wide, x = nnx.merge(graph, weights), jnp.ones(WIDTH)
        found = jacobian.extreme_singular_values(wide, x, VALUES, key=jax.random.key(1), vectors=60)
        variance = jnp.square(wide.preactivations(x)).mean(-1)
        return variance, found.singular_values, found.residual_bound

    drawn = lambda *numbers: nnx.state(network(*numbers))  # noqa: E731
    rows = jax.tree.map(by_rows, shapes)
    return jax.jit(drawn, out_shardings=rows), jax.jit(asked, out_shardings=placed())


class Wide:
    """A cell that is larger than a host, in earnest."""

    name, version = "wide", 1
    static_axes, traced_axes = (), ("weight_var", "bias_var")
    axis_attrs = {}  # noqa: RUF012
    coordinates = {"layer": np.arange(1, DEPTH + 1), "rank": np.arange(VALUES)}  # noqa: RUF012
    bytes_per_cell, cell_multiple = DEPTH * WIDTH**2 * 4, 1
    variables = {  # noqa: RUF012
        name: Output(("weight_var", "bias_var"), (dim,), "float32", {})
        for name, dim in {"variance": "layer", "largest": "rank", "bound": "rank"}.items()
    }

    def check(self, grid):
        pass

    def config(self):
        return {"depth": DEPTH, "width": WIDTH}

    def attributes(self):
        return {}

    def compute(self, static, cells):
        """Cell after cell: each takes all hosts."""
        found = [self._cell(*numbers) for numbers in zip(*cells.values())]
        return dict(zip(self.variables, map(np.stack, zip(*found))))

    def _cell(self, weight_var, bias_var):
        draw, ask = programs()
        weights = draw(jnp.float32(weight_var), jnp.float32(bias_var))
        shards = [part for v in jax.tree.leaves(weights) for part in v.addressable_shards]
        print(sum(part.data.nbytes for part in shards), "bytes held")
        return [np.asarray(v) for v in ask(weights)]


def main(store, devices, coordinator=None, process=None):
    jax.config.update("jax_num_cpu_devices", int(devices))
    engine = "local" if process is None else "multihost"
    if process is not None:
        sweeps.join_hosts(coordinator, process)
    sweeps.run(Wide(), GRID, store=store, engine=engine, chunk_cells=1, progress=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
