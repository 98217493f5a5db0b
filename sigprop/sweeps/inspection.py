"""Whether a store is as it was written, and what of it is there."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sigprop.sweeps import whole_files, zarr_regions
from sigprop.sweeps.layout import DONE, metadata_files
from sigprop.sweeps.store import Store
from sigprop.sweeps.store_plan import Plan

__all__ = ["Damage", "Failure", "damages", "failures", "missing"]


@dataclass(frozen=True)
class Damage:
    """A file that is not as it was written; ``index`` of its box, if it is a chunk's."""

    file: str
    reason: str
    index: int | None


@dataclass(frozen=True)
class Failure:
    """A chunk that raised when it was last tried."""

    index: int
    where: str
    error: str


def damages(store: Store, plan: Plan) -> Iterator[Damage]:
    """Every file of a marked chunk, and of metadata and coordinates, that is not what it was."""
    yield from _damaged_books(store, plan)
    seen = set()
    for index in range(len(plan.tiling)):
        mask = plan.arrays[DONE]
        key = mask.key(zarr_regions.place(plan, mask, index))
        if not (store.path / key).exists():
            if store.complete and not plan.refined:
                yield Damage(key, "missing", index)
            continue
        for array in plan.arrays.values():
            key = array.key(zarr_regions.place(plan, array, index))
            reason = None if key in seen else _reason(store, plan, array, key, index)
            seen.add(key)
            if reason:
                yield Damage(key, reason, index)


def _reason(store: Store, plan: Plan, array, key: str, index: int) -> str | None:
    try:
        array.decode((store.path / key).read_bytes())
    except FileNotFoundError:
        owner = any(i for dim, i in zarr_regions.at(plan, index).items() if dim not in array.dims)
        return None if owner and not plan.refined else "missing"
    except (OSError, ValueError) as error:
        return str(error)
    return None


def _damaged_books(store: Store, plan: Plan) -> Iterator[Damage]:
    told = whole_files.read_json(store.path / ".zattrs") or {}
    arrays = list(plan.arrays.values()), list(plan.coordinates.values())
    settled = told.get("status") == "complete" and not plan.refined
    attrs = {**plan.attrs, "status": told.get("status")}
    attrs |= {name: told[name] for name in ("cells_done", "cells", "wall_seconds") if name in told}
    for name, wanted in metadata_files(*arrays, attrs, settled=settled).items():
        there = store.path / name
        if not there.exists() or there.read_bytes() != wanted:
            yield Damage(name, "missing or changed", None)
    for array in plan.coordinates.values():
        try:
            array.decode((store.path / array.key([0])).read_bytes())
        except (OSError, ValueError) as error:
            yield Damage(array.key([0]), str(error), None)


def missing(store: Store, plan: Plan) -> list[int]:
    """Boxes of which not every cell is marked."""
    return [i for i in range(len(plan.tiling)) if not np.all(store.mask(plan, i))]


def failures(store: Store) -> list[Failure]:
    """Chunks that raised when they were last tried, in order."""
    notes = [whole_files.read_json(path) for path in (store.books / "failures").glob("*.json")]
    found = [Failure(note["index"], note["where"], note["error"]) for note in notes if note]
    return sorted(found, key=lambda failure: failure.index)
