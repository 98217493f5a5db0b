"""Cells spent near boundaries."""

import numpy as np
import pytest

from sigprop import sweeps
from tests.sweeps.test_store import assert_same_values
from tests.sweeps.toy_study import Output

SIDE = 1024


class Map:
    """Two boundaries that cross a plane: a wavy line, and a thin band."""

    name, version = "map", 1
    static_axes, traced_axes = ("kind",), ("x", "y", "seed")
    axis_attrs, coordinates = {}, {}
    bytes_per_cell, cell_multiple = 64, 1

    def __init__(self):
        self.cells = 0

    @property
    def variables(self):
        codes = {"flag_values": [0, 1, 2, 3], "flag_meanings": "a b c d"}
        everywhere = ("kind", "x", "y", "seed")
        return {
            "phase": Output(everywhere, (), "int8", codes),
            "height": Output(everywhere, (), "float64", {}),
            "of_x": Output(("x",), (), "float64", {}),
        }

    def check(self, grid):
        pass

    def config(self):
        return {}

    def attributes(self):
        return {}

    def compute(self, static, cells):
        x, y = cells["x"], cells["y"]
        self.cells += len(x)
        height = y - 0.5 - 0.2 * np.sin(5 * x)
        wave = (height > 0).astype(int)
        if static["kind"] == "band":
            wave += 2 * (np.abs(x + y - 1) < 0.003)
        return {"phase": wave, "height": height + cells["seed"], "of_x": x}


def grid(side, kinds=("wave",), seeds=(0.0,)):
    at = np.linspace(0, 1, side)
    return {"kind": list(kinds), "x": at, "y": at, "seed": list(seeds)}


def boundary(phase):
    """Cells with a neighbour of another class."""
    edge = np.zeros(phase.shape, bool)
    for axis in (0, 1):
        change = np.diff(phase, axis=axis) != 0
        before, after = [slice(None)] * 2, [slice(None)] * 2
        before[axis], after[axis] = slice(None, -1), slice(1, None)
        edge[tuple(before)] |= change
        edge[tuple(after)] |= change
    return edge


@pytest.mark.parametrize("kind", ["wave", "band"])
def test_a_fine_boundary_costs_few_cells_and_is_the_full_grids(kind):
    found = sweeps.run(Map(), grid(SIDE, [kind]), refine=["x", "y"], progress=False).isel(
        kind=0, seed=0
    )
    done = found["done"].values
    assert done.mean() < 0.08
    x, y = np.meshgrid(found["x"], found["y"], indexing="ij")
    cells = {"x": x.ravel(), "y": y.ravel(), "seed": np.zeros(x.size)}
    full = Map().compute({"kind": kind}, cells)["phase"].reshape(x.shape)
    np.testing.assert_array_equal(found["phase"].values[done], full[done])
    assert done[boundary(full)].all(), "every cell at the boundary was computed"
    shown = sweeps.filled(found)["phase"].values
    np.testing.assert_array_equal(shown, full)


def test_a_refined_store_holds_gaps_and_is_resumed(tmp_path):
    asked = grid(40, ["wave", "band"], [0.0, 1.0])
    options = {"refine": ["x", "y"], "chunk_cells": 50, "progress": False}
    unstored = sweeps.run(Map(), asked, **options)

    class Stops(Map):
        def compute(self, static, cells):
            if self.cells > 600:
                raise KeyboardInterrupt
            return super().compute(static, cells)

    store = tmp_path / "map.zarr"
    with pytest.raises(KeyboardInterrupt):
        sweeps.run(Stops(), asked, store=store, **options)
    before = sweeps.open(store)
    assert 0 < before.attrs["cells_done"] < before.attrs["cells"]
    study = Map()
    stored = sweeps.run(study, asked, store=store, **options)
    assert_same_values(stored, unstored)
    assert study.cells < int(unstored["done"].sum())
    assert stored.attrs["status"] == "complete"
    assert stored.attrs["cells_done"] == int(unstored["done"].sum()) < unstored["done"].size
    assert (stored["done"].isel(seed=0) == stored["done"].isel(seed=1)).all()
    np.testing.assert_array_equal(sweeps.filled(stored)["of_x"], asked["x"])

    again = Map()
    sweeps.run(again, asked, store=store, **options)
    assert not again.cells
    with pytest.raises(ValueError, match=r"refine is .* there and absent here"):
        sweeps.run(Map(), asked, store=store, progress=False)


@pytest.mark.parametrize("refine", [["z"], ["kind"], ["x", "x"]])
def test_axes_to_refine_must_be_traced(refine):
    with pytest.raises(ValueError, match="refine must name axes among x, y, seed"):
        sweeps.run(Map(), grid(4), refine=refine)


def test_a_study_without_boundaries_is_named(toy):
    class Plain(Map):
        variables = {"height": Output(("kind", "x", "y", "seed"), (), "float64", {})}  # noqa: RUF012

        def compute(self, static, cells):
            return {"height": cells["x"]}

    with pytest.raises(
        ValueError, match="refine needs a study with a boundary, and map names none"
    ):
        sweeps.run(Plain(), grid(4), refine=["x"], progress=False)
