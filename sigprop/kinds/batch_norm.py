"""Batch norm: every unit normalised over the batch of inputs (Ioffe and Szegedy 2015)."""

from dataclasses import dataclass

import jax.numpy as jnp

from sigprop.kinds.kind import Kind
from sigprop.kinds.norm import Norm, inverse_root, normalise
from sigprop.kinds.state import NoTheory

__all__ = ["BatchNorm"]


@dataclass(frozen=True)
class BatchNorm(Kind):
    """γ ⊙ (x - mean)/std + β, mean and std of every unit over inputs and places.

    γ and β are trained and start at 1 and 0.

    Attributes
    ----------
    held
        Whether the statistics are those of another batch, held fixed: inputs then stay apart.
    """

    held: bool = False

    @property
    def couples_inputs(self) -> bool:
        """Whether the statistics are those of the inputs."""
        return not self.held

    def trained(self, shape):
        """Scale and shift of every unit; statistics that are held come beside them."""
        statistics = {"mean": jnp.zeros(shape[1]), "variance": jnp.ones(shape[1])}
        return Norm().trained(shape) | (statistics if self.held else {})

    def apply(self, mix, trained, x, *, numbers, key=None):
        """γ ⊙ N(x) + β."""
        if self.held:
            normal = (x - trained["mean"]) * inverse_root(trained["variance"])
        else:
            normal = normalise(x, (0, 1), True)
        return trained["scale"] * normal + trained["shift"]

    def covariance(self, gauss, state, numbers):
        """The batch is exchangeable: one variance and one covariance say all of it.

        What comes out is not Gaussian (its inputs lie on a sphere), so the integral is taken
        together with the activation's (Yang et al. 2019).
        """
        if self.held:
            raise NoTheory("batch norm with statistics of another batch has no theory")
        state.demand("gaussian", "batch norm")
        return state.as_batch(gauss.batch)
