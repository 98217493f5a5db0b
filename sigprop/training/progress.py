"""A progress bar over steps, moved from the host: a callback inside a scan costs 5x."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

__all__ = ["bar", "shown"]


def bar(enabled: bool = True) -> Progress:
    """On the error stream."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(
        *columns, TimeElapsedColumn(), console=Console(stderr=True), disable=not enabled
    )


def shown(advance: Callable, state: Any, lengths: Sequence[int]) -> tuple[Any, Any]:
    """``advance(state, lengths)`` one length at a time: what one call would have returned."""
    pieces = []
    with bar() as drawn:
        task = drawn.add_task("training", total=sum(lengths))
        for length in lengths:
            state, piece = advance(state, jnp.asarray([length]))
            pieces.append(jax.block_until_ready(piece))
            drawn.advance(task, length)
    return state, jax.tree.map(lambda *parts: jnp.concatenate(parts), *pieces)
