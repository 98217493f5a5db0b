r"""Batch norm at infinite width: how gradients grow in it, whatever the variances.

With y = (z - mean)/std of a batch of B inputs, D = diag φ'(y), P = 1 - 11ᵀ/B and Q = P - y yᵀ/B,
the squared gradient grows by B/((B - 3) λ) E tr[Q D P D]/(B - 1) a layer, where λ = E[φ(y_a)²] -
E[φ(y_a) φ(y_b)]: (B - 2)/(B - 3) for a linear φ, E[φ'²]/Var[φ] as B grows (Yang, Pretorius,
Shazeer, Schoenholz and Sohl-Dickstein 2019, whose B-dimensional integrals these are). Here it is
the derivative of what a layer does to copies of a batch, as for any other kind (``recursion``).
"""

import jax
import jax.numpy as jnp
import numpy as np

from sigprop import activations
from sigprop._checks import check_whole_number
from sigprop._precision import exact_float64
from sigprop.activations import Activation
from sigprop.gaussian.normalised_batch import SMALLEST_BATCH
from sigprop.kinds import BatchNorm, Dense, Gauss, Pointwise, Sequence
from sigprop.theory.maps import ActivationLike
from sigprop.theory.recursion import layers

__all__ = ["batch_norm_rate"]


def batch_norm_rate(activation: ActivationLike, *, batch: int | None = None) -> float:
    """Factor by which batch norm lets the squared gradient grow a layer, whatever the variances.

    Parameters
    ----------
    activation
        A name, a callable or an `Activation`.
    batch
        Inputs B a batch; None for the limit of many, E[φ'²]/Var[φ] at variance 1.

    Returns
    -------
    float
        >= 1 in the limit, 1 for a linear φ only. nan for B <= 3, where a batch is degenerate.

    Raises
    ------
    ValueError
        For a batch that is no whole number >= 1.

    Examples
    --------
    >>> round(batch_norm_rate("relu"), 12), round(np.pi / (np.pi - 1), 12)
    (1.466942206924, 1.466942206924)
    >>> round(batch_norm_rate("linear", batch=32), 12), round(30 / 29, 12)
    (1.034482758621, 1.034482758621)
    """
    if batch is not None and check_whole_number("batch", batch) < SMALLEST_BATCH:
        return float("nan")
    return _rate(activations.get(activation), batch)


@exact_float64
def _rate(activation: Activation, batch: int | None) -> float:
    layer = Sequence(BatchNorm(), Pointwise(activation), Dense(bias_var=None))
    numbers = {"weight_var": jnp.asarray(1.0)}
    chi = _compiled(layer, Gauss(batch=batch), 2, numbers, jnp.asarray(1.0))[2]
    return float(np.asarray(chi)[-1])


_compiled = jax.jit(layers, static_argnums=(0, 1, 2))
