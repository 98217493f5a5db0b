"""A sweep on disk: a Zarr dataset laid out whole at first, filled chunk by chunk.

Everything a chunk computed is on the disk before its cells are marked in the mask ``done``, and the
whole sweep is marked complete last. What a store knows of itself besides lies in a folder of the
mask, where no Zarr reader looks for arrays.
"""

import contextlib
import math
import os
import shutil
import socket
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sigprop.sweeps import whole_files, zarr_regions
from sigprop.sweeps.identity import differences
from sigprop.sweeps.layout import DONE, ZarrArray, metadata_files
from sigprop.sweeps.store_plan import Plan
from sigprop.sweeps.tiling import Chunk

__all__ = ["Shard", "Store"]

_FIRST_FORMAT_MARK = "sweep_done.json"


@dataclass(frozen=True)
class Shard:
    """Every ``count``-th chunk, beginning with chunk ``number`` modulo ``count``."""

    number: int
    count: int

    @classmethod
    def parsed(cls, text: str) -> "Shard":
        """From ``"i/n"``, where i counts from 1 to n or from 0 to n - 1.

        Examples
        --------
        >>> Shard.parsed("2/3")
        Shard(number=2, count=3)
        >>> Shard.parsed("4/3")
        Traceback (most recent call last):
        ...
        ValueError: shard must be i/n with 0 <= i <= n (i = n is i = 0), got '4/3'
        """
        number, _, count = text.partition("/")
        good = number.isdecimal() and count.isdecimal() and 0 <= int(number) <= int(count) > 0
        if not good:
            raise ValueError(f"shard must be i/n with 0 <= i <= n (i = n is i = 0), got {text!r}")
        return cls(int(number), int(count))

    def has(self, index: int) -> bool:
        """Whether chunk ``index`` is this shard's."""
        return index % self.count == self.number % self.count


