"""Files that are either whole or absent, whatever happens while they are written."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

__all__ = ["read_arrays", "read_json", "sync_tree", "write_arrays", "write_json"]


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write ``value`` to ``path`` atomically."""
    _write(path, lambda file: file.write(json.dumps(value, indent=1).encode()))


def read_json(path: Path) -> Any:
    """The JSON value in ``path``; None if the file is absent or holds no JSON."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays to ``path`` atomically."""
    _write(path, lambda file: np.savez(file, allow_pickle=False, **arrays))


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The named arrays that `write_arrays` left in ``path``."""
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def sync_tree(folder: Path) -> None:
    """Force every file and folder under ``folder`` to the disk."""
    for parent, _, names in os.walk(folder):
        for name in names:
            _sync(Path(parent) / name)
        _sync(Path(parent))


def _write(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Temporary file, fsync, rename, fsync of the folder: survives a kill at any instant."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.writing")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
