import json

import numpy as np
import pytest
import xarray as xr

from sigprop import sweeps


def test_every_cell_lands_in_its_place(toy):
    ds = sweeps.run(toy["ToyStudy"](), toy["GRID"], progress=False)
    assert ds["path"].dims == ("flavour", "x", "y", "step")
    assert ds["path"].dtype == np.float32
    assert ds["kind"].dims == ("flavour",), "stored along the axes it varies along"
    assert ds["rank"].dims == ("x",)
    assert ds["rank"].values.tolist() == [0, 250, 500, 750, 1000]
    assert ds["done"].dims == ("flavour", "x", "y")
    assert ds["done"].all()
    for flavour in ("sweet", "sour"):
        for x in toy["GRID"]["x"]:
            for y in (1.0, 2.0):
                cell = ds.sel(flavour=flavour, x=x, y=y)
                expected = np.sin(x * np.arange(1, 5)) * y - 0.1 + (flavour == "sour")
                np.testing.assert_array_equal(cell["path"], expected.astype(np.float32))
                assert int(cell["kind"]) == (flavour == "sour")
    assert np.isnan(ds["path"].sel(y=4.0)).all()


@pytest.mark.parametrize("budget", [100, 200, 400, 700, 10**9])
@pytest.mark.parametrize("multiple", [1, 4])
def test_answers_do_not_depend_on_chunk_size(toy, budget, multiple):
    whole = sweeps.run(toy["ToyStudy"](), toy["GRID"], progress=False)
    study = toy["ToyStudy"](cell_multiple=multiple)
    if budget < 100 * multiple:
        with pytest.raises(ValueError, match=r"memory_budget must be at least 400 bytes .*got"):
            sweeps.run(study, toy["GRID"], progress=False, memory_budget=budget)
        return
    parts = sweeps.run(study, toy["GRID"], progress=False, memory_budget=budget)
    for name in whole:
        np.testing.assert_array_equal(parts[name], whole[name])
    sizes = {size for _, size in study.calls}
    assert len(sizes) == 1, "chunks must be padded to one row count"
    assert sizes.pop() % multiple == 0


def test_memory_budget_bounds_the_chunks(toy):
    study = toy["ToyStudy"](bytes_per_cell=1000)
    sweeps.run(study, toy["GRID"], progress=False, memory_budget=6500)
    assert all(size * 1000 <= 6500 for _, size in study.calls)
    assert len(study.calls) == 2 * 3  # 15 cells, at most 6 at a time, for two flavours


def test_attributes_let_a_reader_repeat_the_run(toy):
    ds = sweeps.run(toy["ToyStudy"](), toy["GRID"], progress=False)
    assert json.loads(ds.attrs["config"]) == {"steps": 4, "model": {"offset": 0.1}}
    assert json.loads(ds.attrs["package_versions"])["xarray"] == xr.__version__
    assert {"git_commit", "seed", "device", "wall_seconds", "study"} <= set(ds.attrs)
    assert ds["path"].attrs["long_name"] == "a path"
    assert ds["x"].attrs["long_name"] == "first number"


BAD_GRIDS = [
    ({"x": [1.0], "y": [1.0]}, "missing: flavour"),
    ({"flavour": ["a"], "x": [1.0], "y": [1.0], "z": [1]}, "unknown: z"),
    ({"flavour": "sweet", "x": [1.0], "y": [1.0]}, "flavour must be a non-empty list of strings"),
    ({"flavour": [], "x": [1.0], "y": [1.0]}, "flavour must be a non-empty list of strings"),
    ({"flavour": ["a"], "x": [[1.0]], "y": [1.0]}, "x must be a non-empty one-dimensional"),
    ({"flavour": ["a"], "x": [], "y": [1.0]}, "x must be a non-empty one-dimensional"),
    ({"flavour": ["a"], "x": ["1"], "y": [1.0]}, "x must be a non-empty one-dimensional"),
    ({"flavour": ["a"], "x": [0, np.nan], "y": [1.0]}, "x must be finite, got nan at index 1"),
    ({"flavour": ["sour", "bitter"], "x": [1.0], "y": [1.0]}, "sweet or sour, got bitter"),
    ({"flavour": ["a", "a"], "x": [1.0], "y": [1.0]}, "must not repeat a coordinate, got 'a'"),
    ({"flavour": ["a"], "x": [1, 1.0], "y": [1.0]}, r"must not repeat a coordinate, got 1\.0"),
]


@pytest.mark.parametrize(("grid", "message"), BAD_GRIDS)
def test_bad_grids_are_refused_before_anything_is_written(toy, tmp_path, grid, message):
    study = toy["ToyStudy"]()
    with pytest.raises(ValueError, match=message):
        sweeps.run(study, grid, store=tmp_path / "toy.zarr", progress=False)
    assert not study.calls
    assert not list(tmp_path.iterdir())


def test_unknown_engine_is_named(toy):
    with pytest.raises(ValueError, match=r"engine must be one of 'local', .*got 'cloud'"):
        sweeps.run(toy["ToyStudy"](), toy["GRID"], engine="cloud")


def test_a_study_that_breaks_its_word_is_named(toy):
    class Forgetful(toy["ToyStudy"]):
        def compute(self, static, cells):
            return {k: v for k, v in super().compute(static, cells).items() if k != "total"}

    with pytest.raises(ValueError, match="must return exactly its variables; differ"):
        sweeps.run(Forgetful(), toy["GRID"], progress=False)


def test_progress_goes_to_the_error_stream(toy, capfd):
    sweeps.run(toy["ToyStudy"](), toy["GRID"], memory_budget=500)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "10/10 chunks" in captured.err
