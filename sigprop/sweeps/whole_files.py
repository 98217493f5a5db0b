"""Files that are either whole or absent, whatever happens while they are written."""

import contextlib
import errno
import functools
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows: no locks, the rest holds
    fcntl = None

__all__ = ["NO_ROOM", "as_json", "locked", "read_json", "sync_folders", "write_all", "write_json"]

NO_ROOM = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}
"""What the system says when a disk, a quota or a limit on files is full."""

_AT_ONCE = 8  # the system commits what is forced to the disk together: 40 files in 20 ms, not 100


def write_all(contents: Mapping[Path, bytes], scratch: Path) -> None:
    """Write every file, each atomically; all are on the disk when this returns.

    Temporary files in ``scratch`` (on the same file system), fsync, rename, fsync of the folders:
    survives a kill at any instant. If one cannot be written, none takes its place.
    """
    scratch.mkdir(exist_ok=True)
    temporary = {path: scratch / uuid.uuid4().hex for path in contents}
    try:
        writing = [
            _threads(os.getpid()).submit(_write, temporary[path], data)
            for path, data in contents.items()
        ]
        wait(writing)  # for all: none may appear after the others were removed
        for one in writing:
            one.result()
        for path, whole in temporary.items():
            os.replace(whole, path)
    finally:
        for path in temporary.values():
            path.unlink(missing_ok=True)
    sync_folders({path.parent for path in contents})


def sync_folders(folders: set[Path]) -> None:
    """Force the names in ``folders`` to the disk."""
    list(_threads(os.getpid()).map(_sync, folders))


@functools.cache
def _threads(process: int) -> ThreadPoolExecutor:
    """Kept, since starting threads costs more than they do; a forked process has its own."""
    return ThreadPoolExecutor(_AT_ONCE)


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def as_json(value: Any) -> bytes:
    """``value`` as JSON that people can read too."""
    return json.dumps(value, indent=1).encode()


def write_json(path: Path, value: Any, scratch: Path) -> None:
    """Write ``value`` to ``path`` atomically."""
    write_all({path: as_json(value)}, scratch)


def read_json(path: Path) -> Any:
    """The JSON value in ``path``; None if the file is absent or holds no JSON."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


@contextlib.contextmanager
def locked(path: Path, *, shared: bool = False) -> Iterator[bool]:
    """Hold ``path`` as a lock, released by the system even after kill -9; whether it was free."""
    with open(path, "a") as file:
        yield _take(file.fileno(), shared)


def _take(descriptor: int, shared: bool) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        pass
    return True
