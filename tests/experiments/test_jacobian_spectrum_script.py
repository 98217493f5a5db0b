"""The Jacobian-spectrum script, end to end, as a user would start it."""

import re

import pytest
import xarray as xr

from tests.experiments.scripts import contents, run

TINY = ["--activation", "relu", "--initialiser", "gaussian", "--depth", "4", "--width", "8"]
TINY += ["--map-depth", "2", "--map-width", "8", "--map-weight-var-points", "3"]
TINY += [
    "--map-bias-var-points",
    "2",
    "--seeds",
    "2",
    "--bins",
    "4",
    "--deep-depth",
    "6",
    "--deep-width",
    "4",
    "--out",
    "out",
]
FILES = [f"conditioning_map.{suffix}" for suffix in ("pdf", "png", "zarr")]
FILES += [f"deep_spectrum.{suffix}" for suffix in ("pdf", "png")]
FILES += [f"jacobian_spectrum.{suffix}" for suffix in ("pdf", "png", "zarr")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One tiny finished run, and what it printed."""
    folder = tmp_path_factory.mktemp("jacobian_spectrum")
    code, out, err = run("jacobian_spectrum", *TINY, cwd=folder)
    assert code == 0, err
    return folder, out


def test_writes_dataset_and_figures(finished):
    folder, out = finished
    assert sorted(p.name for p in (folder / "out").iterdir()) == FILES
    for name in FILES:
        assert f"wrote out/{name}" in out
    with xr.open_zarr(folder / "out" / "jacobian_spectrum.zarr") as ds:
        assert ds["weight_var"].sel(activation="relu").values.tolist() == [2.0]
        assert ds["density_theory"].dims[-1] == "point"
    with xr.open_zarr(folder / "out" / "conditioning_map.zarr") as ds:
        assert dict(ds.sizes)["weight_var"] == 3


def test_prints_the_numbers_that_answer(finished):
    _, out = finished
    assert "over 4 square layers, measured ± standard error (predicted):" in out
    assert re.search(
        r"relu, gaussian, weight_var 2: ln s_max .* ± .* \(.*\), Var/mean² .*\(8\)", out
    )


def test_the_same_command_again_only_plots_and_another_is_refused(finished):
    folder, _ = finished
    (folder / "out" / "deep_spectrum.png").unlink()
    store = folder / "out" / "jacobian_spectrum.zarr"
    before = contents(store)
    code, _, err = run("jacobian_spectrum", *TINY, cwd=folder)
    assert code == 0, err
    assert contents(store) == before
    assert (folder / "out" / "deep_spectrum.png").exists()
    code, out, err = run("jacobian_spectrum", *TINY, "--bias-var", "0.1", cwd=folder)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"error: store .*bias_var .*\n", err)
    assert contents(store) == before
