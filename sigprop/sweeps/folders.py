"""The folders above a store: made when it is, and gone again if nothing came of it."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["made_for"]


@contextlib.contextmanager
def made_for(store: Path) -> Iterator[None]:
    """Make the folders that ``store`` is to stand in; unmake them if it is not there in the end.

    Raises
    ------
    ValueError
        If they cannot be made or written to.
    """
    above = store.parent
    missing = [p for p in (above, *above.parents) if not p.exists()]
    try:
        above.mkdir(parents=True, exist_ok=True)
        if not store.exists():
            _check_writable(above)
    except OSError as error:
        raise ValueError(
            f"store must be in a folder that can be written, got {above}: {error.strerror}"
        ) from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # of a folder that holds something
            for folder in missing:
                folder.rmdir()


def _check_writable(folder: Path) -> None:
    probe = folder / f".sigprop.{os.getpid()}.writing"
    try:
        probe.touch()
    finally:
        probe.unlink(missing_ok=True)
