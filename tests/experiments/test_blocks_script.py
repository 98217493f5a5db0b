"""The blocks script, end to end, as a user would start it."""

import re

import numpy as np
import pytest
import xarray as xr

from tests.experiments.scripts import contents, run

TINY = ["--activation", "relu", "--block", "plain", "residual_scaled", "--weight-var", "2"]
TINY += ["--depth", "5", "--width", "16", "--seeds", "2", "--bias-var", "0", "--out", "out"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One tiny finished run, and what it printed."""
    folder = tmp_path_factory.mktemp("blocks")
    code, out, err = run("blocks", *TINY, cwd=folder)
    assert code == 0, err
    return folder, out


def test_writes_dataset_and_figure(finished):
    folder, out = finished
    names = [f"blocks.{suffix}" for suffix in ("pdf", "png", "zarr")]
    assert sorted(p.name for p in (folder / "out").iterdir()) == names
    for name in names:
        assert f"wrote out/{name}" in out
    with xr.open_zarr(folder / "out" / "blocks.zarr") as ds:
        assert ds["block"].values.tolist() == ["plain", "residual_scaled"]
        gained = ds["log_gradient_theory"].sel(block="residual_scaled").squeeze()
        np.testing.assert_allclose(gained, np.arange(5) * np.log(1.2), atol=1e-12)


def test_prints_the_law_of_every_block_beside_what_was_measured(finished):
    _, out = finished
    assert "ln of the squared gradient over 5 layers:" in out
    number = r"-?\d+\.\d\d"
    for block, law, predicted in (
        ("plain", "factor 1 a layer", "0.00"),
        ("residual_scaled", r"factor 1\.2 a layer", "0.73"),
    ):
        row = rf"{block} +{law} +predicted +{predicted}, measured +{number} ± {number}"
        assert re.search(row, out), out


def test_the_same_command_again_only_plots_and_another_is_refused(finished):
    folder, _ = finished
    (folder / "out" / "blocks.png").unlink()
    store = folder / "out" / "blocks.zarr"
    before = contents(store)
    code, _, err = run("blocks", *TINY, cwd=folder)
    assert code == 0, err
    assert contents(store) == before
    assert (folder / "out" / "blocks.png").exists()
    code, out, err = run("blocks", *TINY, "--seeds", "3", cwd=folder)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"error: store .*seeds is 2 there and 3 here.*\n", err)
    assert contents(store) == before


def test_a_block_that_does_not_exist_is_one_clear_line(tmp_path):
    code, out, err = run("blocks", *TINY, "--block", "resnorm", cwd=tmp_path)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"error: block must be one of .*'resnorm'.*\n", err), err
    assert not contents(tmp_path)
