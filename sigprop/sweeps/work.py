"""What is done for one chunk, wherever it is done: the study's answers, checked."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sigprop.sweeps import threads
from sigprop.sweeps.study import Study
from sigprop.sweeps.tiling import Chunk

__all__ = ["Outcome", "answers", "attempted"]


@dataclass(frozen=True)
class Outcome:
    """What became of a chunk: its answers and how long they took, or why there are none."""

    chunk: Chunk
    answers: Mapping[str, np.ndarray] | None
    seconds: float = 0.0
    error: Exception | None = None


def attempted(study: Study, chunk: Chunk) -> Outcome:
    """The answers at ``chunk``; an exception is part of the outcome."""
    threads.at_least_two()
    begin = time.perf_counter()
    try:
        return Outcome(chunk, answers(study, chunk), time.perf_counter() - begin)
    except Exception as error:
        return Outcome(chunk, None, time.perf_counter() - begin, error)


def answers(study: Study, chunk: Chunk) -> dict[str, np.ndarray]:
    """The outputs at the real cells of ``chunk``, checked against what the study declares."""
    computed = study.compute(chunk.static, chunk.cells)
    if set(computed) != set(study.variables):
        odd = sorted(set(computed) ^ set(study.variables))
        raise ValueError(f"study {study.name} must return exactly its variables; differ: {odd}")
    checked = {}
    rows = len(next(iter(chunk.cells.values())))
    for name, variable in study.variables.items():
        array = np.asarray(computed[name])
        trailing = tuple(len(study.coordinates[dim]) for dim in variable.dims)
        if array.shape != (rows, *trailing):
            raise ValueError(
                f"{name} of study {study.name} must have shape {(rows, *trailing)}, "
                f"got {array.shape}"
            )
        checked[name] = array[: len(chunk.where)].astype(variable.dtype)
    return checked
