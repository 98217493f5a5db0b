"""Spectra of every layer and of every span of layers, from one pass of multiplies."""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from sigprop._blas_threads import one_blas_thread
from sigprop._checks import check_one_of
from sigprop._precision import is_traced
from sigprop.jacobian.networks import as_layered
from sigprop.jacobian.products import cumulative_log_singular_values

__all__ = [
    "layer_jacobians",
    "log_spectra",
    "span_jacobians",
    "spectra",
]

Span = Literal["layer", "cumulative", "remaining"]

_SPANS = ("layer", "cumulative", "remaining")


def layer_jacobians(
    layered: Any, x: Float[Array | np.ndarray, "..."]
) -> Float[Array, "layers out in"] | tuple[Float[Array, "_ _"], ...]:
    """Jacobian of every layer at what ``x`` has become there.

    For elementwise layers it is diag(φ'(z)) W, with no differentiation; for others the mode with
    fewer passes is chosen.

    Parameters
    ----------
    layered
        `Layers`, `Scanned`, a `sigprop.networks.MLP` (its readout is not a layer), a list of
        functions or NNX modules.
    x
        ONE input, of any shape (Jacobians are of its entries in C order); `jax.vmap` for more, and
        over seeds or variances.

    Returns
    -------
    Array (layers, out, in); a tuple of matrices when shapes differ.

    Raises
    ------
    ValueError
        If the layers do not fit together, or are not of floating-point numbers.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> layer_jacobians([lambda x: 2 * x, lambda x: x**2], jnp.array([1.0, 3.0]))[1]
    Array([[ 4.,  0.],
           [ 0., 12.]], dtype=float32)
    """
    return span_jacobians(layered, x, "layer")


def span_jacobians(
    layered: Any, x: Float[Array | np.ndarray, "..."], span: Span
) -> Float[Array, "layers out in"] | tuple[Float[Array, "_ _"], ...]:
    """Jacobians of the spans that `spectra` describes.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> double = lambda x: 2 * x
    >>> span_jacobians([double] * 3, jnp.ones(1), "remaining").ravel()
    Array([8., 4., 2.], dtype=float32)
    """
    return _joined(_checked_spans(layered, x, span))


def spectra(
    layered: Any, x: Float[Array | np.ndarray, "..."], span: Span = "cumulative"
) -> Float[Array, "layers n"] | tuple[Float[Array, " _"], ...]:
    """Singular values of layers or of spans of layers, descending.

    Values below machine epsilon times the largest of the same matrix are rounding; `log_spectra`
    has them right.

    Parameters
    ----------
    layered, x
        As for `layer_jacobians`.
    span
        "layer": of layer l. "cumulative": from the input through layer l, ``J_l ⋯ J_1``.
        "remaining": from layer l to the output, ``J_L ⋯ J_l``.

    Returns
    -------
    Array (layers, n), row l - 1 for layer l; a tuple when sizes differ. Within ``jit`` or ``vmap``
    a span that is not finite has nan.

    Raises
    ------
    ValueError
        As for `layer_jacobians`; and, outside of transformations, if a Jacobian is not finite,
        naming the first such layer.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from sigprop.jacobian import Layers
    >>> half = lambda x: x / 2
    >>> spectra(Layers([half, half]), jnp.ones(2))
    Array([[0.5 , 0.5 ],
           [0.25, 0.25]], dtype=float32)
    """
    groups = _checked_spans(layered, x, span)
    if is_traced(groups):
        return _joined([_singular_values(group) for group in groups])
    if not all(_finite(group) for group in groups):
        _raise_first_nonfinite(layered, x, span)
    return _joined([decomposed(group) for group in groups])


def decomposed(matrices: Float[Array, "batch out in"]) -> Float[Array, "batch n"]:
    """Singular values of a batch, in a compiled call of its own and one BLAS thread a matrix.

    Inside a larger compiled program the batched LAPACK call would lose its threads.
    """
    if len(matrices) < 2 or is_traced(matrices):
        return _singular_values(matrices)
    with one_blas_thread():
        return jax.block_until_ready(_singular_values(matrices))


