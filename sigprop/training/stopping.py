"""Early stopping that works under vmap: a stopped run stands still, its best parameters kept."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import tree_util

from sigprop._checks import check_non_negative, check_whole_number
from sigprop.training.data import Splits

__all__ = ["Patience", "Stopping"]


@dataclass(frozen=True)
class Patience:
    """Readings without a validation loss lower by ``min_improvement`` before a run stops."""

    readings: int
    min_improvement: float

    @staticmethod
    def of(readings: int | None, min_improvement: Any, splits: Splits) -> "Patience | None":
        """Checked; None where there is no early stopping."""
        if readings is None:
            return None
        check_non_negative("min_improvement", min_improvement)
        if splits.validation is None:
            raise ValueError("data must have validation examples to stop early by, got none")
        return Patience(check_whole_number("patience", readings), float(min_improvement))


@tree_util.register_dataclass
@dataclass(frozen=True)
class Stopping:
    """What early stopping remembers."""

    best_loss: Any
    best_params: Any
    waited: Any
    stopped_at: Any

    @staticmethod
    def start(params: Any) -> "Stopping":
        """Before the first step."""
        return Stopping(
            jnp.full((), jnp.inf), params, jnp.zeros((), jnp.int32), jnp.full((), -1, jnp.int32)
        )

    def after(
        self, patience: Patience, validation_loss: Any, params: Any, step: Any, running: Any
    ) -> "Stopping":
        """Having read a validation loss at a step."""
        running = running & (self.stopped_at < 0)
        better = running & (validation_loss < self.best_loss - patience.min_improvement)
        waited = jnp.where(better, 0, self.waited + 1)
        stop = running & (waited >= patience.readings)
        return Stopping(
            jnp.where(better, validation_loss, self.best_loss),
            jax.tree.map(lambda a, b: jnp.where(better, a, b), params, self.best_params),
            waited,
            jnp.where(stop, step, self.stopped_at),
        )

    def chosen(self, params: Any) -> Any:
        """The best parameters seen; those at the end if none was ever better than infinity."""
        found = jnp.isfinite(self.best_loss)
        return jax.tree.map(lambda a, b: jnp.where(found, a, b), self.best_params, params)
