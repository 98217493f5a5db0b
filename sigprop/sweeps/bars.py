"""How far a sweep is: bars on a terminal, plain lines elsewhere."""

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

__all__ = ["Shown", "shown"]

_SECONDS_A_LINE = 10.0


@runtime_checkable
class Shown(Protocol):
    """Something that shows progress."""

    def chunk(self, cells: int, seconds: float, left: int, failed: int) -> None:
        """Another chunk of ``cells`` was computed (none if it raised).

        ``left`` are to be tried still, and ``failed`` have not succeeded so far.
        """


@contextlib.contextmanager
def shown(
    name: str, chunks: int, there: int, *, spent: float = 0.0, wanted: bool = True
) -> Iterator[Shown]:
    """Progress of a sweep of ``chunks`` chunks, ``there`` of them finished before.

    ``spent`` are seconds that went into the first of the others before this.
    """
    pace = _Pace(name.replace("_", " "), chunks, there, time.perf_counter() - spent)
    if not wanted:
        yield _Silent()
    elif Console(stderr=True).is_terminal:
        with _bars() as progress:
            yield _Bars(progress, pace)
    else:
        lines = _Lines(pace)
        yield lines
        lines.last()


class _Silent:
    def chunk(self, cells: int, seconds: float, left: int, failed: int) -> None:
        pass


@dataclass
class _Pace:
    """Counts chunks and cells, and what they took."""

    label: str
    chunks: int
    there: int
    begin: float
    tried: int = 0
    cells: int = 0
    left: int = 0
    failed: int = 0

    def chunk(self, cells: int, left: int, failed: int) -> None:
        self.tried += 1
        self.there += cells > 0
        self.cells += cells
        self.left, self.failed = left, failed

    def __str__(self) -> str:
        passed = max(time.perf_counter() - self.begin, 1e-9)
        left = self.left * passed / max(self.tried, 1)
        failed = f", {self.failed} failed" if self.failed else ""
        rate = f"{_three_digits(self.cells / passed)} cells/s, " if self.cells else ""
        return f"{self.there}/{self.chunks} chunks, {rate}{_clock(left)} left{failed}"


def _three_digits(number: float) -> str:
    """Without an exponent.

    Examples
    --------
    >>> [_three_digits(number) for number in (0.01234, 12.34, 1234567.0)]
    ['0.0123', '12.3', '1234567']
    """
    return f"{number:.3g}" if number < 1000 else f"{number:.0f}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


class _Lines:
    """A line at the first chunk, every ten seconds, and at the end."""

    def __init__(self, pace: _Pace):
        self.pace, self.printed, self.when = pace, -1, 0.0

    def chunk(self, cells: int, seconds: float, left: int, failed: int) -> None:
        self.pace.chunk(cells, left, failed)
        if time.perf_counter() - self.when > _SECONDS_A_LINE:
            self.last()

    def last(self) -> None:
        """A line, if there is news."""
        if self.printed != self.pace.tried:
            print(f"{self.pace.label}: {self.pace}", file=sys.stderr, flush=True)
        self.printed, self.when = self.pace.tried, time.perf_counter()


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

    def __init__(self, progress: Progress, pace: _Pace):
        self.progress, self.pace, self.seconds = progress, pace, 0.1
        told = f"{pace.there}/{pace.chunks} chunks"
        self.sweep = progress.add_task(
            pace.label, total=pace.chunks, completed=pace.there, told=told
        )
        self.one = progress.add_task("this chunk", total=None, told="the first one compiles")

    def chunk(self, cells: int, seconds: float, left: int, failed: int) -> None:
        self.pace.chunk(cells, left, failed)
        self.progress.update(self.sweep, completed=self.pace.there, told=str(self.pace))
        if cells:
            self.seconds, told = max(seconds, 0.1), f"the last took {seconds:.1f} s"
        else:
            told = "the last one failed"
        self.progress.reset(
            self.one, total=self.seconds, seconds=self.seconds, told=told, visible=left > 0
        )
