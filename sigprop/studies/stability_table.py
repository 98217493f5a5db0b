"""Where each named initialiser lands for each activation, read off a phase-diagram dataset."""

import csv
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
import xarray as xr

from sigprop import architecture, theory
from sigprop.studies.gradient_classes import Growth

__all__ = ["REFERENCE_BIAS_VARS", "Row", "as_lines", "stability_table", "write_csv"]

REFERENCE_BIAS_VARS = (0.0, 0.05)
"""bias_var of the two critical points named for each activation; 0 is the recipes' own."""


@dataclass(frozen=True)
class Row:
    """One recipe with one activation, at bias_var = 0.

    Attributes
    ----------
    critical_weight_var_0, critical_weight_var_005
        The activation's critical weight_var at bias_var 0 and 0.05; nan if there is none.
    critical_status_0, critical_status_005
        What kind of critical point each is (`theory.CriticalStatus`).
    recipe_weight_var
        The recipe's own.
    variance_factor
        What a layer multiplies the variance by, deep in the network: 1 where it has a limit.
    chi_1
        What a layer multiplies the squared gradient by, deep in the network.
    predicted_growth, measured_growth, measured_growth_stderr
        Growth a layer of the log squared gradient, over the depth of the dataset; measured with
        the recipe's distribution (nan if the dataset does not hold it).
    predicted, measured
        vanishing, stable, exploding (`Growth`), or unmeasured.
    """

    activation: str
    critical_weight_var_0: float
    critical_status_0: str
    critical_weight_var_005: float
    critical_status_005: str
    recipe: str
    recipe_weight_var: float
    variance_factor: float
    chi_1: float
    predicted_growth: float
    measured_growth: float
    measured_growth_stderr: float
    predicted: str
    measured: str


def stability_table(ds: xr.Dataset) -> list[Row]:
    """A row for every activation of ``ds`` and every recipe whose cell it holds.

    Parameters
    ----------
    ds
        What the phase-diagram study gave, over a grid that has the recipes' own weight_var and
        `REFERENCE_BIAS_VARS` among its coordinates.

    Raises
    ------
    ValueError
        If it lacks one of those bias variances.
    """
    missing = [b for b in REFERENCE_BIAS_VARS if b not in ds["bias_var"].values]
    if missing:
        raise ValueError(f"bias_var must hold {REFERENCE_BIAS_VARS}, got none of {missing}")
    recipes = json.loads(ds.attrs["recipes"])
    return [
        _row(ds.sel(activation=activation), recipe, weight_var)
        for activation in ds["activation"].values
        for recipe, weight_var in recipes.items()
        if weight_var in ds["weight_var"].values
    ]


def _row(ds: xr.Dataset, recipe: str, weight_var: float) -> Row:
    line = [ds.sel(bias_var=bias_var) for bias_var in REFERENCE_BIAS_VARS]
    critical = [float(at["critical_weight_var_theory"]) for at in line]
    kinds = [_word(at["critical_status_theory"], theory.CriticalStatus) for at in line]
    cell = ds.sel(weight_var=weight_var, bias_var=0.0)
    # Any initialiser of the same distribution makes the very draws of the recipe.
    own = architecture.distribution_of(recipe)
    drawn = [i for i in ds["initialiser"].values if architecture.distribution_of(str(i)) == own]
    own = cell.sel(initialiser=drawn[0]) if drawn else None
    return Row(
        activation=str(ds["activation"].item()),
        critical_weight_var_0=critical[0],
        critical_status_0=kinds[0],
        critical_weight_var_005=critical[1],
        critical_status_005=kinds[1],
        recipe=recipe,
        recipe_weight_var=weight_var,
        variance_factor=_variance_factor(cell),
        chi_1=float(cell["chi_1_theory"]),
        predicted_growth=float(cell["gradient_rate_theory"]),
        measured_growth=np.nan if own is None else float(own["gradient_rate_measured"]),
        measured_growth_stderr=np.nan if own is None else float(own["gradient_rate_stderr"]),
        predicted=_word(cell["growth_theory"], Growth),
        measured="unmeasured" if own is None else _word(own["growth_measured"], Growth),
    )


def _variance_factor(cell: xr.Dataset) -> float:
    """Lim q^{l+1}/q^l: chi_q where the variance leaves for 0 or infinity, else 1."""
    leaving = (theory.VarianceStatus.ZERO, theory.VarianceStatus.UNBOUNDED)
    status = int(cell["variance_status_theory"])
    return float(cell["chi_q_theory"]) if status in leaving else 1.0


def _word(code: xr.DataArray, codes: type) -> str:
    return codes(int(code)).name.lower()


_COLUMNS = (
    ("activation", "activation", "{}"),
    ("critical_weight_var_0", "critical σw² at σb²=0", "{:.4g}"),
    ("critical_status_0", "", "{}"),
    ("critical_weight_var_005", "at σb²=0.05", "{:.4g}"),
    ("critical_status_005", "", "{}"),
    ("recipe", "recipe", "{}"),
    ("recipe_weight_var", "σw²", "{:g}"),
    ("variance_factor", "variance ×", "{:.4g}"),
    ("chi_1", "gradient² ×", "{:.4g}"),
    ("predicted", "predicted", "{}"),
    ("measured", "measured", "{}"),
    ("measured_growth", "growth a layer", "{:+.4f}"),
    ("measured_growth_stderr", "±", "{:.4f}"),
    ("predicted_growth", "theory", "{:+.4f}"),
)


def as_lines(rows: Sequence[Row]) -> list[str]:
    """The table as text, columns aligned."""
    texts = [[_text(getattr(row, name), form) for name, _, form in _COLUMNS] for row in rows]
    table = [[title for _, title, _ in _COLUMNS], *texts]
    widths = [max(len(row[i]) for row in table) for i in range(len(_COLUMNS))]
    return ["  ".join(text.ljust(w) for text, w in zip(row, widths)).rstrip() for row in table]


def _text(value: str | float, form: str) -> str:
    return "-" if isinstance(value, float) and np.isnan(value) else form.format(value)


def write_csv(rows: Sequence[Row], path: str | os.PathLike) -> None:
    """The table with full precision, one column for each attribute of `Row`."""
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
