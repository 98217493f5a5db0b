r"""Batch norm at infinite width: a batch of B inputs, all alike and all pairs alike.

Across the batch one unit's pre-activations z are Gaussian, so z - mean has an independent length
and direction, and y = (z - mean)/std is √B times a uniformly random direction orthogonal to
(1, ..., 1). Two of its entries, all that is ever needed, have an explicit density, so every number
below is a one- or two-dimensional integral, exact at any B >= 4.

Forward, with κ = Var z - Cov z of two inputs (plain layers, weight_var σ_w²):

    Var' = σ_w² E[φ(y_a)²] + σ_b²,   κ' = σ_w² λ,   λ = E[φ(y_a)²] - E[φ(y_a) φ(y_b)].

Backward, a Gram matrix G of cotangents over the batch passes a layer as

    G' = σ_w²/κ · B/(B - 3) · E[Q D G D Q],   D = diag φ'(y),   Q = 1 - 11ᵀ/B - y yᵀ/B,

since E[1/std²] = B/((B - 3) κ). By symmetry G stays a combination of 11ᵀ/B and P = 1 - 11ᵀ/B, and
the squared gradient grows by B/((B - 3) λ) E tr[Q D P D]/(B - 1) a layer: (B - 2)/(B - 3) for a
linear φ, E[φ'²]/Var[φ] as B grows (Yang, Pretorius, Shazeer, Schoenholz and Sohl-Dickstein 2019,
whose B-dimensional integrals these are).
"""

import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import ArrayLike

from sigprop import activations
from sigprop._checks import check_non_negative, check_whole_number
from sigprop._precision import ambient_arrays, exact_float64, is_traced
from sigprop.activations import Activation
from sigprop.architecture import Architecture
from sigprop.gaussian.normalised_batch import BatchMoments, moments
from sigprop.theory.maps import ActivationLike, check_correlation
from sigprop.theory.statuses import TheoryStatus

__all__ = ["batch_norm_gains", "batch_norm_layers", "batch_norm_rate"]

_SMALLEST = 4  # inputs a batch; below, E[1/std²] is infinite


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
    _, apart, gain = batch_norm_gains(activations.get(activation), batch)
    return gain / apart


def batch_norm_gains(
    activation: Activation, batch: int | None, keep: float = 1.0
) -> tuple[float, float, float]:
    """What σ_w² turns into variance, into Var - Cov, and, over κ, into squared gradient."""
    if _degenerate(batch):
        return float("nan"), float("nan"), float("nan")
    found = moments(activation, batch)
    gain, _ = _gains(found, keep, shared=False)
    square = found.square / keep
    return float(square), float(square - found.product), float(gain)


def _degenerate(batch: int | None) -> bool:
    return batch is not None and check_whole_number("batch", batch) < _SMALLEST


# ---------------------------------------------------------------------------- the recursion


def batch_norm_layers(
    architecture: Architecture,
    variance0: ArrayLike,
    correlation0: ArrayLike | None,
    batch: int | None,
    shared_masks: bool,
):
    """Variance, 1 - c and χ of every layer, cells along axis 0; the cells' shape; a status."""
    check_non_negative("variance0", variance0)
    if correlation0 is not None:
        check_correlation("correlation0", correlation0)
    net = architecture
    numbers = [net.weight_var, net.bias_var, net.dropout, net.branch_scale, variance0]
    numbers += [] if correlation0 is None else [correlation0]
    degenerate = _degenerate(batch)
    found = moments(net.activation, None if degenerate else batch)
    static = net.depth, net.block == "residual", found, shared_masks
    if is_traced(numbers):
        arrays = jnp.broadcast_arrays(*ambient_arrays(*numbers))
        fields = _layers(*static, *map(jnp.ravel, arrays))
    else:
        arrays = np.broadcast_arrays(*(np.asarray(n, float) for n in numbers))
        fields = _eager(*static, *map(np.ravel, arrays))
    if degenerate:
        return [f * np.nan for f in fields], arrays[0].shape, TheoryStatus.DEGENERATE
    return fields, arrays[0].shape, TheoryStatus.OK


@exact_float64
def _eager(depth, skip, found, shared, *numbers):
    return [np.asarray(f) for f in _layers(depth, skip, found, shared, *map(jnp.asarray, numbers))]


def _layers(depth, skip, found, shared, weight_var, bias_var, dropout, scale, q, c=None):
    keep = 1 - dropout
    gain = scale**2 * weight_var
    square = found.square / keep
    product = found.product / keep if shared else found.product
    moved = gain * (square - product)
    alike = q if skip else moved
    start = alike if c is None else q * (1 - c)

    def forward(state, _):
        q, apart = state
        after = gain * square + bias_var, moved
        if skip:
            after = q + after[0], apart + after[1]
        return after, state

    _, (variance, apart) = lax.scan(forward, (q, start), length=depth)
    chi = _chi(found, skip, keep, gain, shared, apart)
    return variance.T, (apart / variance).T, chi.T


def _chi(found, skip, keep, gain, shared, apart):
    """Growth of the mean squared gradient a layer, from the last layer's independent cotangents."""
    along, from_mean = _gains(found, keep, shared)
    share = 0.0 if found.batch is None else 1 / found.batch  # of the direction (1, ..., 1)

    def backward(state, apart):
        about_mean, mean = state
        branch = gain / apart * (along * about_mean + from_mean * mean)
        after = (about_mean + branch, mean) if skip else (branch, jnp.zeros_like(mean))
        total = (1 - share) * after[0] + share * after[1]
        return (after[0] / total, after[1] / total), total

    ones = jnp.ones_like(apart[0])
    _, chi = lax.scan(backward, (ones, ones), apart[:-1], reverse=True)
    last = along * gain / apart[-1] + float(skip)  # of one more layer, no part of any gradient here
    return jnp.concatenate([chi, last[None]])


def _gains(found: BatchMoments, keep, shared: bool):
    """What a unit of P and of 11ᵀ/B in G give to P in G', a direction, but for σ_w²/κ."""
    slope, pulled = found.slope / keep, found.pulled / keep
    if found.batch is None:
        return slope, 0.0 * slope
    size = found.batch
    both, pulled_both = found.slope_product, found.pulled_product
    if shared:
        both, pulled_both = both / keep, pulled_both / keep
    alike = (slope + (size - 1) * both) / size  # E[(Σ d)²]/B²
    pulled_alike = (pulled + (size - 1) * pulled_both) / size  # E[(Σ y d)²]/B²
    about_mean = (size - 2) * slope + alike - pulled + pulled_alike  # E tr[Q D P D]
    from_mean = slope - alike - pulled_alike  # E tr[Q D 11ᵀ D]/B
    inverse_variance = size / (size - 3) / (size - 1)
    return inverse_variance * about_mean, inverse_variance * from_mean