def log_spectra(
    layered: Any, x: Float[Array | np.ndarray, "..."], span: Span = "cumulative", *, every: int = 1
) -> Float[np.ndarray, "layers n"] | tuple[Float[np.ndarray, " _"], ...]:
    """Natural logarithms of the singular values of `spectra`, each right at any depth.

    Parameters
    ----------
    layered, x, span
        As for `spectra`.
    every
        Only layers ``every``, ``2 every``, ... (a spectrum costs as much as a dozen layers).

    Returns
    -------
    NumPy float64 (rows, n), -inf where exactly singular, nan where not finite; a tuple when sizes
    differ.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> log_spectra([lambda x: 1e-30 * x] * 3, jnp.ones(1)).round(2)
    array([[ -69.08],
           [-138.16],
           [-207.23]])
    """
    factors = list(layer_jacobians(layered, jnp.asarray(x)))
    layers = range(every, len(factors) + 1, every)
    if span == "layer":
        chosen = [cumulative_log_singular_values([factors[k - 1]], [1])[0] for k in layers]
        return _joined_rows(chosen)
    check_one_of("span", span, _SPANS)
    if span == "cumulative":
        return cumulative_log_singular_values(factors, list(layers))
    transposed = [factor.T for factor in reversed(factors)]
    return cumulative_log_singular_values(transposed, [len(factors) + 1 - k for k in layers])


def _checked_spans(layered, x, span):
    check_one_of("span", span, _SPANS)
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"x must be an array of floating-point numbers, got dtype {x.dtype}")
    return _spans(as_layered(layered), x, span)


@functools.partial(jax.jit, static_argnames="span")
def _spans(layered, x, span):
    groups = layered.jacobians(x)
    if span == "cumulative":
        return _cumulative(groups)
    if span == "remaining":
        mirrored = [jnp.swapaxes(group, 1, 2)[::-1] for group in reversed(groups)]
        products = _cumulative(mirrored)
        return [jnp.swapaxes(group, 1, 2)[::-1] for group in reversed(products)]
    return groups


def _cumulative(groups):
    """Products of the first 1, 2, ... matrices, in groups as the matrices are."""
    total = jnp.eye(groups[0].shape[2], dtype=groups[0].dtype)
    products = []
    for group in groups:
        if len(group) == 1:  # the shape changes here
            product = jnp.matmul(group[0], total, precision=lax.Precision.HIGHEST)[None]
        else:
            product = _scanned_products(group, total)
        total = product[-1]
        products.append(product)
    return products


def _scanned_products(group, total):
    """Products of a run of matrices, the first of which may change the shape."""

    def multiply(total, jacobian):
        total = jnp.matmul(jacobian, total, precision=lax.Precision.HIGHEST)
        return total, total

    first = jnp.matmul(group[0], total, precision=lax.Precision.HIGHEST)
    rest = lax.scan(multiply, first, group[1:])[1]
    return jnp.concatenate([first[None], rest])


@jax.jit
def _singular_values(matrices):
    return jnp.linalg.svdvals(matrices)


def _joined(groups):
    """One array where all rows have one shape, else a tuple of rows."""
    if len({group.shape[1:] for group in groups}) == 1:
        return groups[0] if len(groups) == 1 else jnp.concatenate(groups)
    return tuple(row for group in groups for row in group)


def _joined_rows(rows):
    return np.stack(rows) if len({row.size for row in rows}) == 1 else tuple(rows)


def _finite(group) -> bool:
    return bool(jnp.all(jnp.isfinite(group)))


def _raise_first_nonfinite(layered, x, span):
    layers = [np.asarray(row) for row in layer_jacobians(layered, x)]
    bad = next((k for k, layer in enumerate(layers, 1) if not np.isfinite(layer).all()), None)
    if bad is not None:
        raise ValueError(f"the Jacobian of layer {bad} (the first is 1) holds nan or infinity")
    raise ValueError(
        f"a {span} Jacobian leaves the range of {layers[0].dtype}, though those of the layers do "
        "not; log_spectra has its singular values"
    )
