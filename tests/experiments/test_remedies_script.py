"""The remedies script, end to end, as a user would start it."""

import csv

import pytest
import xarray as xr

from tests.experiments.scripts import contents, run

TINY = ["--patient", "unscaled_regression", "relu_exploding", "--remedy", "he", "smaller_step"]
TINY += ["--depth", "4", "--width", "8", "--steps", "20", "--batch-size", "8", "--seeds", "2"]
TINY += ["--out", "out"]
FILES = [f"remedies.{suffix}" for suffix in ("csv", "md", "pdf", "png", "zarr")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One tiny finished run, and what it printed."""
    folder = tmp_path_factory.mktemp("remedies")
    code, out, err = run("remedies", *TINY, cwd=folder)
    assert code == 0, err
    return folder, out


def test_writes_dataset_tables_and_figures(finished):
    folder, out = finished
    assert sorted(p.name for p in (folder / "out").iterdir()) == FILES
    for name in FILES:
        assert f"wrote out/{name}" in out
    with xr.open_zarr(folder / "out" / "remedies.zarr") as ds:
        assert ds["loss"].dims == ("patient", "remedy", "seed")
    with open(folder / "out" / "remedies.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 2
    cured = {(r["patient"], r["remedy"]) for r in rows if r["verdict"] == "cured"}
    assert cured >= {("unscaled_regression", "smaller_step"), ("relu_exploding", "he")}
    assert ("unscaled_regression", "he") not in cured


def test_prints_the_table_that_it_writes(finished):
    folder, out = finished
    table = (folder / "out" / "remedies.md").read_text()
    for line in table.splitlines()[2:]:
        for cell in line.strip("| ").split(" | "):
            assert cell in out


def test_the_same_command_again_only_plots_and_another_is_refused(finished):
    folder, _ = finished
    store = folder / "out" / "remedies.zarr"
    before = contents(store)
    code, out, err = run("remedies", *TINY, "--steps", "30", cwd=folder)
    assert (code, out) == (2, "")
    assert "steps is 20 there and 30 here" in err
    code, _, err = run("remedies", *TINY, "--seeds", "1", cwd=folder)
    assert (code, err) == (2, "error: seeds must be >= 2, got 1\n")
    assert contents(store) == before
