"""Batch norm: every unit normalised over the batch of inputs (Ioffe and Szegedy 2015)."""

from dataclasses import dataclass

from sigprop.kinds.kind import Kind
from sigprop.kinds.norm import Norm, inverse_root, normalise

__all__ = ["BatchNorm"]


@dataclass(frozen=True)
class BatchNorm(Kind):
    """γ ⊙ (x - mean)/std + β, mean and std of every unit over inputs and places.

    γ and β are trained and start at 1 and 0. Statistics held fixed (of another batch) come as
    ``mean`` and ``variance`` beside them; inputs then stay apart.
    """

    couples_inputs = True

    def trained(self, shape):
        """Scale and shift of every unit."""
        return Norm().trained(shape)

    def apply(self, mix, trained, x, *, numbers, key=None):
        """γ ⊙ N(x) + β."""
        if "mean" in trained:
            normal = (x - trained["mean"]) * inverse_root(trained["variance"])
        else:
            normal = normalise(x, (0, 1), True)
        return trained["scale"] * normal + trained["shift"]

    def covariance(self, gauss, state, numbers):
        """The batch is exchangeable: one variance and one covariance say all of it.

        What comes out is not Gaussian (its inputs lie on a sphere), so the integral is taken
        together with the activation's (Yang et al. 2019).
        """
        state.demand("gaussian", "batch norm")
        return state.as_batch(gauss.batch)