@dataclass(frozen=True)
class Store:
    """The place of one sweep; ``path`` is the Zarr folder."""

    path: Path

    @property
    def books(self) -> Path:
        """Plan, locks, failures and marks."""
        return self.path / DONE / ".sweep"

    @property
    def scratch(self) -> Path:
        """Where files are written before they take their places."""
        return self.books / "writing"

    @property
    def complete(self) -> bool:
        """Whether the last mark is there."""
        return (self.books / "complete.json").exists() or self.of_first_format

    @property
    def of_first_format(self) -> bool:
        """A finished store of the first format: one Zarr dataset and a mark."""
        return (self.path / _FIRST_FORMAT_MARK).exists()

    def plan(self) -> Plan:
        """What the store holds.

        Raises
        ------
        ValueError
            If it is no sweep's, or cannot be read.
        """
        told = whole_files.read_json(self.books / "plan.json")
        if told is None:
            raise ValueError(f"store {self.path} is not a sweep's, or its plan is damaged")
        try:
            return Plan.from_json(told)
        except ValueError as error:
            raise ValueError(f"store {self.path} cannot be used: {error}") from None

    def holds(self, identity: Mapping[str, Any]) -> bool:
        """Whether this very sweep is there, finished or not; False where nothing is.

        Raises
        ------
        ValueError
            If the place holds another sweep, something that is no sweep, or what cannot be read.
        """
        if not os.path.lexists(self.path):
            self._refuse_begun_in_first_format()
            return False
        if self.of_first_format:
            there = dict(whole_files.read_json(self.path / _FIRST_FORMAT_MARK)["identity"])
            there.pop("schema", None)
        elif self.books.exists():
            there = self.plan().identity
        else:
            raise ValueError(
                f"store must be a new path or a sweep's own store, got {self.path}, "
                "which exists and is not a finished sweep; nothing was overwritten"
            )
        if there != identity:
            kind = "another" if self.complete else "an unfinished"
            raise ValueError(
                f"store {self.path} holds {kind} sweep: {differences(there, identity)}; "
                "nothing was overwritten, give another place or remove it"
            )
        return True

    def _refuse_begun_in_first_format(self) -> None:
        partial = self.path.with_name(self.path.name + ".partial")
        if (partial / "plan.json").exists():
            raise ValueError(
                f"store {self.path} was begun by an earlier version of sigprop, whose chunks in "
                f"{partial} this one does not read; remove that folder to begin again"
            )

    def lay_out(self, plan: Plan, coordinates: Mapping[str, np.ndarray]) -> None:
        """Write all but the chunks, whole at once; another process may have been first."""
        name = f".{self.path.name}.{socket.gethostname()}.{os.getpid()}.{uuid.uuid4().hex[:6]}"
        new = Store(self.path.with_name(name + ".new"))
        self._remove_left_over()
        try:
            new.books.mkdir(parents=True)
            new.write_template(plan, coordinates)
            whole_files.write_json(new.books / "plan.json", plan.as_json(), new.scratch)
            with contextlib.suppress(FileExistsError, NotADirectoryError), self.one_line_errors():
                if not self.path.exists():
                    new.path.rename(self.path)
            whole_files.sync_folders({self.path.parent})
        finally:
            shutil.rmtree(new.path, ignore_errors=True)

    def _remove_left_over(self) -> None:
        """Half-written templates of processes of this machine that are gone."""
        for left in self.path.parent.glob(f".{self.path.name}.{socket.gethostname()}.*.new"):
            if not Path(f"/proc/{left.name.split('.')[-3]}").exists() and Path("/proc").exists():
                shutil.rmtree(left, ignore_errors=True)

    def write_template(self, plan: Plan, coordinates: Mapping[str, np.ndarray]) -> None:
        """Metadata and coordinates, where they are not there as they should be."""
        self.write_metadata(plan, {})
        arrays = plan.coordinates
        wanted = {arrays[n].key([0]): arrays[n].encode(v) for n, v in coordinates.items()}
        self._write_missing(wanted)

    def write_metadata(self, plan: Plan, more: Mapping[str, Any], *, settled: bool = False) -> None:
        """The metadata of every array, and the attributes of the dataset."""
        attrs = {**plan.attrs, "status": "complete" if more else "unfinished", **more}
        arrays, coordinates = list(plan.arrays.values()), list(plan.coordinates.values())
        self._write_missing(metadata_files(arrays, coordinates, attrs, settled=settled))

    def _write_missing(self, wanted: Mapping[str, bytes]) -> None:
        wrong = {n: data for n, data in wanted.items() if _bytes(self.path / n) != data}
        last = {n: wrong.pop(n) for n in [".zmetadata"] if n in wrong}
        for part in (wrong, last):
            for name in part:
                (self.path / name).parent.mkdir(parents=True, exist_ok=True)
            if part:
                whole_files.write_all({self.path / n: d for n, d in part.items()}, self.scratch)

    @contextlib.contextmanager
    def claimed(self, shard: Shard | None = None) -> Iterator[None]:
        """Hold the store while writing to it: alone, or as one of several shards.

        Raises
        ------
        ValueError
            If it cannot be written, or another process is writing it (or this shard of it).
        """
        name = "lock" if shard is None else f"lock-{shard.number % shard.count}-of-{shard.count}"
        with contextlib.ExitStack() as held, self.one_line_errors():
            free = held.enter_context(
                whole_files.locked(self.books / "lock", shared=shard is not None)
            )
            if free and shard is not None:
                free = held.enter_context(whole_files.locked(self.books / name))
            if not free:
                raise ValueError(f"store {self.path} is being written by another process")
            if shard is None:
                shutil.rmtree(self.scratch, ignore_errors=True)
            yield

    def in_use(self) -> bool:
        """Whether some process holds the store for writing."""
        with whole_files.locked(self.books / "lock") as free:
            return not free

    @contextlib.contextmanager
    def one_line_errors(self) -> Iterator[None]:
        """What the system refuses, as a ValueError that says what became of the chunks."""
        try:
            yield
        except FileExistsError:
            raise
        except OSError as error:
            if error.errno in whole_files.NO_ROOM:
                raise ValueError(
                    f"store {self.path} cannot grow: {error.strerror}; what is finished is kept, "
                    "run the same command again when there is room"
                ) from None
            raise ValueError(
                f"store {self.path} cannot be written: {error.strerror or error}"
            ) from None

    def mask(self, plan: Plan, index: int) -> np.ndarray:
        """Which cells of box ``index`` are there; a damaged mask promises nothing."""
        mask = plan.arrays[DONE]
        data = _bytes(self.path / mask.key(zarr_regions.place(plan, mask, index)))
        try:
            whole = mask.empty_chunk() if data is None else mask.decode(data)
        except ValueError:
            whole = mask.empty_chunk()
        _, place = plan.tiling.split(index)
        real = tuple(slice(0, s.stop - s.start) for s in plan.tiling.slices(place))
        return whole[(*([0] * len(plan.static_axes)), *real)]

    def write(
        self,
        plan: Plan,
        chunk: Chunk,
        answers: Mapping[str, np.ndarray],
        notes: Mapping[Path, bytes],
    ) -> None:
        """Put what a chunk computed in its places; when all is on the disk, mark it."""
        for index, inside, rows in plan.tiling.by_box(chunk):
            found = self.mask(plan, index)
            found[inside] = True
            data = {}
            for name, array in plan.arrays.items():
                values = found[inside] if name == DONE else answers[name][rows]
                key = array.key(zarr_regions.place(plan, array, index))
                old = self.read_block(array, key) if plan.refined else array.empty_chunk()
                if zarr_regions.fill(plan, array, index, old, inside, values):
                    data[self.path / key] = array.encode(old)
            mark = self.path / plan.arrays[DONE].key(
                zarr_regions.place(plan, plan.arrays[DONE], index)
            )
            last = {mark: data.pop(mark)}
            whole_files.write_all({**data, **notes}, self.scratch)
            whole_files.write_all(last, self.scratch)

    def read_block(self, array: ZarrArray, key: str) -> np.ndarray:
        """A chunk file of ``array``; blank where it is absent or damaged."""
        data = _bytes(self.path / key)
        with contextlib.suppress(ValueError):
            if data is not None:
                return array.decode(data)
        return array.empty_chunk()

    def finish(self, plan: Plan) -> None:
        """Say that all is there: settle the metadata, then set the last mark."""
        notes = [whole_files.read_json(path) or {} for path in (self.books / "runs").glob("*.json")]
        seconds = float(sum(note.get("seconds", 0.0) for note in notes))
        masks = (self.mask(plan, index) for index in range(len(plan.tiling)))
        told = {
            "cells_done": sum(int(mask.sum()) for mask in masks),
            "cells": math.prod(plan.arrays[DONE].shape),
            "wall_seconds": seconds,
        }
        self.write_metadata(plan, told, settled=not plan.refined)
        mark = {"identity": plan.identity, **told}
        whole_files.write_json(self.books / "complete.json", mark, self.scratch)

    def reopen(self, plan: Plan, damaged: list[int]) -> None:
        """Take back the marks of ``damaged`` boxes, so that they are computed again."""
        mask = plan.arrays[DONE]
        (self.books / "complete.json").unlink(missing_ok=True)
        for index in damaged:
            (self.path / mask.key(zarr_regions.place(plan, mask, index))).unlink(missing_ok=True)
        whole_files.sync_folders({self.books, self.path / DONE})
        self.write_metadata(plan, {})


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
