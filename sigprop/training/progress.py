"""A progress bar over blocks of steps, moved from the host: a callback inside a scan costs 5x."""

from collections.abc import Callable
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


def shown(advance: Callable, state: Any, first: Any, blocks: int) -> tuple[Any, Any, Any, Any]:
    """``advance`` once for each block; its outputs concatenated as one call would have them."""
    pieces = []
    with bar() as shown_bar:
        task = shown_bar.add_task("training", total=blocks)
        for _ in range(blocks):
            state, piece = advance(state)
            pieces.append(jax.block_until_ready(piece))
            shown_bar.advance(task)
    losses, readings = jax.tree.map(lambda *parts: jnp.concatenate(parts), *pieces)
    return state, first, losses, readings
