"""How tuned steps and learning rates scale with depth: power laws, with their errors."""

import numpy as np
import xarray as xr

__all__ = ["fits_table", "power_law", "with_fits"]

_LINES = ("activation", "initialiser")
_FITTED = {"steps": "steps_tuned", "rate": "learning_rate_tuned"}


def power_law(depths: np.ndarray, values: np.ndarray) -> tuple[float, float, float]:
    r"""Exponent a, its standard error, and prefactor c of values ~ c L^a.

    A straight line through the mean over networks of ln value at every depth, all depths alike.
    With x = ln L − mean, the error is the larger of what the spread over networks implies,
    √(Σ x² s²) / Σ x² with s the standard error at a depth, and what the scatter about the line
    does, √(Σ r² / (depths − 2) / Σ x²): a line that bends has a larger error than its networks.

    Parameters
    ----------
    depths
        Shape (depths,), >= 1.
    values
        Shape (depths, networks), > 0. A depth where any is nan is left out: the others alone would
        be those that were fast.

    Returns
    -------
    tuple
        nan where fewer than three depths are left.

    Examples
    --------
    >>> depths = np.asarray([2.0, 4.0, 8.0])
    >>> exponent, error, prefactor = power_law(depths, 3 * depths[:, None] ** 0.5 * [[1.0, 1.0]])
    >>> round(exponent, 12), error < 1e-12, round(prefactor, 12)
    (0.5, True, 3.0)
    """
    whole = np.isfinite(values).all(axis=1)
    if whole.sum() < 3:
        return np.nan, np.nan, np.nan
    x, logs = np.log(np.asarray(depths, float)[whole]), np.log(values[whole])
    middle, y = x.mean(), logs.mean(axis=1)
    spread = logs.std(axis=1, ddof=1) / np.sqrt(logs.shape[1])
    centred = x - middle
    square = np.sum(centred**2)
    exponent = float(centred @ y / square)
    residual = y - y.mean() - exponent * centred
    of_networks = np.sqrt(np.sum((centred * spread) ** 2)) / square
    of_line = np.sqrt(np.sum(residual**2) / (len(x) - 2) / square)
    prefactor = float(np.exp(y.mean() - exponent * middle))
    return exponent, float(max(of_networks, of_line)), prefactor


def with_fits(ds: xr.Dataset) -> xr.Dataset:
    """The dataset of the isometry-training study with the power laws of its lines beside it.

    ``steps_exponent``, ``steps_exponent_stderr``, ``steps_prefactor``, and likewise ``rate_``, over
    (activation, initialiser); ``networks_censored``, networks that no rate brought below the
    threshold; ``networks_at_edge``, those whose best rate is the first or last that was tried.
    """
    fitted = ds.copy()
    for short, name in _FITTED.items():
        laws = xr.apply_ufunc(
            lambda values: np.asarray(power_law(ds["depth"].values, values)),
            ds[name].transpose(*_LINES, "depth", "network"),
            input_core_dims=[["depth", "network"]],
            output_core_dims=[["law"]],
            vectorize=True,
        )
        parts = {"exponent": "exponent", "exponent_stderr": "its standard error"}
        for i, (part, text) in enumerate((parts | {"prefactor": "value at depth 1"}).items()):
            long_name = f"{text} of the power law in depth of {ds[name].attrs['long_name']}"
            fitted[f"{short}_{part}"] = laws.isel(law=i).assign_attrs(
                long_name=long_name, units="1"
            )
    return fitted.assign(
        networks_censored=ds["steps_tuned"].isnull().sum("network"), networks_at_edge=_at_edge(ds)
    )


def _at_edge(ds: xr.Dataset) -> xr.DataArray:
    ends = ds["learning_rate"].isel(rate_times_depth=[0, -1])
    return (ds["learning_rate_tuned"] == ends).any("rate_times_depth").sum("network")


def fits_table(fitted: xr.Dataset) -> list[str]:
    """What `with_fits` found, a line of text for each pair, under a header.

    Steps are geometric means over networks; ``>`` the budget where any network was censored.
    """
    depths = fitted["depth"].values
    head = "".join(f"{f'L = {depth:g}':>10}" for depth in depths)
    lines = [f"{'':24}{head}{'steps ~ L^a':>18}{'best rate ~ L^b':>18}"]
    for activation in fitted["activation"].values:
        for initialiser in fitted["initialiser"].values:
            one = fitted.sel(activation=activation, initialiser=initialiser)
            label = f"{activation}, {initialiser}"
            steps = "".join(f"{_steps(one.sel(depth=depth)):>10}" for depth in depths)
            lines.append(f"{label:24}{steps}{_law(one, 'steps'):>18}{_law(one, 'rate'):>18}")
    return lines


def _steps(cell: xr.Dataset) -> str:
    if cell["networks_censored"] > 0:
        return f"> {cell.attrs['steps']}"
    return f"{float(np.exp(np.log(cell['steps_tuned']).mean())):.1f}"


def _law(one: xr.Dataset, short: str) -> str:
    exponent, error = (float(one[f"{short}_exponent{part}"]) for part in ("", "_stderr"))
    return "too few depths" if np.isnan(exponent) else f"{exponent:.2f} ± {error:.2f}"
