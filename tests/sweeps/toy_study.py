"""A study without physics; run as a script it sweeps slowly, so that a test can kill it.

Usage: python toy_study.py STORE SECONDS_PER_CHUNK [ENGINE [SHARD [SCHEDULER]]]; - for none. The
engine "shown" is the local one, with progress.
"""

import sys
import time
from dataclasses import dataclass, field

import numpy as np

from sigprop import sweeps

GRID = {"flavour": ["sweet", "sour"], "x": np.linspace(0.0, 1.0, 5), "y": [1.0, 2.0, 4.0]}


@dataclass(frozen=True)
class Output:
    axes: tuple
    dims: tuple
    dtype: str
    attrs: dict


@dataclass
class ToyStudy:
    steps: int = 4
    pause: float = 0.0
    bytes_per_cell: int = 100
    cell_multiple: int = 1
    calls: list = field(default_factory=list)

    name = "toy"
    version = 1
    static_axes = ("flavour",)
    traced_axes = ("x", "y")
    axis_attrs = {"x": {"long_name": "first number"}, "step": {"long_name": "step"}}  # noqa: RUF012

    @property
    def variables(self):
        everywhere = ("flavour", "x", "y")
        codes = {"flag_values": [0, 1], "flag_meanings": "sweet sour"}
        return {
            "path": Output(everywhere, ("step",), "float32", {"long_name": "a path", "units": "1"}),
            "total": Output(everywhere, (), "float64", {"long_name": "its sum"}),
            "kind": Output(("flavour",), (), "int8", {"long_name": "flavour", **codes}),
            "rank": Output(("x",), (), "int64", {"long_name": "x in thousandths"}),
        }

    @property
    def coordinates(self):
        return {"step": np.arange(1, self.steps + 1)}

    def check(self, grid):
        if "bitter" in grid["flavour"]:
            raise ValueError("flavour must be sweet or sour, got bitter")

    def config(self):
        return {"steps": self.steps, "model": {"offset": 0.1}}

    def attributes(self):
        return {"seed": 3, "device": "none"}

    def compute(self, static, cells):
        self.calls.append((dict(static), len(cells["x"])))
        time.sleep(self.pause)
        sour = static["flavour"] == "sour"
        steps = np.arange(1, self.steps + 1)
        path = np.sin(cells["x"][:, None] * steps) * cells["y"][:, None] - 0.1 + sour
        path = np.where(cells["y"][:, None] == 4.0, np.nan, path)
        kind = np.full(len(path), sour, dtype=np.int8)
        rank = np.round(1000 * cells["x"]).astype(int)
        return {"path": path, "total": path.sum(axis=1), "kind": kind, "rank": rank}


def main(store, pause, engine="local", shard="-", scheduler=None):
    shown, engine = engine == "shown", "local" if engine == "shown" else engine
    sweeps.run(
        ToyStudy(pause=float(pause)), GRID, store=store, engine=engine, scheduler=scheduler,
        shard=None if shard == "-" else shard, chunk_cells=3, progress=shown,
        workers=2 if engine == "dask" and scheduler is None else None,
    )  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
