"""The isometry-training script, end to end, as a user would start it."""

import re

import pytest
import xarray as xr

from tests.experiments.scripts import contents, run

TINY = ["--activation", "linear", "--initialiser", "orthogonal", "--depth", "2"]
TINY += [
    "3",
    "4",
    "--width",
    "16",
    "--examples",
    "32",
    "--steps",
    "40",
    "--threshold",
    "0.08",
    "--rates",
    "3",
    "--seeds",
    "2",
    "--out",
    "out",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One tiny finished run, and what it printed."""
    folder = tmp_path_factory.mktemp("isometry")
    code, out, err = run("isometry_training", *TINY, cwd=folder)
    assert code == 0, err
    return folder, out


def test_writes_dataset_and_figure(finished):
    folder, out = finished
    names = ["isometry_training.pdf", "isometry_training.png", "isometry_training.zarr"]
    assert sorted(p.name for p in (folder / "out").iterdir()) == names
    assert all(f"wrote out/{name}" in out for name in names)
    with xr.open_zarr(folder / "out" / "isometry_training.zarr") as ds:
        assert ds["depth"].values.tolist() == [2, 3, 4]
        assert ds["steps_measured"].dims[-2:] == ("rate_times_depth", "network")
        assert all("long_name" in variable.attrs for variable in ds.data_vars.values())


def test_prints_the_numbers_that_answer(finished):
    _, out = finished
    assert "steps to loss 0.08, learning rate tuned for every network:" in out
    number = r"-?[\d.]+ ± [\d.]+"
    assert re.search(rf"linear, orthogonal( +[\d.]+){{3}} +{number} +{number}\n", out)
    assert re.search(r"of 6 networks 0 never got there, \d+ did best at an end of the rates", out)


def test_the_same_command_again_only_plots_and_another_is_refused(finished):
    folder, _ = finished
    before = contents(folder / "out" / "isometry_training.zarr")
    (folder / "out" / "isometry_training.png").unlink()
    code, _, err = run("isometry_training", *TINY, cwd=folder)
    assert code == 0, err
    assert contents(folder / "out" / "isometry_training.zarr") == before
    assert (folder / "out" / "isometry_training.png").exists()
    code, out, err = run("isometry_training", *TINY, "--seed", "5", cwd=folder)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"error: store .*seed is 0 there and 5 here.*\n", err)
