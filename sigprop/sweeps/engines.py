"""Who computes the chunks. An engine turns chunks into outcomes; a sweep does the rest."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

from sigprop.sweeps.study import Study
from sigprop.sweeps.tiling import Chunk
from sigprop.sweeps.work import Outcome, attempted

__all__ = ["Engine", "Local", "opened"]


@runtime_checkable
class Engine(Protocol):
    """One of the ways to compute chunks."""

    def once(self, function: Callable, *arguments: Any) -> Any:
        """``function(*arguments)``, where chunks will be computed."""
        ...

    def outcomes(
        self, study: Study, chunks: Iterable[Chunk], stop: Callable[[], bool]
    ) -> Iterator[Outcome]:
        """What becomes of every chunk, in any order; begins no more once ``stop()`` is true."""
        ...


class Local:
    """One chunk after another in this process; JAX spreads each over the devices it sees."""

    def once(self, function: Callable, *arguments: Any) -> Any:
        """``function(*arguments)``."""
        return function(*arguments)

    def outcomes(
        self, study: Study, chunks: Iterable[Chunk], stop: Callable[[], bool]
    ) -> Iterator[Outcome]:
        """In order."""
        for chunk in chunks:
            if stop():
                return
            yield attempted(study, chunk)


def opened(
    engine: Any, scheduler: str | None = None, workers: int | None = None
) -> AbstractContextManager[Engine]:
    """The engine called ``engine`` (or a Dask client), started when entered, stopped after.

    Raises
    ------
    ValueError
        For an unknown name, or options that it does not have.

    Examples
    --------
    >>> opened("locale")
    Traceback (most recent call last):
    ...
    ValueError: engine must be one of 'local', 'dask', 'multihost' or a Dask client, got 'locale'
    """
    if engine != "dask" and (scheduler is not None or workers is not None):
        raise ValueError(f"scheduler and workers are for the engine 'dask', got engine {engine!r}")
    if engine == "local":
        return contextlib.nullcontext(Local())
    if engine == "multihost":
        from sigprop.sweeps import multihost

        return multihost.MultiHost()
    if engine == "dask" or hasattr(engine, "submit"):
        from sigprop.sweeps import dask_engine

        return dask_engine.opened(engine, scheduler, workers)
    raise ValueError(
        f"engine must be one of 'local', 'dask', 'multihost' or a Dask client, got {engine!r}"
    )
