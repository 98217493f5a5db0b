"""The trainability script, end to end, as a user would start it."""

import re

import pytest
import xarray as xr

from tests.experiments.scripts import contents, run

TINY = ["--weight-var", "1.2", "2.5", "--depth", "2", "4", "--width", "8", "--steps", "4"]
TINY += ["--seeds", "1", "--learning-rate", "0.1", "--out", "out"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One tiny finished run, and what it printed."""
    folder = tmp_path_factory.mktemp("trainability")
    code, out, err = run("trainability", *TINY, cwd=folder)
    assert code == 0, err
    return folder, out


def test_writes_dataset_and_figure_and_prints_the_table(finished):
    folder, out = finished
    names = ["trainability.pdf", "trainability.png", "trainability.zarr"]
    names += ["trainability_boundaries.zarr"]
    assert sorted(p.name for p in (folder / "out").iterdir()) == names
    assert all(f"wrote out/{name}" in out for name in names)
    assert re.search(r"1\.2000  ordered +5\.94 ", out)
    assert re.search(r"4 steps, chaotic +k = ", out)
    with xr.open_zarr(folder / "out" / "trainability.zarr") as ds:
        assert dict(ds["train_accuracy"].sizes)["depth"] == 2
        assert ds["budget"].values.tolist() == [2, 4]
    with xr.open_zarr(folder / "out" / "trainability_boundaries.zarr") as ds:
        assert ds["boundary_depth"].dims == ("activation", "weight_var", "budget")
        assert ds["fit_k"].dims == ("side", "activation", "budget")


def test_the_same_command_again_only_plots_and_another_is_refused(finished):
    folder, _ = finished
    before = contents(folder / "out" / "trainability.zarr")
    code, _, err = run("trainability", *TINY, cwd=folder)
    assert code == 0, err
    assert contents(folder / "out" / "trainability.zarr") == before
    code, out, err = run("trainability", *TINY, "--seed", "5", cwd=folder)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"error: store .*seed is 0 there and 5 here.*\n", err)


def test_a_mistake_is_one_line(tmp_path):
    code, out, err = run("trainability", "--depth", "8", "4", cwd=tmp_path)
    assert (code, out) == (2, "")
    assert err == "error: depth must be at least two, ascending, got (8, 4)\n"
