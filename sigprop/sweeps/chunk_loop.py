"""The loop over chunks: computed by an engine, written beside it, failures tried once more."""

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, runtime_checkable

from sigprop.sweeps.bars import Shown, shown
from sigprop.sweeps.engines import Engine
from sigprop.sweeps.interrupts import stop_requested
from sigprop.sweeps.study import Study
from sigprop.sweeps.tiling import Chunk
from sigprop.sweeps.work import Outcome

__all__ = ["Failed", "Sink", "SweepIncompleteError", "computed", "say"]

_HOPELESS = 3  # chunks that may fail before one has succeeded

Failed = list[Outcome]


class SweepIncompleteError(RuntimeError):
    """Some chunks raised, and raised again; what others computed is kept."""


@runtime_checkable
class Sink(Protocol):
    """Where answers go."""

    def write(self, outcome: Outcome) -> None:
        """Keep the answers; they are safe when this returns. Called from another thread."""
        ...

    def note_failure(self, outcome: Outcome) -> None:
        """Keep the message of a chunk that raised."""
        ...


def say(line: str) -> None:
    """A word to the user, on the error stream."""
    print(line, file=sys.stderr, flush=True)


def computed(
    study: Study,
    engine: Engine,
    sink: Sink,
    todo: Sequence[Callable[[], Chunk]],
    *,
    first: Outcome | None = None,
    label: str = "",
    there: int = 0,
    progress: bool = True,
) -> Failed:
    """Compute and keep every chunk of ``todo``; gives those that raised twice.

    ``first`` is the outcome of the first chunk where that is known already, ``there`` the number
    of chunks that are finished beside ``todo``.

    Raises
    ------
    KeyboardInterrupt
        If the user asked to stop and something is left to do; all that was computed is kept.
    """
    if not todo:
        return []
    loop = _Loop(study, engine, sink, len(todo))
    total, spent = there + len(todo), 0.0 if first is None else first.seconds
    with (
        stop_requested() as stop,
        shown(label or study.name, total, there, spent=spent, wanted=progress) as show,
    ):
        failed = loop.over(_with_first(first, todo), stop, show)
        if failed and not stop():
            failed = loop.over((lambda f=f: f.chunk for f in failed), stop, show)
        if stop() and loop.count < len(todo):
            raise KeyboardInterrupt
    return failed


def _with_first(
    first: Outcome | None, todo: Sequence[Callable[[], Chunk]]
) -> Iterator[Callable[[], Chunk] | Outcome]:
    """``todo``, with the outcome that is known in the place of its chunk."""
    for number, make in enumerate(todo):
        if number == 0 and first is not None and first.chunk.index == make().index:
            yield first
        else:
            yield make


class _Loop:
    """Counts what has succeeded, and what is to be tried, over both attempts."""

    def __init__(self, study: Study, engine: Engine, sink: Sink, chunks: int):
        self.study, self.engine, self.sink = study, engine, sink
        self.count, self.left, self.failing = 0, chunks, 0

    def over(
        self,
        todo: Iterator[Callable[[], Chunk] | Outcome],
        stop: Callable[[], bool],
        show: Shown,
    ) -> Failed:
        """One attempt at every chunk; what is computed is written while the next is."""
        failed: Failed = []
        again = self.failing > 0
        pending: Future | None = None
        with ThreadPoolExecutor(1) as writer:
            for outcome in self._outcomes(todo, stop):
                if pending is not None:
                    pending.result()  # raises what writing raised
                if outcome.error is None:
                    pending = writer.submit(self.sink.write, outcome)
                    self.count += 1
                else:
                    self.sink.note_failure(outcome)
                    failed.append(outcome)
                self._count(outcome, again)
                cells = 0 if outcome.error else len(outcome.chunk.where)
                show.chunk(cells, outcome.seconds, self.left, self.failing)
                if not self.count and len(failed) >= _HOPELESS:
                    break
            if pending is not None:
                pending.result()
        return failed

    def _count(self, outcome: Outcome, again: bool) -> None:
        """A chunk that raises is left to be tried once more."""
        raised = outcome.error is not None
        self.left -= again or not raised
        self.failing += (raised and not again) - (again and not raised)

    def _outcomes(self, todo, stop: Callable[[], bool]) -> Iterator[Outcome]:
        known: list[Outcome] = []

        def chunks() -> Iterator[Chunk]:
            for item in todo:
                if isinstance(item, Outcome):
                    known.append(item)
                else:
                    yield item()

        for outcome in self.engine.outcomes(self.study, chunks(), stop):
            yield from (known.pop() for _ in list(known))
            yield outcome
        yield from known
