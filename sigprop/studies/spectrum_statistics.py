"""What a set of measured singular values amounts to, from their logarithms: no depth overflows."""

import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp

__all__ = ["bin_edges", "histogram", "over_seeds", "statistics"]

_TAIL = 0.01  # of the smallest singular values lie below the first bin

Spectra = Float[np.ndarray, "*cells seed n"]


def statistics(log_singular_values: Spectra) -> dict[str, Float[np.ndarray, "*cells seed"]]:
    """Of every network: ln mean λ, Var λ / mean² λ, the largest ln s, the fraction of zeros.

    Examples
    --------
    >>> found = statistics(np.log([[2.0, 2.0, 1.0, 1.0]]))
    >>> np.exp(found["log_mean_square"]).round(9), found["relative_variance"].round(9)
    (array([2.5]), array([0.36]))
    """
    count = log_singular_values.shape[-1]
    with np.errstate(divide="ignore", invalid="ignore"):  # all of them zero
        first, second = (
            logsumexp(2 * p * log_singular_values, axis=-1) - np.log(count) for p in (1, 2)
        )
        relative = np.expm1(second - 2 * first)
    return {
        "log_mean_square": first,
        "relative_variance": relative,
        "log_largest": log_singular_values.max(axis=-1),
        "zero_fraction": np.isneginf(log_singular_values).mean(axis=-1),
    }


def over_seeds(
    found: dict[str, Float[np.ndarray, "*cells seed"]],
) -> dict[str, Float[np.ndarray, "*cells"]]:
    """``<name>_measured`` and ``<name>_stderr``: mean over the last axis and its standard error."""
    seeds = next(iter(found.values())).shape[-1]
    means, errors = {}, {}
    with np.errstate(invalid="ignore"):  # -inf of a network that lets nothing through
        for name, values in found.items():
            means[f"{name}_measured"] = np.asarray(values.mean(axis=-1))
            errors[f"{name}_stderr"] = np.asarray(values.std(axis=-1, ddof=1) / np.sqrt(seeds))
    return means | errors


def bin_edges(
    log_singular_values: Spectra, log_top: float, bins: int
) -> Float[np.ndarray, " edges"]:
    """Equal bins of ln s, from above the smallest values to the largest, predicted or measured."""
    found = log_singular_values[np.isfinite(log_singular_values)]
    if found.size == 0:
        return np.linspace(log_top - 1.0, log_top, bins + 1)
    low = float(np.quantile(found, _TAIL))
    high = max(log_top, float(found.max()))
    margin = 0.02 * max(high - low, 1e-6)
    return np.linspace(low - margin, high + margin, bins + 1)


def histogram(
    log_singular_values: Float[np.ndarray, "seed n"], edges: Float[np.ndarray, " edges"]
) -> tuple[Float[np.ndarray, " bins"], Float[np.ndarray, " bins"]]:
    """Density of ln s over ALL values (zeros too), mean over seeds and its standard error.

    Examples
    --------
    >>> density, stderr = histogram(np.asarray([[0.5, -np.inf], [0.5, 1.5]]), np.arange(3.0))
    >>> density, stderr
    (array([0.5 , 0.25]), array([0.  , 0.25]))
    """
    seeds, count = log_singular_values.shape
    counts = np.stack(
        [np.histogram(row[np.isfinite(row)], edges)[0] for row in log_singular_values]
    )
    each = counts / (count * np.diff(edges))
    return each.mean(axis=0), each.std(axis=0, ddof=1) / np.sqrt(seeds)
