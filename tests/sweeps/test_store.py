import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import sigprop
from sigprop import sweeps

ROOT = Path(sigprop.__file__).parents[1]


def run(toy, store, **changes):
    study = toy["ToyStudy"](**changes)
    return study, sweeps.run(study, toy["GRID"], store=store, memory_budget=300, progress=False)


def assert_same_values(one, other):
    assert set(one.data_vars) == set(other.data_vars)
    for name in one.variables:
        assert one[name].dtype == other[name].dtype
        np.testing.assert_array_equal(one[name], other[name])


def test_plain_xarray_reads_the_store_without_warnings(toy, tmp_path):
    _, ds = run(toy, tmp_path / "toy.zarr")
    with xr.open_zarr(tmp_path / "toy.zarr") as plain:  # warnings are errors in the tests
        assert_same_values(plain.load(), ds)
        assert list(plain["flavour"].values) == ["sweet", "sour"]
        assert plain.attrs == ds.attrs
        assert plain["kind"].attrs["flag_meanings"] == "sweet sour"
    with sweeps.open(tmp_path / "toy.zarr") as again:
        xr.testing.assert_identical(again.load(), ds)
    assert [p.name for p in tmp_path.iterdir()] == ["toy.zarr"]


def test_store_holds_what_an_unstored_run_returns(toy, tmp_path):
    _, stored = run(toy, tmp_path / "toy.zarr")
    unstored = sweeps.run(toy["ToyStudy"](), toy["GRID"], progress=False)
    assert_same_values(stored, unstored)


def test_same_config_again_is_not_computed(toy, tmp_path):
    _, first = run(toy, tmp_path / "toy.zarr")
    study, second = run(toy, tmp_path / "toy.zarr")
    assert not study.calls
    xr.testing.assert_identical(first, second)


def test_other_config_is_refused_and_told_apart(toy, tmp_path):
    _, before = run(toy, tmp_path / "toy.zarr")
    with pytest.raises(ValueError, match="another sweep: steps is 4 there and 7 here"):
        run(toy, tmp_path / "toy.zarr", steps=7)
    grid = {**toy["GRID"], "x": np.linspace(0, 1, 9)}
    with pytest.raises(ValueError, match=r"x is 5 values from 0\.0 to 1\.0 there and 9 values"):
        sweeps.run(toy["ToyStudy"](), grid, store=tmp_path / "toy.zarr", progress=False)
    with sweeps.open(tmp_path / "toy.zarr") as after:
        xr.testing.assert_identical(after.load(), before)


def killed_after(toy_script, store, chunks):
    """Start the toy sweep in a process of its own and kill -9 it once ``chunks`` are stored."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, str(toy_script), str(store), "0.3"], env=environment
    )
    partial = store.with_name(store.name + ".partial")
    deadline = time.monotonic() + 60
    while len(list(partial.glob("chunk-*.npz"))) < chunks:
        assert process.poll() is None, "the sweep ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


def test_a_killed_sweep_resumes_bit_equal(toy, toy_script, tmp_path):
    _, whole = run(toy, tmp_path / "whole.zarr")
    store = tmp_path / "killed.zarr"
    process = killed_after(toy_script, store, chunks=3)
    with pytest.raises(ValueError, match=r"killed\.zarr is being written by another process"):
        run(toy, store)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not store.exists()
    with pytest.raises(ValueError, match=r"unfinished \(\d chunks so far\)"):
        sweeps.open(store)
    with pytest.raises(ValueError, match="an unfinished sweep: steps is 4 there and 5 here"):
        run(toy, store, steps=5)

    study = toy["ToyStudy"]()  # another chunk size: the stored plan decides
    resumed = sweeps.run(study, toy["GRID"], store=store, memory_budget=10**6, progress=False)
    assert 0 < len(study.calls) <= 10 - 3
    assert {size for _, size in study.calls} == {3}
    assert_same_values(resumed, whole)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["killed.zarr", "whole.zarr"]


def test_a_kill_between_rename_and_mark_is_mended(toy, tmp_path, monkeypatch):
    store = tmp_path / "toy.zarr"

    def dies(path, value):
        if path.name == "sweep_done.json":
            raise KeyboardInterrupt
        return write_json(path, value)

    files = sys.modules["sigprop.sweeps.files"]
    write_json = files.write_json
    monkeypatch.setattr(files, "write_json", dies)
    with pytest.raises(KeyboardInterrupt):
        run(toy, store)
    monkeypatch.undo()
    assert store.exists()
    with pytest.raises(ValueError, match="unfinished"):
        sweeps.open(store)
    study, ds = run(toy, store)
    assert not study.calls  # every chunk was there
    assert_same_values(ds, sweeps.run(toy["ToyStudy"](), toy["GRID"], progress=False))
    assert [p.name for p in tmp_path.iterdir()] == ["toy.zarr"]


def foreign_folder(path):
    path.mkdir()
    (path / "precious.txt").write_text("mine")


def foreign_file(path):
    path.write_text("mine")


def foreign_zarr(path):
    xr.Dataset({"a": ("x", [1.0])}).to_zarr(path, zarr_format=2)


@pytest.mark.parametrize("make", [foreign_folder, foreign_file, foreign_zarr])
def test_a_foreign_store_is_left_alone(toy, tmp_path, make):
    store = tmp_path / "toy.zarr"
    make(store)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="exists and is not a finished sweep"):
        run(toy, store)
    with pytest.raises(ValueError, match="which is something else"):
        sweeps.open(store)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_foreign_partial_folder_is_left_alone(toy, tmp_path):
    foreign_folder(tmp_path / "toy.zarr.partial")
    with pytest.raises(ValueError, match="that is something else"):
        run(toy, tmp_path / "toy.zarr")
    assert (tmp_path / "toy.zarr.partial" / "precious.txt").read_text() == "mine"


def test_an_unwritable_place_is_one_line(toy, tmp_path):
    (tmp_path / "file").write_text("")
    study = toy["ToyStudy"]()
    with pytest.raises(ValueError, match="store must be in a folder that can be written, got") as e:
        sweeps.run(study, toy["GRID"], store=tmp_path / "file" / "toy.zarr", progress=False)
    assert "\n" not in str(e.value)
    assert not study.calls


def test_a_failure_before_the_first_chunk_leaves_nothing(toy, tmp_path):
    class Broken(toy["ToyStudy"]):
        def compute(self, static, cells):
            raise ValueError("no such flavour")

    with pytest.raises(ValueError, match="no such flavour"):
        sweeps.run(Broken(), toy["GRID"], store=tmp_path / "a" / "b" / "toy.zarr", progress=False)
    assert not list(tmp_path.iterdir())


def test_a_failure_later_keeps_the_finished_chunks(toy, tmp_path):
    class Breaks(toy["ToyStudy"]):
        def compute(self, static, cells):
            if len(self.calls) == 4:
                raise RuntimeError("out of memory")
            return super().compute(static, cells)

    store = tmp_path / "toy.zarr"
    with pytest.raises(RuntimeError, match="out of memory"):
        sweeps.run(Breaks(), toy["GRID"], store=store, memory_budget=300, progress=False)
    study, _ = run(toy, store)
    assert len(study.calls) == 10 - 4


def test_the_done_mark_repeats_the_config(toy, tmp_path):
    run(toy, tmp_path / "toy.zarr")
    mark = json.loads((tmp_path / "toy.zarr" / "sweep_done.json").read_text())
    assert mark["identity"]["config"]["steps"] == 4
    assert mark["identity"]["grid"]["x"] == list(toy["GRID"]["x"])
