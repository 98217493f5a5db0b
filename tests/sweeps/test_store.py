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
    deadline = time.monotonic() + 60
    while len([p for p in store.glob("done/*") if p.name[0].isdigit()]) < chunks:
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
    with sweeps.open(store) as part:
        assert part.attrs["status"] == "unfinished"
        assert 9 <= part.attrs["cells_done"] < part.attrs["cells"] == 30
        assert_same_where_done(part.load(), whole)
    with pytest.raises(ValueError, match="an unfinished sweep: steps is 4 there and 5 here"):
        run(toy, store, steps=5)

    study = toy["ToyStudy"]()  # another chunk size: the stored plan decides
    resumed = sweeps.run(study, toy["GRID"], store=store, memory_budget=10**6, progress=False)
    assert 0 < len(study.calls) <= 10 - 3
    assert {size for _, size in study.calls} == {3}
    assert_same_values(resumed, whole)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["killed.zarr", "whole.zarr"]


def assert_same_where_done(part, whole):
    """What is marked is right, and nothing else is there."""
    for name in set(whole.data_vars) - {"done"}:
        gone = [dim for dim in part["done"].dims if dim not in part[name].dims]
        there = part["done"].any(gone)
        expected = whole[name].where(there)
        if gone:  # its owner may not be there yet
            expected = expected.where(part[name].notnull())
        np.testing.assert_array_equal(part[name], expected)


def test_a_kill_before_the_last_mark_is_mended(toy, tmp_path, monkeypatch):
    store = tmp_path / "toy.zarr"
    whole_files = sys.modules["sigprop.sweeps.whole_files"]
    write_json = whole_files.write_json

    def dies(path, value, scratch):
        if path.name == "complete.json":
            raise KeyboardInterrupt
        return write_json(path, value, scratch)

    monkeypatch.setattr(whole_files, "write_json", dies)
    with pytest.raises(KeyboardInterrupt):
        run(toy, store)
    monkeypatch.undo()
    assert sweeps.open(store).attrs["status"] == "unfinished"
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


def test_a_sweep_begun_by_the_first_format_is_refused(toy, tmp_path):
    partial = tmp_path / "toy.zarr.partial"
    partial.mkdir()
    (partial / "plan.json").write_text("{}")
    with pytest.raises(ValueError, match="was begun by an earlier version of sigprop"):
        run(toy, tmp_path / "toy.zarr")
    assert [p.name for p in tmp_path.rglob("*")] == ["toy.zarr.partial", "plan.json"]


def test_a_finished_store_of_the_first_format_is_used(toy, tmp_path):
    _, ds = run(toy, tmp_path / "new.zarr")
    old = tmp_path / "old.zarr"
    ds.drop_vars("done").drop_encoding().to_zarr(old, zarr_format=2, consolidated=True)
    plan = json.loads((tmp_path / "new.zarr/done/.sweep/plan.json").read_text())
    mark = {"identity": {"schema": 1, **plan["identity"]}}
    (old / "sweep_done.json").write_text(json.dumps(mark))
    study, again = run(toy, old)
    assert not study.calls
    assert_same_values(again, ds.drop_vars("done"))
    with pytest.raises(ValueError, match="another sweep: steps is 4 there and 5 here"):
        run(toy, old, steps=5)


def test_another_format_is_refused(toy, tmp_path):
    run(toy, tmp_path / "toy.zarr")
    plan = tmp_path / "toy.zarr/done/.sweep/plan.json"
    plan.write_text(json.dumps(json.loads(plan.read_text()) | {"format": 3}))
    for use in (
        lambda: run(toy, tmp_path / "toy.zarr"),
        lambda: sweeps.open(tmp_path / "toy.zarr"),
    ):
        with pytest.raises(
            ValueError, match="it has format 3, and this version of sigprop reads 2"
        ):
            use()


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
    with pytest.raises(RuntimeError, match=r"6 of 10 chunks raised twice .*out of memory") as stop:
        sweeps.run(Breaks(), toy["GRID"], store=store, memory_budget=300, progress=False)
    assert "flavour sweet, x 1, y 1 to 4;" in str(stop.value)
    assert "run the same command to try again" in str(stop.value)
    study, _ = run(toy, store)
    assert len(study.calls) == 10 - 4


def test_a_chunk_that_raises_once_is_tried_again(toy, tmp_path):
    class Stumbles(toy["ToyStudy"]):
        tries = 0

        def compute(self, static, cells):
            type(self).tries += 1
            if self.tries in (1, 5):
                raise OSError("the network is down")
            return super().compute(static, cells)

    store = tmp_path / "toy.zarr"
    ds = sweeps.run(Stumbles(), toy["GRID"], store=store, memory_budget=300, progress=False)
    assert_same_values(ds, sweeps.run(toy["ToyStudy"](), toy["GRID"], progress=False))
    assert Stumbles.tries == 12


@pytest.mark.parametrize("harm", ["flip", "truncate", "remove", "empty"])
@pytest.mark.parametrize("file", ["path/1.2.0.0", "kind/0", "done/1.2.0", "x/0", ".zmetadata"])
def test_a_damaged_file_is_mended_and_the_rest_kept(toy, tmp_path, file, harm, capsys):
    store = tmp_path / "toy.zarr"
    _, before = run(toy, store)
    before.load()
    damage(store / file, harm)
    study, after = run(toy, store)
    assert len(study.calls) == (0 if file in ("x/0", ".zmetadata") else 1)
    assert ("is damaged; it is computed again" in capsys.readouterr().err) == bool(study.calls)
    assert_same_values(after.load(), before)


def damage(path, harm):
    data = bytearray(path.read_bytes())
    if harm == "flip":
        data[len(data) // 2] ^= 8
    if harm == "remove":
        path.unlink()
    else:
        path.write_bytes(data[: {"truncate": len(data) // 2, "empty": 0}.get(harm)])


@pytest.mark.parametrize("file", ["path/1.2.0.0", "x/0"])
def test_a_flipped_bit_is_never_read_as_a_number(toy, tmp_path, file):
    store = tmp_path / "toy.zarr"
    _, before = run(toy, store)
    before.load()
    data = (store / file).read_bytes()
    for bit in range(0, 8 * len(data), 7):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        (store / file).write_bytes(flipped)
        try:
            with xr.open_zarr(store, chunks=None) as plain:
                np.testing.assert_array_equal(plain["path"].load(), before["path"])
        except RuntimeError:  # refused
            pass


def test_a_sweep_resumed_by_other_code_says_so(toy, tmp_path, monkeypatch, capsys):
    store = tmp_path / "toy.zarr"
    options = {"store": store, "chunk_cells": 3, "progress": False}
    sweeps.run(toy["ToyStudy"](), toy["GRID"], shard="1/3", **options)
    assert "was begun with" not in capsys.readouterr().err
    monkeypatch.setattr("sigprop.sweeps.provenance.git_commit", lambda: "another")
    sweeps.run(toy["ToyStudy"](), toy["GRID"], **options)
    assert "was begun with another git commit: chunks" in capsys.readouterr().err
