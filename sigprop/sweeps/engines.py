"""Who computes the chunks. An engine maps a function over chunks; a sweep does the rest."""

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from sigprop.sweeps.grid import Chunk

__all__ = ["Engine", "get", "local"]

Arrays = Mapping[str, np.ndarray]
Engine = Callable[[Callable[[Chunk], Arrays], Iterable[Chunk]], Iterator[tuple[Chunk, Arrays]]]


def local(
    compute: Callable[[Chunk], Arrays], chunks: Iterable[Chunk]
) -> Iterator[tuple[Chunk, Arrays]]:
    """One chunk after another in this process; JAX spreads each over the devices it sees."""
    for chunk in chunks:
        yield chunk, compute(chunk)


_ENGINES: dict[str, Engine] = {"local": local}


def get(name: str) -> Engine:
    """The engine called ``name``.

    Examples
    --------
    >>> get("locale")
    Traceback (most recent call last):
    ...
    ValueError: engine must be one of 'local', got 'locale'
    """
    if name not in _ENGINES:
        known = ", ".join(f"'{known}'" for known in _ENGINES)
        raise ValueError(f"engine must be one of {known}, got {name!r}")
    return _ENGINES[name]
