"""The same bits from every engine: devices, processes, workers, shards, all of them real."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sigprop import sweeps
from tests.sweeps.test_store import assert_same_values

ROOT = Path(__file__).parents[2]
NETWORKS, TOY, WIDE = (
    Path(__file__).with_name(f"{name}_study.py") for name in ("network", "toy", "wide")
)


def started(script, *arguments):
    return subprocess.Popen(
        [sys.executable, str(script), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process):
    """What it said on the error stream."""
    process.out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return err


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    store = tmp_path_factory.mktemp("one") / "networks.zarr"
    ended(started(NETWORKS, store, 1))
    return sweeps.open(store).load()


def assert_same_bits(store, expected):
    with sweeps.open(store) as found:
        assert found.attrs["status"] == "complete"
        assert_same_values(found, expected)
    chaotic = expected["variance_measured"].sel(weight_var=9.0, bias_var=0.0)
    assert np.isfinite(chaotic).all(), "rounding would have grown there"


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 8])
def test_the_number_of_devices_changes_no_bit(one_device, tmp_path, devices):
    ended(started(NETWORKS, tmp_path / "n.zarr", devices))
    assert_same_bits(tmp_path / "n.zarr", one_device)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_dask_workers_changes_no_bit(one_device, tmp_path, workers):
    err = ended(started(NETWORKS, tmp_path / "n.zarr", 1, "dask", workers))
    assert "Dask dashboard: http://127.0.0.1:" in err
    assert_same_bits(tmp_path / "n.zarr", one_device)


@pytest.mark.slow
def test_three_shards_at_once_change_no_bit(one_device, tmp_path):
    shards = [started(NETWORKS, tmp_path / "n.zarr", 1, "local", "-", f"{i}/3") for i in (3, 1, 2)]
    for shard in shards:
        ended(shard)
    assert_same_bits(tmp_path / "n.zarr", one_device)


TRAINED = """
import os, sys
store, cores = sys.argv[1:]
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(cores)])
from sigprop import studies, sweeps
grid = {"patient": ["relu_exploding"], "remedy": ["clip_by_norm"], "seed": [0, 1, 2]}
sweeps.run(studies.Remedies(steps=30), grid, store=store, progress=False)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes choose no cores here")
def test_one_core_changes_no_bit(tmp_path):
    """XLA sums otherwise with one thread: it is given two."""
    (tmp_path / "trained.py").write_text(TRAINED)
    stores = {cores: tmp_path / f"{cores}.zarr" for cores in (1, 2)}
    for cores, store in stores.items():
        ended(started(tmp_path / "trained.py", store, cores))
    assert_same_values(sweeps.open(stores[1]), sweeps.open(stores[2]))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_the_number_of_jax_processes_changes_no_bit(one_device, tmp_path, count):
    at = f"127.0.0.1:{free_port()}"
    told = [f"{at},{i}/{count}" for i in range(count)]
    store = tmp_path / "n.zarr"
    for process in [started(NETWORKS, store, 1, "multihost", "-", "-", t) for t in told]:
        ended(process)
    assert_same_bits(store, one_device)


@pytest.mark.slow
def test_a_cell_larger_than_a_host_is_spread_over_two(tmp_path):
    """Each process holds half of the weights; multiplies are summed up in another order."""
    alone, at = started(WIDE, tmp_path / "one.zarr", 1), f"127.0.0.1:{free_port()}"
    ended(alone)
    both = [started(WIDE, tmp_path / "two.zarr", 1, at, f"{i}/2") for i in range(2)]
    for process in both:
        ended(process)
    whole = int(alone.out.split()[0])
    for process in both:
        held = [int(line.split()[0]) for line in process.out.splitlines() if "held" in line]
        assert len(held) == 3, "every process has its part in every cell"
        assert max(held) < 0.51 * whole
    one, two = (sweeps.open(tmp_path / name).load() for name in ("one.zarr", "two.zarr"))
    assert two.attrs["status"] == "complete"
    np.testing.assert_allclose(two["variance"], one["variance"], rtol=1e-5)
    assert (one["bound"] < 1e-4).all()
    assert (abs(two["largest"] - one["largest"]) <= one["bound"] + two["bound"]).all()


