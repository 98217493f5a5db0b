"""What a stored sweep keeps of its course: answers, failures, and the time it took."""

import os
import socket
import uuid
from pathlib import Path

from sigprop.sweeps import whole_files
from sigprop.sweeps.store import Store
from sigprop.sweeps.store_plan import Plan
from sigprop.sweeps.tiling import Chunk
from sigprop.sweeps.work import Outcome

__all__ = ["Record", "described"]


class Record:
    """Writes what becomes of chunks into a store that this process holds."""

    def __init__(self, store: Store, plan: Plan):
        self.store, self.plan = store, plan
        self.seconds, self.written = 0.0, 0
        name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}.json"
        self.note = store.books / "runs" / name

    def write(self, outcome: Outcome) -> None:
        """The answers, then their mark; the time so far beside them."""
        self.seconds += outcome.seconds
        self.note.parent.mkdir(exist_ok=True)
        note = {self.note: whole_files.as_json({"seconds": self.seconds})}
        self.store.write(self.plan, outcome.chunk, outcome.answers or {}, note)
        self.written += 1
        if outcome.chunk.index >= 0:
            self._failure(outcome.chunk).unlink(missing_ok=True)

    def note_failure(self, outcome: Outcome) -> None:
        """The message, with where it was."""
        error = outcome.error
        told = {
            "index": outcome.chunk.index,
            "where": described(self.plan, outcome.chunk),
            "error": f"{type(error).__name__}: {error}",
        }
        path = self._failure(outcome.chunk)
        path.parent.mkdir(exist_ok=True)
        whole_files.write_json(path, told, self.store.scratch)

    def _failure(self, chunk: Chunk) -> Path:
        return self.store.books / "failures" / f"{chunk.index}.json"


def described(plan: Plan, chunk: Chunk) -> str:
    """Where a chunk lies, for people."""
    if chunk.index >= 0:
        return plan.tiling.described(chunk.index)
    at = {**chunk.static, **{name: f"{v[0]:g}" for name, v in chunk.cells.items()}}
    return ", ".join(f"{name} {value}" for name, value in at.items()) + " and others"
