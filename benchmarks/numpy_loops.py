"""The peer: what a careful NumPy user writes, one network at a time, float32, BLAS multiplies."""

import numpy as np

__all__ = ["measure_cell", "unit_draws"]


def unit_draws(rng: np.random.Generator, depth: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Standard normal weights and biases of every layer."""
    weights = rng.standard_normal((depth, width, width), dtype=np.float32)
    return weights, rng.standard_normal((depth, width), dtype=np.float32)


def measure_cell(
    weights: np.ndarray,
    biases: np.ndarray,
    inputs: np.ndarray,
    cotangent: np.ndarray,
    weight_var: float,
    bias_var: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Variance, correlation and log squared gradient norm of every layer of one tanh network."""
    depth, width = biases.shape
    weight_scale, bias_scale = np.float32((weight_var / width) ** 0.5), np.float32(bias_var**0.5)
    variance, correlation, slopes = np.empty((depth, 2)), np.empty(depth), []
    x = inputs
    for layer in range(depth):
        z = weight_scale * (x @ weights[layer].T) + bias_scale * biases[layer]
        gram = z @ z.T
        variance[layer] = np.diagonal(gram) / width
        correlation[layer] = gram[0, 1] / np.sqrt(gram[0, 0] * gram[1, 1])
        x = np.tanh(z)
        slopes.append(1 - x * x)
    return variance, correlation, _log_gradients(weights, slopes, cotangent, weight_scale)


def _log_gradients(weights, slopes, cotangent, weight_scale) -> np.ndarray:
    depth = len(slopes)
    g, log_scale, found = cotangent, np.zeros(2), np.empty((depth, 2))
    for layer in reversed(range(depth)):
        squared_norm = np.einsum("in,in->i", g, g)
        log_scale = log_scale + np.log(squared_norm)
        found[layer] = log_scale
        if layer:
            g = g / np.sqrt(squared_norm)[:, None]
            g = weight_scale * (g @ weights[layer]) * slopes[layer - 1]
    return found
