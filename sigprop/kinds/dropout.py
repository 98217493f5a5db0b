"""Dropout: units lost at random in every call (Srivastava et al. 2014)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from sigprop.kinds.kind import Kind

__all__ = ["Dropout"]


@dataclass(frozen=True)
class Dropout(Kind):
    """Every unit kept with probability ρ = 1 - rate and divided by it; nothing without a key.

    Attributes
    ----------
    rate
        Name of its number, in [0, 1).
    shared
        Whether all inputs lose the same units, rather than each its own.
    """

    rate: str = "dropout"
    shared: bool = False
    homogeneous = True
    random = True

    @property
    def numbers(self):
        """The name of its rate."""
        return (self.rate,)

    def apply(self, mix, trained, x, *, numbers, key=None):
        """A unit is kept where the key's uniform number is below ρ."""
        if key is None:
            return x
        keep = 1 - jnp.asarray(numbers[self.rate], x.dtype)
        drawn = (1, *x.shape[1:]) if self.shared else x.shape
        kept = jax.random.uniform(key, drawn, x.dtype) < keep
        return jnp.where(kept, x / keep, jnp.zeros_like(x))

    def covariance(self, gauss, state, numbers):
        """Variances grow by 1/ρ, covariances where the same units are lost (Schoenholz 2017)."""
        return state.thinned(1 - numbers[self.rate], self.shared)
