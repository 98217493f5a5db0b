"""The script of classic demonstrations, end to end, on the user's own images."""

import gzip
import struct

import numpy as np
import pytest
import xarray as xr

from tests.experiments.scripts import contents, run

TINY = ["--steps", "60", "--epochs", "2", "--width", "16", "--data", "mnist", "--out", "out"]


def _idx(array: np.ndarray) -> bytes:
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def _write_images(folder):
    """Files as MNIST has them: each class is bright in a row of its own."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for part, count in (("train", 600), ("t10k", 200)):
        labels = rng.integers(0, 10, count).astype(np.uint8)
        images = rng.integers(0, 60, (count, 28, 28)).astype(np.uint8)
        images[np.arange(count), 2 * labels] += 150
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(_idx(array)))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One tiny finished run, and what it printed."""
    folder = tmp_path_factory.mktemp("basics")
    _write_images(folder / "mnist")
    code, out, err = run("basics", *TINY, cwd=folder)
    assert code == 0, err
    return folder, out


def test_writes_dataset_and_figure_and_prints_the_numbers(finished):
    folder, out = finished
    names = ["basics.pdf", "basics.png", "basics.zarr"]
    assert sorted(p.name for p in (folder / "out").iterdir()) == names
    with xr.open_zarr(folder / "out" / "basics.zarr") as ds:
        assert ds.attrs["data"] == "mnist"
        accuracy = float(ds["classifier_test_accuracy"].sel(seed=0))
    assert f"classifier: test accuracy {accuracy:.4f} after 2 epochs" in out
    assert "parabola, as it is: step size 0.01, diverges at update 4" in out
    assert "right gradient: 0 of" in out


def test_other_images_are_another_study_and_broken_ones_one_clear_line(finished):
    folder, _ = finished
    store = folder / "out" / "basics.zarr"
    before = contents(store)
    code, out, err = run("basics", *[a for a in TINY if a not in ("--data", "mnist")], cwd=folder)
    assert (code, out) == (2, "")
    assert "images" in err
    assert contents(store) == before
    (folder / "mnist" / "train-labels-idx1-ubyte.gz").write_bytes(b"not gzip")
    code, out, err = run("basics", *TINY, cwd=folder)
    assert (code, out) == (2, "")
    assert "train-labels-idx1-ubyte.gz" in err
    assert err.count("\n") == 1
