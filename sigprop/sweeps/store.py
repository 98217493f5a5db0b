"""A sweep on disk: finished chunks beside the final name, then the whole dataset, then a mark.

While a sweep runs, ``NAME.partial/`` holds its plan, a lock and one file a chunk. When all are
there the dataset is written inside that folder, renamed to ``NAME``, and marked done last. A
reader therefore never sees half a dataset, and a killed run loses the chunk it was at.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr

from sigprop.sweeps import files
from sigprop.sweeps.identity import differences, digest

try:
    import fcntl
except ImportError:  # Windows: no lock, the rest holds
    fcntl = None

__all__ = ["Store", "open_store"]

_DONE = "sweep_done.json"
_PLAN = "plan.json"


@dataclass(frozen=True)
class Store:
    """The place of one sweep; ``path`` is the final Zarr folder."""

    path: Path

    @property
    def partial(self) -> Path:
        """The folder of an unfinished run."""
        return self.path.with_name(self.path.name + ".partial")

    def finished(self, identity: Mapping[str, Any]) -> bool:
        """Whether the store holds this very sweep.

        Raises
        ------
        ValueError
            If it holds another sweep, finished or not, or something that is no sweep.
        """
        done = files.read_json(self.path / _DONE)
        if done is None:
            self._refuse_foreign(identity)
            if self._has_chunks():
                self._refuse_other(files.read_json(self.partial / _PLAN), identity, "an unfinished")
            return False
        self._refuse_other(done, identity, "another")
        return True

    def _refuse_other(self, stored: Any, identity: Mapping[str, Any], kind: str) -> None:
        if stored is not None and stored["identity"] != identity:
            raise ValueError(
                f"store {self.path} holds {kind} sweep: "
                f"{differences(stored['identity'], identity)}; nothing was overwritten, "
                "give another place or remove it"
            )

    def _refuse_foreign(self, identity: Mapping[str, Any]) -> None:
        inside = [p.name for p in self.partial.glob("*")] if self.partial.exists() else []
        strange = [name for name in inside if name != "lock" and not name.endswith(".writing")]
        if strange and files.read_json(self.partial / _PLAN) is None:
            raise ValueError(
                f"store {self.path} needs the name {self.partial} for itself while it is written, "
                "and that is something else; nothing was overwritten"
            )
        if os.path.lexists(self.path) and not self._is_unmarked(identity):
            raise ValueError(
                f"store must be a new path or a sweep's own store, got {self.path}, "
                "which exists and is not a finished sweep; nothing was overwritten"
            )

    def _is_unmarked(self, identity: Mapping[str, Any]) -> bool:
        """Whether ``path`` is our own dataset, left by a kill between its rename and its mark."""
        attributes = files.read_json(self.path / ".zattrs") or {}
        return attributes.get("config_hash") == digest(identity) and self._has_chunks()

    def _has_chunks(self) -> bool:
        return any(self.partial.glob("chunk-*.npz"))

    @contextlib.contextmanager
    def claimed(self, identity: Mapping[str, Any], chunk_size: int) -> Iterator[int]:
        """Hold the store while computing; gives the chunk size to use (a resumed run's own).

        Raises
        ------
        ValueError
            If the place cannot be written, or another process is writing it.
        """
        created = _create_folders(self.partial)
        try:
            with _locked(self.partial / "lock", self.path):
                plan = files.read_json(self.partial / _PLAN)
                if plan is None or plan["identity"] != identity:  # a plan without a single chunk
                    plan = {"identity": identity, "chunk_size": chunk_size}
                    files.write_json(self.partial / _PLAN, plan)
                yield plan["chunk_size"]
        except BaseException:
            if not self._has_chunks():
                _remove_folders(self.partial, created)
            raise

    def chunk_file(self, index: int) -> Path:
        """Where chunk ``index`` is kept until the sweep is finished."""
        return self.partial / f"chunk-{index:05d}.npz"

    def finish(self, dataset: xr.Dataset, identity: Mapping[str, Any]) -> None:
        """Write the whole dataset next to its name, rename it, mark it done, drop the chunks."""
        assembled = self.partial / "assembled.zarr"
        shutil.rmtree(assembled, ignore_errors=True)
        # Version 2 of the format: the third has no settled form yet for fixed-length strings and
        # consolidated metadata, and readers warn about both.
        dataset.to_zarr(assembled, mode="w-", zarr_format=2, consolidated=True)
        files.sync_tree(assembled)
        if self._is_unmarked(identity):
            shutil.rmtree(self.path)
        os.replace(assembled, self.path)
        files.write_json(self.path / _DONE, {"identity": identity})
        shutil.rmtree(self.partial, ignore_errors=True)


def open_store(store: str | os.PathLike) -> xr.Dataset:
    """The dataset of a finished sweep, read lazily.

    Any Zarr reader opens the same folder; this one also makes sure that the sweep is whole.

    Raises
    ------
    ValueError
        If ``store`` is absent, unfinished, or not a sweep's.

    Examples
    --------
    >>> open_store("nowhere.zarr")
    Traceback (most recent call last):
    ...
    ValueError: store must be a finished sweep, got nowhere.zarr, which does not exist
    """
    place = Store(Path(store))
    if files.read_json(place.path / _DONE) is not None:
        return xr.open_dataset(place.path, engine="zarr", consolidated=True)
    if files.read_json(place.partial / _PLAN) is not None:
        count = len(list(place.partial.glob("chunk-*.npz")))
        reason = f"which is unfinished ({count} chunks so far); run the same sweep to resume it"
    elif place.path.exists():
        reason = "which is something else"
    else:
        reason = "which does not exist"
    raise ValueError(f"store must be a finished sweep, got {store}, {reason}")


@contextlib.contextmanager
def _locked(path: Path, store: Path) -> Iterator[None]:
    with open(path, "w") as file:  # released by the system even after kill -9
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f"store {store} is being written by another process") from None
            except OSError:  # a file system without locks
                pass
        yield


def _create_folders(folder: Path) -> list[Path]:
    """Create ``folder`` and its parents; gives those that were not there, outermost first."""
    missing = [p for p in (folder, *folder.parents) if not p.exists()][::-1]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"store must be in a folder that can be written, got {folder.parent}: {error.strerror}"
        ) from None
    return missing


def _remove_folders(partial: Path, created: list[Path]) -> None:
    """Undo `_create_folders`, as far as the folders hold nothing of others."""
    if partial in created:
        shutil.rmtree(partial, ignore_errors=True)
    with contextlib.suppress(OSError):
        for folder in reversed([p for p in created if p != partial]):
            folder.rmdir()
