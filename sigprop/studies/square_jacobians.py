"""Networks seen from their first pre-activation on, where every layer is square.

A digit has 64 pixels, so ∂z/∂x⁰ of a wide network has rank 64 and says little about its depth. From
z¹ on the Jacobian over k layers is

    ∂z^{k+1}/∂z¹ = W_{k+1} D_k ⋯ W_2 D_1,     D_l = diag φ'(z^l),

k weight matrices and k diagonal ones, all square. The S-transform of a product of free factors does
not know their order, so its singular values follow the law of D_k W_k ⋯ D_1 W_1, which
`theory.jacobian_spectrum` predicts for the variances q¹ .. q^k.
"""

import os
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from sigprop import theory
from sigprop.architecture import Architecture, distribution_of
from sigprop.jacobian import hidden_layers, layer_jacobians, one_blas_thread
from sigprop.networks import MLP
from sigprop.studies import inputs

__all__ = [
    "SquareNetwork",
    "ensemble_of",
    "factors_of",
    "images",
    "start_variance",
]

Cells = Float[np.ndarray, "*cells"]


def images(
    count: int, *, seed: int, input_file: str | os.PathLike | None
) -> Float[np.ndarray, "count entries"]:
    """One input for each of ``count`` networks, brought to |x|²/N₀ = 1.

    The first of each pair of digits or of the user's file, which is gone through again if it holds
    fewer.
    """
    pairs = inputs.pairs_for(count, seed=seed, input_file=input_file)
    return inputs.with_moments(pairs, second_moment=1.0, correlation=0.5)[:, 0]


def start_variance(
    activation: str, weight_var: Cells, bias_var: Cells, second_moment: float | None
) -> Cells:
    """q¹ of inputs with |x|²/N₀ = ``second_moment``; None: the variance that layers keep.

    That is the finite fixed point a network flows to, where inputs can be scaled to it (no layer is
    then a transient); else as for a second moment of 1.
    """
    own = 1.0 if second_moment is None else second_moment
    start = theory.input_variance(own, weight_var=weight_var, bias_var=bias_var)
    if second_moment is not None:
        return np.asarray(start)
    fixed = theory.fixed_point(
        activation, weight_var=weight_var, bias_var=bias_var, variance0=start
    )
    kept = fixed.variance_status == theory.VarianceStatus.FINITE
    kept &= (fixed.variance > bias_var) & (np.asarray(weight_var) > 0)
    return np.where(kept, fixed.variance, start)


def ensemble_of(initialiser: str) -> str:
    """What theory calls the weights: independent entries count as gaussian.

    Examples
    --------
    >>> ensemble_of("he"), ensemble_of("uniform"), ensemble_of("orthogonal")
    ('gaussian', 'gaussian', 'orthogonal')
    """
    return "orthogonal" if distribution_of(initialiser) == "orthogonal" else "gaussian"


@dataclass(frozen=True)
class SquareNetwork:
    """What one measured network is made of: ``layers`` square ones after the first.

    Attributes
    ----------
    variance0
        q¹ that the input is scaled to, in the mean over networks.
    """

    activation: str
    initialiser: str
    layers: int
    width: int
    weight_var: float
    bias_var: float
    variance0: float

    @property
    def ensemble(self) -> str:
        """What theory calls the weights: independent entries count as gaussian."""
        return ensemble_of(self.initialiser)

    @property
    def architecture(self) -> Architecture:
        """The record, of one layer more than the square ones."""
        return Architecture(
            depth=self.layers + 1,
            width=self.width,
            activation=self.activation,
            initialiser=self.initialiser,
            weight_var=self.weight_var,
            bias_var=self.bias_var,
        )

    def variances(self) -> Float[np.ndarray, " layers"]:
        """q¹ .. q^layers at infinite width."""
        path = theory.propagate(
            self.activation,
            depth=self.layers,
            weight_var=self.weight_var,
            bias_var=self.bias_var,
            variance0=self.variance0,
        )
        return np.asarray(path.variance)

    def image_scale(self) -> float:
        """What an input with |x|²/N₀ = 1 is multiplied by to start at ``variance0``."""
        return float(np.sqrt(max(self.variance0 - self.bias_var, 0.0) / self.weight_var))


def factors_of(
    network: SquareNetwork, image: Float[np.ndarray, " entries"], key
) -> tuple[Float[np.ndarray, "layers width width"], Float[np.ndarray, "width entries"]]:
    """W_{l+1} D_l of every square layer at an image with |x|²/N₀ = 1, and the input layer's W_1."""
    x = jnp.asarray(network.image_scale() * image, jnp.float32)
    with one_blas_thread():  # orthogonal weights are drawn by many small decompositions
        layers, first = jax.block_until_ready(_seen_from_z1(network.architecture, x, key))
    return np.asarray(layers), np.asarray(first)


@jax.jit
def _seen_from_z1(architecture: Architecture, x, key):
    module = MLP(architecture, x.size, rngs=key)
    layers = layer_jacobians(hidden_layers(module), module.first(x))
    return layers, module.first.effective()[0]
