"""The kernel script, end to end, as a user would start it."""

import re

import pytest
import xarray as xr

from tests.experiments.scripts import contents, run

TINY = ["--activation", "relu", "--bias-var", "0", "--depth", "40", "--measured-depth", "2"]
TINY += ["--width", "16", "--count", "3", "--outputs", "2", "--seeds", "2", "--out", "out"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One tiny finished run, and what it printed."""
    folder = tmp_path_factory.mktemp("kernels")
    code, out, err = run("kernels", *TINY, cwd=folder)
    assert code == 0, err
    return folder, out


def test_writes_dataset_and_figure(finished):
    folder, out = finished
    names = ["kernels.pdf", "kernels.png", "kernels.zarr"]
    assert sorted(p.name for p in (folder / "out").iterdir()) == names
    assert all(f"wrote out/{name}" in out for name in names)
    with xr.open_zarr(folder / "out" / "kernels.zarr") as ds:
        assert ds["weight_var"].values.tolist() == pytest.approx([1.4, 2.0, 3.0])
        assert ds["measured_depth"].values.tolist() == [1, 2]
        # A linear model of three inputs at correlation 0.2: (1 + 2·0.2)/(1 - 0.2).
        assert float(ds["ntk_condition_theory"][0, 1, 0, 0]) == pytest.approx(1.75)


def test_prints_the_numbers_that_answer(finished):
    _, out = finished
    assert "3 inputs, 40 layers:" in out
    assert re.search(r"relu, weight_var 2 \(critical\): NTK [\d.]+, NNGP [\d.]+; networks", out)


def test_the_same_command_again_only_plots_and_another_is_refused(finished):
    folder, _ = finished
    before = contents(folder / "out" / "kernels.zarr")
    (folder / "out" / "kernels.png").unlink()
    code, _, err = run("kernels", *TINY, cwd=folder)
    assert code == 0, err
    assert contents(folder / "out" / "kernels.zarr") == before
    assert (folder / "out" / "kernels.png").exists()
    code, out, err = run("kernels", *TINY, "--seed", "5", cwd=folder)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"error: store .*seed is 0 there and 5 here.*\n", err)
