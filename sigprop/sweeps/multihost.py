"""All processes of a `jax.distributed` job compute each chunk together: cells larger than a host.

Process 0 leads: it holds the store, decides which chunk is next and writes the answers. The others
follow: they are told the cells and call the study with them, so that programs over a mesh of all
devices meet their counterparts. Killing one process ends the job; the store is resumed by another.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from sigprop.sweeps import threads
from sigprop.sweeps.grid import Grid
from sigprop.sweeps.study import Study
from sigprop.sweeps.tiling import Chunk, Tiling
from sigprop.sweeps.work import Outcome, attempted

__all__ = ["MultiHost", "join"]

_COORDINATOR = "127.0.0.1:8476"
_CHUNK, _END = 1, 0


def join(coordinator: str | None = None, process: str | None = None) -> None:
    """Make this process one of a `jax.distributed` job; before JAX is first used.

    Parameters
    ----------
    coordinator
        ``host:port`` that process 0 listens at, on no other address; on loopback if None.
    process
        ``"i/n"``, from 0/n to (n-1)/n; what Slurm says (``SLURM_PROCID``, ``SLURM_NTASKS``) if
        None.

    Raises
    ------
    ValueError
        If the number is unknown or wrong, JAX is in use already, or the others do not come.
    """
    if jax.distributed.is_initialized():
        return
    threads.at_least_two()
    number, count = _place(process, os.environ)
    address = coordinator or _COORDINATOR
    try:
        jax.distributed.initialize(
            address, num_processes=count, process_id=number, coordinator_bind_address=address
        )
    except RuntimeError as error:
        raise ValueError(f"engine multihost cannot join {address}: {error}") from None


def _place(process: str | None, environment: Mapping[str, str]) -> tuple[int, int]:
    """Number of this process, and how many there are.

    Examples
    --------
    >>> _place("1/4", {}), _place(None, {"SLURM_PROCID": "2", "SLURM_NTASKS": "3"})
    ((1, 4), (2, 3))
    """
    if process is None and "SLURM_PROCID" in environment:
        process = f"{environment['SLURM_PROCID']}/{environment.get('SLURM_NTASKS', '1')}"
    number, _, count = (process or "0/1").partition("/")
    if not (number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise ValueError(f"process must be i/n with 0 <= i < n, got {process!r}")
    return int(number), int(count)


class MultiHost:
    """The engine of process 0; the others call `follow`."""

    measures = False  # what processes measure differs, and they must do the same

    def __enter__(self) -> "MultiHost":
        join()
        return self

    def __exit__(self, *_: object) -> None:
        if self.leads:
            _told([_END, 0, 0, 0])

    @property
    def leads(self) -> bool:
        """Whether this is process 0."""
        return jax.process_index() == 0

    def once(self, function: Callable, *arguments: Any) -> Any:
        """``function(*arguments)``, in this process."""
        return function(*arguments)

    def outcomes(
        self, study: Study, chunks: Iterable[Chunk], stop: Callable[[], bool]
    ) -> Iterator[Outcome]:
        """In order, each computed by all processes."""
        for chunk in chunks:
            if stop():
                return
            rows = len(next(iter(chunk.cells.values())))
            _told([_CHUNK, chunk.combination, len(chunk.where), rows])
            multihost_utils.broadcast_one_to_all(chunk.where.astype(np.int64).view(np.uint32))
            yield attempted(study, chunk)

    def follow(self, study: Study, grid: Grid) -> None:
        """Compute what process 0 says, until it says no more; Ctrl-C is for process 0 to answer."""
        main = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
        try:
            while (told := _told([0, 0, 0, 0]))[0] == _CHUNK:
                _, combination, count, rows = told
                blank = np.zeros(count, np.int64).view(np.uint32)
                where = np.asarray(multihost_utils.broadcast_one_to_all(blank)).view(np.int64)
                sides = tuple(len(values) for values in grid.traced.values())
                attempted(study, Tiling(grid, sides, rows).gathered(combination, where))
        finally:
            if main:
                signal.signal(signal.SIGINT, before)


def _told(numbers: list[int]) -> list[int]:
    """What process 0 says, in every process. (Halves of 64 bits: JAX has 32 unless told.)"""
    sent = np.asarray(numbers, np.int64).view(np.uint32)
    return np.asarray(multihost_utils.broadcast_one_to_all(sent)).view(np.int64).tolist()