def marked(store):
    return len(list(store.glob("done/[0-9]*")))


def wait_for(condition, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def children(process):
    """Processes below ``process``."""
    found = []
    for pid in subprocess.run(
        ["pgrep", "-P", str(process)], capture_output=True, text=True, check=False
    ).stdout.split():
        found += [int(pid), *children(pid)]
    return found


def workers_of(process):
    """Dask's own processes carry the interpreter's spawn command."""
    command = lambda pid: Path(f"/proc/{pid}/cmdline").read_bytes()  # noqa: E731
    return [pid for pid in children(process.pid) if b"spawn_main" in command(pid)]


@pytest.mark.slow
def test_killed_workers_chunks_run_again(toy, tmp_path):
    store = tmp_path / "toy.zarr"
    process = started(TOY, store, 0.5, "dask")
    for there in (2, 4):
        wait_for(lambda there=there: marked(store) >= there, process)
        os.kill(workers_of(process)[0], 9)
    ended(process)
    whole = sweeps.run(toy["ToyStudy"](), toy["GRID"], chunk_cells=3, progress=False)
    assert_same_values(sweeps.open(store), whole)


@pytest.mark.slow
def test_a_killed_dask_sweep_leaves_no_workers_and_is_resumed(toy, tmp_path):
    store = tmp_path / "toy.zarr"
    process = started(TOY, store, 0.5, "dask")
    wait_for(lambda: marked(store) >= 2, process)
    workers = workers_of(process)
    assert workers
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline, "workers outlive the sweep"
        time.sleep(0.1)
    study = toy["ToyStudy"]()
    ds = sweeps.run(study, toy["GRID"], store=store, progress=False)
    assert len(study.calls) <= 8
    whole = sweeps.run(toy["ToyStudy"](), toy["GRID"], chunk_cells=3, progress=False)
    assert_same_values(ds, whole)


@pytest.mark.slow
def test_a_lost_scheduler_is_one_line_and_the_sweep_goes_on_elsewhere(toy, tmp_path):
    at = f"tcp://127.0.0.1:{free_port()}"
    quiet = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "DASK_DISTRIBUTED__LOGGING__DISTRIBUTED": "error",
    }
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
    scheduler = subprocess.Popen(
        [*command, "--host", at, "--no-dashboard"], env=quiet, stderr=subprocess.DEVNULL
    )
    worker = subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_worker", at, "--nthreads", "1",
         "--no-nanny", "--no-dashboard", "--death-timeout", "60"],
        env=quiet, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    store = tmp_path / "toy.zarr"
    process = started(TOY, store, 0.5, "dask", "-", at)
    try:
        wait_for(lambda: marked(store) >= 2, process)
        scheduler.kill()
        _, err = process.communicate(timeout=120)
    finally:
        for one in (scheduler, worker, process):
            one.kill()
            one.wait()
    assert process.returncode == 1
    assert "ValueError: the Dask scheduler is lost" in err
    ds = sweeps.run(toy["ToyStudy"](), toy["GRID"], store=store, progress=False)
    whole = sweeps.run(toy["ToyStudy"](), toy["GRID"], chunk_cells=3, progress=False)
    assert_same_values(ds, whole)


def test_without_dask_one_line_names_the_extra(toy, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ValueError, match=r"needs Dask, which is not installed: .*sigprop\[dask\]"):
        sweeps.run(toy["ToyStudy"](), toy["GRID"], engine="dask", progress=False)


def test_a_scheduler_that_is_not_there_is_one_line(toy):
    with pytest.raises(ValueError, match="scheduler must be one that runs, got tcp://127"):
        sweeps.run(
            toy["ToyStudy"](), toy["GRID"], engine="dask", progress=False,
            scheduler=f"tcp://127.0.0.1:{free_port()}",
        )  # fmt: skip


@pytest.mark.parametrize("options", [{"workers": 2}, {"scheduler": "tcp://127.0.0.1:1"}])
def test_options_of_dask_are_refused_elsewhere(toy, options):
    with pytest.raises(ValueError, match="scheduler and workers are for the engine 'dask'"):
        sweeps.run(toy["ToyStudy"](), toy["GRID"], **options)
