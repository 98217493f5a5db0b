"""The blocks of the architecture record written out in NumPy, one plain product at a time."""

import itertools

import numpy as np

from sigprop.architecture import NORMS, Architecture

BLOCKS = {
    f"{block}-{norm}": {"block": block, "norm": norm}
    for block, norm in itertools.product(("plain", "residual"), NORMS)
}
# Without a norm, coupled inputs, a norm after and before the skip, rows of unit length.
EVERY_RUN = (
    "plain-None",
    "plain-batch_norm",
    "plain-post_rms_norm",
    "residual-layer_norm",
    "residual-weight_norm",
)
ALPHA = 0.6


def architecture(**change):
    """Five layers of twelve units."""
    given = {"depth": 5, "width": 12, "activation": "tanh", "weight_var": 1.7, "bias_var": 0.3}
    alpha = {"branch_scale": ALPHA} if change.get("block") == "residual" else {}
    return Architecture(**(given | alpha | change))


def normalised(norm, z):
    """N(z) of rows z; None and weight_norm leave it as it is."""
    if norm in (None, "weight_norm"):
        return z
    axis = 0 if norm == "batch_norm" else 1
    if "rms" in norm:
        return z / np.sqrt((z**2).mean(axis, keepdims=True))
    return (z - z.mean(axis, keepdims=True)) / z.std(axis, keepdims=True)


def by_hand(architecture, weights, biases, x, masks=None):
    """z^1 .. z^depth and x^depth of rows x; ``masks[l - 1]`` multiplies the activations of z^l."""
    after = str(architecture.norm).startswith("post_")
    phi = lambda z: np.tanh(z if after else normalised(architecture.norm, z))  # noqa: E731
    z = [x @ weights[0].T + biases[0]]
    for layer, (weight, bias) in enumerate(zip(weights[1:], biases[1:])):
        h = phi(z[-1]) * (1.0 if masks is None else masks[layer])
        new = architecture.branch_scale * h @ weight.T + bias
        new = new + z[-1] if architecture.block == "residual" else new
        z.append(normalised(architecture.norm, new) if after else new)
    return z, phi(z[-1])


def parameters(network):
    """W and b of every layer as they act, in float64."""
    first, hidden = network.first.effective(), network.hidden.effective()
    return tuple(
        [np.asarray(one, np.float64), *np.asarray(rest, np.float64)]
        for one, rest in zip(first, hidden)
    )
