"""The command that looks after stores."""

import csv

import numpy as np
import pytest
import xarray as xr

from sigprop import sweeps
from sigprop.sweeps.__main__ import main
from tests.sweeps.test_store import assert_same_values


@pytest.fixture
def store(toy, tmp_path):
    path = tmp_path / "toy.zarr"
    sweeps.run(toy["ToyStudy"](), toy["GRID"], store=path, chunk_cells=3, progress=False)
    return path


def sharded(toy, path, *shards):
    for shard in shards:
        sweeps.run(
            toy["ToyStudy"](), toy["GRID"], store=path, shard=shard, chunk_cells=3, progress=False
        )
    return path


def test_list_and_status_of_a_complete_store(store, capsys):
    assert main(["list", str(store.parent)]) == 0
    assert main(["status", str(store)]) == 0
    out = capsys.readouterr().out
    assert out.count("toy: complete, 30 of 30 cells") == 2
    assert "not being written" in out


def test_status_says_what_is_missing(toy, tmp_path, capsys):
    path = sharded(toy, tmp_path / "part.zarr", "1/3")
    assert main(["status", str(path)]) == 1
    out = capsys.readouterr().out
    assert "toy: unfinished, 9 of 30 cells" in out
    assert "missing: 7 of 10 chunks" in out
    assert "chunk 0: flavour sweet, x 0, y 1 to 4" in out


def test_status_says_what_failed(toy, tmp_path, capsys):
    class Breaks(toy["ToyStudy"]):
        def compute(self, static, cells):
            if cells["x"][0] == 0.5:
                raise RuntimeError("no such x")
            return super().compute(static, cells)

    path = tmp_path / "toy.zarr"
    with pytest.raises(sweeps.SweepIncompleteError):
        sweeps.run(Breaks(), toy["GRID"], store=path, chunk_cells=3, progress=False)
    assert main(["status", str(path)]) == 1
    told = "failed: chunk 2 (flavour sweet, x 0.5, y 1 to 4): RuntimeError: no such x"
    assert told in capsys.readouterr().out
    sweeps.run(toy["ToyStudy"](), toy["GRID"], store=path, progress=False)
    assert main(["status", str(path)]) == 0
    assert "failed:" not in capsys.readouterr().out


def test_verify_finds_every_flipped_bit_and_repair_has_it_computed_again(toy, store, capsys):
    assert main(["verify", str(store)]) == 0
    before = sweeps.open(store).load()
    data = (store / "path/1.2.0.0").read_bytes()
    for bit in range(0, 8 * len(data), 11):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        (store / "path/1.2.0.0").write_bytes(flipped)
        capsys.readouterr()
        if main(["verify", str(store)]) == 0:  # some bits mean nothing: the values are right
            assert_same_values(sweeps.open(store), before)
        else:
            assert "damaged: path/1.2.0.0" in capsys.readouterr().out
    (store / "path/1.2.0.0").write_bytes(data[:10])
    assert main(["repair", str(store)]) == 0
    assert "1 chunks are to be computed again" in capsys.readouterr().out
    assert sweeps.open(store).attrs["cells_done"] == 27
    study = toy["ToyStudy"]()
    assert_same_values(sweeps.run(study, toy["GRID"], store=store, progress=False), before)
    assert len(study.calls) == 1
    assert main(["verify", str(store)]) == 0


@pytest.mark.parametrize("file", [".zattrs", ".zmetadata", "path/.zarray", "x/0"])
def test_verify_reads_metadata_and_coordinates_too(store, file, capsys):
    data = (store / file).read_bytes()
    (store / file).write_bytes(data[: len(data) // 2])
    assert main(["verify", str(store)]) == 1
    assert f"damaged: {file}" in capsys.readouterr().out


def test_export_to_csv_has_a_row_for_every_cell(toy, store, tmp_path, monkeypatch):
    monkeypatch.setattr("sigprop.sweeps.export._CELLS_AT_ONCE", 4)  # in several slabs
    assert main(["export", str(store), str(tmp_path / "toy.csv")]) == 0
    with open(tmp_path / "toy.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 30
    ds = sweeps.open(store)
    for row in rows:
        cell = ds.sel(flavour=row["flavour"], x=float(row["x"]), y=float(row["y"]))
        np.testing.assert_equal(float(row["total"]), float(cell["total"]))
        assert int(row["kind"]) == int(cell["kind"])
        assert int(row["rank"]) == int(cell["rank"])
    assert main(["export", str(store), str(tmp_path / "toy.csv")]) == 2


def test_export_to_netcdf_is_the_same_dataset(store, tmp_path):
    assert main(["export", str(store), str(tmp_path / "toy.nc")]) == 0
    with xr.open_dataset(tmp_path / "toy.nc") as written:
        ds = sweeps.open(store)
        for name in ds.variables:
            np.testing.assert_array_equal(written[name], ds[name])
        assert written.attrs["config_hash"] == ds.attrs["config_hash"]


def test_merge_brings_shards_of_several_machines_together(toy, tmp_path, capsys):
    parts = [sharded(toy, tmp_path / f"{i}.zarr", f"{i}/3") for i in (1, 2, 3)]
    assert main(["merge", str(tmp_path / "all.zarr"), *map(str, parts[:2])]) == 1
    assert "4 chunks are still missing" in capsys.readouterr().out
    assert main(["merge", str(tmp_path / "all.zarr"), str(parts[2])]) == 0
    whole = sweeps.run(toy["ToyStudy"](), toy["GRID"], chunk_cells=3, progress=False)
    assert_same_values(sweeps.open(tmp_path / "all.zarr"), whole)


def test_merge_refuses_another_sweep(toy, store, tmp_path, capsys):
    other = tmp_path / "other.zarr"
    sweeps.run(toy["ToyStudy"](steps=5), toy["GRID"], store=other, chunk_cells=3, progress=False)
    assert main(["merge", str(other), str(store)]) == 2
    assert "another sweep" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["status", "verify", "repair"])
def test_what_is_no_store_is_one_line(tmp_path, command, capsys):
    assert main([command, str(tmp_path / "nowhere")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: store ")
    assert err.count("\n") == 1
