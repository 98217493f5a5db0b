"""A study that takes far more memory than it says. Usage: python hungry_study.py STORE BUDGET_MB"""

import sys

import numpy as np

from sigprop import sweeps
from tests.sweeps.toy_study import Output


class Hungry:
    name, version = "hungry", 1
    static_axes, traced_axes = (), ("x",)
    axis_attrs, coordinates = {}, {"entry": np.arange(2**18)}
    bytes_per_cell, cell_multiple, seconds_per_cell = 100, 1, 1e-6
    variables = {"value": Output(("x",), ("entry",), "float64", {})}  # noqa: RUF012

    def check(self, grid):
        pass

    def config(self):
        return {}

    def attributes(self):
        return {}

    def compute(self, static, cells):
        twice = np.repeat(cells["x"][:, None], 2**18, axis=1)
        return {"value": twice + 0.0}


if __name__ == "__main__":
    store, budget = sys.argv[1:]
    sweeps.run(
        Hungry(), {"x": np.arange(800.0)}, store=store, memory_budget=int(budget) * 2**20,
        progress=False,
    )  # fmt: skip
