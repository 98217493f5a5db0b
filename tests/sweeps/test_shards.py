"""Shards of one sweep, in any order and at once."""

import itertools

import numpy as np
import pytest

from sigprop import sweeps
from sigprop.sweeps.store import Store
from tests.sweeps.test_store import assert_same_values


def shard(toy, store, text):
    study = toy["ToyStudy"]()
    found = sweeps.run(study, toy["GRID"], store=store, shard=text, chunk_cells=3, progress=False)
    return study, found


@pytest.mark.parametrize("order", list(itertools.permutations([0, 1, 2])))
@pytest.mark.parametrize("first", [0, 1])
def test_three_shards_in_any_order_make_the_whole(toy, tmp_path, order, first):
    store = tmp_path / "toy.zarr"
    seen = [shard(toy, store, f"{number + first}/3") for number in order]
    assert sum(len(study.calls) for study, _ in seen) == 10
    assert [ds.attrs["status"] for _, ds in seen] == ["unfinished", "unfinished", "complete"]
    whole = sweeps.run(toy["ToyStudy"](), toy["GRID"], chunk_cells=3, progress=False)
    assert_same_values(seen[-1][1], whole)


def test_a_shard_and_the_same_shard_or_the_whole_do_not_write_at_once(toy, tmp_path):
    store = tmp_path / "toy.zarr"
    shard(toy, store, "1/3")
    with Store(store).claimed(None):
        for text in ("2/3", None):
            with pytest.raises(ValueError, match="is being written by another process"):
                shard(toy, store, text)
    from sigprop.sweeps.store import Shard

    with Store(store).claimed(Shard(2, 3)):
        with pytest.raises(ValueError, match="is being written by another process"):
            shard(toy, store, "2/3")
        study, _ = shard(toy, store, "3/3")
        assert study.calls
    _, ds = shard(toy, store, None)  # the rest
    assert ds.attrs["status"] == "complete"


@pytest.mark.parametrize("text", ["0", "1/0", "4/3", "-1/3", "a/b", "1/3/5"])
def test_a_shard_is_named_as_i_of_n(toy, tmp_path, text):
    with pytest.raises(ValueError, match="shard must be i/n with 0 <= i <= n"):
        shard(toy, tmp_path / "toy.zarr", text)


def test_shards_need_a_store_and_neighbours_need_no_shards(toy, tmp_path):
    with pytest.raises(ValueError, match="shard needs a store"):
        sweeps.run(toy["ToyStudy"](), toy["GRID"], shard="1/2")
    with pytest.raises(ValueError, match="refine needs all neighbours in one sweep"):
        sweeps.run(toy["ToyStudy"](), toy["GRID"], store=tmp_path / "x", shard="1/2", refine=["x"])
    assert np.array_equal(list(tmp_path.iterdir()), [])
