"""Shards that were computed on several machines, brought together into one store."""

import json
from collections.abc import Sequence
from pathlib import Path

from sigprop.sweeps import inspection, whole_files, zarr_regions
from sigprop.sweeps.folders import made_for
from sigprop.sweeps.identity import differences
from sigprop.sweeps.layout import DONE
from sigprop.sweeps.store import Store
from sigprop.sweeps.store_plan import Plan

__all__ = ["merge"]


def merge(into: Path, stores: Sequence[Path]) -> int:
    """Copy every whole chunk of ``stores`` that ``into`` lacks; gives how many it lacks still.

    Raises
    ------
    ValueError
        If a store holds another sweep, or one cut up otherwise, or a chunk of it is damaged.
    """
    target, sources = Store(into), [Store(path) for path in stores]
    plan = sources[0].plan()
    with made_for(into):
        if not into.exists():
            target.lay_out(plan, _coordinates(sources[0], plan))
        with target.claimed():
            for source in sources:
                _check_same(target.plan(), source)
                _copy(target, source, plan)
            missing = inspection.missing(target, plan)
            if not missing:
                target.finish(plan)
    return len(missing)


def _coordinates(store: Store, plan: Plan) -> dict:
    arrays = plan.coordinates.items()
    return {n: array.decode((store.path / array.key([0])).read_bytes()) for n, array in arrays}


def _check_same(plan: Plan, source: Store) -> None:
    other = source.plan()
    if plan.refined:
        raise ValueError("a refined sweep has no shards to merge")
    if other.identity != plan.identity:
        differ = differences(plan.identity, other.identity)
        raise ValueError(f"store {source.path} holds another sweep (there: the target's): {differ}")
    if (other.box, other.rows) != (plan.box, plan.rows):
        raise ValueError(
            f"store {source.path} has chunks of {other.box} cells, not {plan.box}: give all shards "
            "the same --chunk-cells"
        )


def _copy(target: Store, source: Store, plan: Plan) -> None:
    damaged = [d for d in inspection.damages(source, plan) if d.index is not None]
    if damaged:
        raise ValueError(f"store {source.path} is damaged at {damaged[0].file}; repair it first")
    there = set(inspection.missing(source, plan))
    for index in inspection.missing(target, plan):
        if index in there:
            continue
        keys = [a.key(zarr_regions.place(plan, a, index)) for a in plan.arrays.values()]
        data = {key: (source.path / key) for key in keys if (source.path / key).exists()}
        mark = plan.arrays[DONE].key(zarr_regions.place(plan, plan.arrays[DONE], index))
        whole = {target.path / key: path.read_bytes() for key, path in data.items()}
        last = {target.path / mark: whole.pop(target.path / mark)}
        whole_files.write_all(whole, target.scratch)
        whole_files.write_all(last, target.scratch)
    notes = {p.name: p.read_bytes() for p in (source.books / "runs").glob("*.json")}
    if notes:
        (target.books / "runs").mkdir(exist_ok=True)
        known = {target.books / "runs" / name: note for name, note in notes.items()}
        whole_files.write_all({p: n for p, n in known.items() if json.loads(n)}, target.scratch)
