"""How far a sweep is: bars on a terminal, plain lines elsewhere."""

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

__all__ = ["Shown", "shown"]

_SECONDS_A_LINE = 10.0


@runtime_checkable
class Shown(Protocol):
    """Something that shows progress."""

    def chunk(self, cells: int, seconds: float, failures: int) -> None:
        """Another chunk of ``cells`` is finished (none if it failed)."""

    def say(self, line: str) -> None:
        """A word to the user."""


@contextlib.contextmanager
def shown(name: str, chunks: int, there: int, *, wanted: bool) -> Iterator[Shown]:
    """Progress of a sweep of ``chunks`` chunks, ``there`` of them finished before."""
    label = name.replace("_", " ")
    if not wanted:
        yield _Silent()
    elif Console(stderr=True).is_terminal:
        with _bars() as progress:
            yield _Bars(progress, label, chunks, there)
    else:
        lines = _Lines(label, chunks, there)
        yield lines
        lines.last()


class _Silent:
    def chunk(self, cells: int, seconds: float, failures: int) -> None:
        pass

    def say(self, line: str) -> None:
        pass


class _Pace:
    """Counts chunks and cells, and what they took."""

    def __init__(self, chunks: int, there: int):
        self.chunks, self.there, self.failures = chunks, there, 0
        self.cells, self.done, self.begin = 0, 0, time.perf_counter()

    def chunk(self, cells: int, failures: int) -> None:
        self.there += cells > 0
        self.done += cells > 0
        self.cells += cells
        self.failures = failures

    def __str__(self) -> str:
        passed = max(time.perf_counter() - self.begin, 1e-9)
        left = (self.chunks - self.there) * passed / max(self.done, 1)
        failed = f", {self.failures} failed" if self.failures else ""
        rate = f"{self.cells / passed:.3g} cells/s, " if self.cells else ""
        return f"{self.there}/{self.chunks} chunks, {rate}{_clock(left)} left{failed}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


class _Lines:
    """A line at the first chunk, every ten seconds, and at the end."""

    def __init__(self, label: str, chunks: int, there: int):
        self.label, self.pace, self.printed, self.when = label, _Pace(chunks, there), "", 0.0

    def chunk(self, cells: int, seconds: float, failures: int) -> None:
        self.pace.chunk(cells, failures)
        if time.perf_counter() - self.when > _SECONDS_A_LINE:
            self.last()

    def last(self) -> None:
        self.when = time.perf_counter()
        line = f"{self.label}: {self.pace}"
        if line != self.printed:
            self.say(line)
        self.printed = line

    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


class _Timed(Progress):
    """Bars of which those with ``seconds`` fill with time."""

    def get_renderables(self):
        for task in self.tasks:
            if task.fields.get("seconds") and task.elapsed is not None:
                task.completed = min(task.elapsed, task.fields["seconds"])
        return super().get_renderables()


def _bars() -> Progress:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn())
    return _Timed(*columns, TextColumn("{task.fields[told]}"), console=Console(stderr=True))


class _Bars:
    """One bar of chunks; one of the chunk in hand, by what the last one took."""

    def __init__(self, progress: Progress, label: str, chunks: int, there: int):
        self.progress, self.pace = progress, _Pace(chunks, there)
        told = f"{there}/{chunks} chunks"
        self.sweep = progress.add_task(label, total=chunks, completed=there, told=told)
        self.one = progress.add_task("this chunk", total=None, told="the first one compiles")

    def chunk(self, cells: int, seconds: float, failures: int) -> None:
        self.pace.chunk(cells, failures)
        self.progress.update(self.sweep, completed=self.pace.there, told=str(self.pace))
        told = f"the last took {seconds:.2g} s"
        seconds = max(seconds, 0.1)
        self.progress.reset(self.one, total=seconds, seconds=seconds, told=told)

    def say(self, line: str) -> None:
        self.progress.console.print(line, highlight=False, markup=False)
