"""What is noted of each use of a layer: output, gradient, weight, activation."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from sigprop.diagnosis.reading import Reading
from sigprop.program import Program, Site, log_mean_square
from sigprop.program.evaluation import length_of

__all__ = ["LayerReading", "layer_readings", "log_norm", "log_sum"]


@dataclass(frozen=True)
class LayerReading:
    """One use of one layer. Sums are over all examples and units (what the weight brings in).

    Attributes
    ----------
    name, kind
        Path inside the model, numbered where it is used repeatedly, and class or operation.
    weighs
        Whether it multiplies by a weight of its own: the layers that are judged.
    units
        Entries of the output's last axis.
    mean, rms, kurtosis
        Of the output; the kurtosis of a normal distribution is 3.
    log_gradient
        ln ‖∂loss/∂output‖²; -inf if it is exactly 0.
    log_ratio
        ln of (‖∂loss/∂θ‖² / ‖θ‖²) over its own parameters; nan without any.
    dead
        Fraction of units whose gradient is exactly 0 on every example.
    saturated
        Fraction of units at which the activation that follows has less than 5% of its largest
        slope on every example; nan if that is not known.
    activation
        Name of the activation that was recognised after it, or "".
    weight_var, bias_var
        fan_in · mean W², fan_in being what the multiply sums over, and mean b²; nan without a
        weight, 0 without a bias.
    finite_output, finite_gradient
        Whether every entry is finite.
    """

    name: str
    kind: str
    weighs: bool
    units: int
    mean: float
    rms: float
    kurtosis: float
    log_gradient: float
    log_ratio: float
    dead: float
    saturated: float
    activation: str
    weight_var: float
    bias_var: float
    finite_output: bool
    finite_gradient: bool


def layer_readings(reading: Reading) -> tuple[LayerReading, ...]:
    """A reading of every use of every site, in the order of the program."""
    names = reading.structure.names
    rows = list(_rows(reading, reading.structure.graph.program, ()))
    often = Counter(names.path(site) for site, _ in rows)
    passed: Counter[str] = Counter()
    found = []
    for site, at in rows:
        path = names.path(site)
        number = passed[path]
        passed[path] += 1
        name = f"{path}[{number}]" if often[path] > 1 else path
        found.append(_reading(reading, site, at, name))
    return tuple(found)


def _rows(reading: Reading, program: Program, at: tuple[int, ...]) -> Iterator[tuple[Site, Any]]:
    """Sites, with the steps of the loops around them; those that were not run are left out."""
    sites = {site.node: site for site in reading.structure.flow.sites}
    for node in program.nodes:
        looped = node.name in ("scan", "while")
        count = length_of(node, reading.structure.ran.counts) if looped else 1
        for step in range(count if node.bodies else 0):
            for body in node.bodies:
                yield from _rows(reading, body, (*at, step) if looped else at)
        site = sites.get(node)
        if site is not None and bool(reading.measured.noted[site.output]["ran"][at]):
            yield site, at


def _reading(reading: Reading, site: Site, at: tuple[int, ...], name: str) -> LayerReading:
    noted, slope = (
        jax.tree.map(lambda array: array[at], found[site.output])
        for found in (reading.measured.noted, reading.measured.slopes)
    )
    aval = reading.structure.graph.avals[site.output]
    weight_var, bias_var = _variances(site, noted)
    return LayerReading(
        name=name,
        kind=reading.structure.names.kind(site),
        weighs=site.multiplies or site.kind == "block",
        units=math.prod(aval.shape[axis] for axis in site.units),
        mean=float(noted["mean"]),
        rms=_rms(noted["output"]),
        kurtosis=float(noted["kurtosis"]),
        log_gradient=log_norm(slope, aval.size),
        log_ratio=_log_ratio(reading, site, at),
        dead=float(slope["dead"]),
        saturated=float(noted.get("saturated", math.nan)),
        activation=reading.structure.following[site].name,
        weight_var=weight_var,
        bias_var=bias_var,
        finite_output=bool(noted["output"]["finite"]),
        finite_gradient=bool(slope["finite"]),
    )


def log_norm(found: Any, entries: int) -> float:
    """Ln of a squared norm, from a size."""
    return float(log_mean_square(found)) + math.log(max(entries, 1))


def log_sum(logs: np.ndarray) -> float:
    """Ln Σ exp."""
    with np.errstate(invalid="ignore"):
        return float(np.logaddexp.reduce(np.ravel(logs))) if np.size(logs) else -math.inf


def _rms(found: Any) -> float:
    with np.errstate(all="ignore"):
        return float(np.exp(np.minimum(log_mean_square(found) / 2, 700.0)))


def _variances(site: Site, noted: Any) -> tuple[float, float]:
    if not site.multiplies:
        return math.nan, math.nan
    weight = site.fan_in * _rms(noted["weight"]) ** 2
    return weight, _rms(noted["bias"]) ** 2 if "bias" in noted else 0.0


def _log_ratio(reading: Reading, site: Site, at: tuple[int, ...]) -> float:
    """Of a slice of a stack, the slice; of what is used repeatedly, all uses together."""
    row = at[-1] if site.stacked and at else None
    found, logs = reading.measured, []
    for place in site.sources:
        rows = np.size(found.values[place]["largest"])
        entries = math.log(max(np.size(reading.values[place]) / max(rows, 1), 1))
        pair = (found.gradients[place], found.values[place])
        logs.append([_log_sum(each, row) + entries for each in pair])
    with np.errstate(all="ignore"):
        gradient, value = (np.logaddexp.reduce(column) for column in zip(*logs))
        return float(gradient - value)


def _log_sum(found: Any, row: int | None) -> float:
    """Ln Σ over rows of the mean square of a row."""
    logs = log_mean_square(found)
    if row is not None and row < logs.size:
        return float(logs[row])
    return log_sum(logs)
