"""A full disk, a small memory, an impatient user."""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sigprop import sweeps
from tests.sweeps.test_engines import marked, started, wait_for
from tests.sweeps.test_store import assert_same_values

TOY, HUNGRY = (Path(__file__).with_name(f"{name}_study.py") for name in ("toy", "hungry"))


def run(toy, store, **options):
    study = toy["ToyStudy"](**options)
    return study, sweeps.run(study, toy["GRID"], store=store, chunk_cells=3, progress=False)


@contextlib.contextmanager
def no_file_larger_than(size):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [0, 60, 900])
def test_a_full_disk_is_one_line_and_the_sweep_goes_on_later(toy, tmp_path, size):
    store = tmp_path / "toy.zarr"
    with no_file_larger_than(size), pytest.raises(ValueError, match="cannot") as refused:
        run(toy, store)
    assert "\n" not in str(refused.value)
    assert "File too large" in str(refused.value)
    _, ds = run(toy, store)
    assert_same_values(ds, sweeps.run(toy["ToyStudy"](), toy["GRID"], progress=False))


def test_a_disk_that_fills_on_the_way_keeps_what_is_finished(toy, tmp_path, monkeypatch):
    store, written = tmp_path / "toy.zarr", []

    def fills_up(path, data):
        written.append(path)
        if len(written) == 60:
            raise OSError(28, os.strerror(28))
        return write(path, data)

    whole_files = sys.modules["sigprop.sweeps.whole_files"]
    write = whole_files._write
    monkeypatch.setattr(whole_files, "_write", fills_up)
    told = r"toy\.zarr cannot grow: No space left on device; what is finished is kept"
    with pytest.raises(ValueError, match=told):
        run(toy, store)
    monkeypatch.undo()
    there = sweeps.open(store).attrs["cells_done"]
    assert 0 < there < 30
    study, ds = run(toy, store)
    assert len(study.calls) == (30 - there) // 3
    assert_same_values(ds, sweeps.run(toy["ToyStudy"](), toy["GRID"], progress=False))


@pytest.mark.slow
def test_ctrl_c_stops_after_the_chunk(toy, tmp_path):
    store = tmp_path / "toy.zarr"
    process = started(TOY, store, 0.5)
    wait_for(lambda: marked(store) >= 1, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "stopping after this chunk; Ctrl-C again to stop at once" in err
    assert "KeyboardInterrupt" in err
    there = marked(store)
    assert 2 <= there < 10
    study, ds = run(toy, store)
    assert len(study.calls) == 10 - there
    assert ds.attrs["status"] == "complete"


@pytest.mark.slow
def test_ctrl_c_twice_stops_at_once(tmp_path):
    store = tmp_path / "toy.zarr"
    process = started(TOY, store, 5)
    wait_for(lambda: marked(store) >= 1, process)
    begin = time.monotonic()
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
    process.communicate(timeout=60)
    assert time.monotonic() - begin < 4, "a chunk takes five seconds"
    assert marked(store) == 1


def peak_bytes(process):
    """The most that a process is seen to hold, until it ends."""
    peak = 0
    while process.poll() is None:
        with contextlib.suppress(OSError, IndexError):
            pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
            peak = max(peak, pages * os.sysconf("SC_PAGESIZE"))
        time.sleep(0.002)
    return peak


@pytest.mark.slow
@pytest.mark.parametrize("budget", [500, 700])
def test_a_memory_budget_holds_for_the_whole_process(tmp_path, budget):
    """The study says that a cell takes a hundred bytes; it takes four megabytes."""
    process = subprocess.Popen(
        [sys.executable, str(HUNGRY), str(tmp_path / "hungry.zarr"), str(budget)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    peak = peak_bytes(process) / 2**20
    assert process.returncode == 0
    assert peak < 1.2 * budget
    with sweeps.open(tmp_path / "hungry.zarr") as ds:
        assert ds.nbytes / 2**20 > 2 * budget, "more than memory may hold"
        assert ds.attrs["cells_per_call"] >= 4, "as many together as fit"
        np.testing.assert_array_equal(ds["value"][:, -1], ds["x"])
