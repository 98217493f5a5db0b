"""What a store says of itself: which sweep it holds, how it is cut up, which arrays it has."""

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sigprop.sweeps import layout, provenance
from sigprop.sweeps.grid import Grid
from sigprop.sweeps.identity import digest
from sigprop.sweeps.layout import ZarrArray
from sigprop.sweeps.study import Study
from sigprop.sweeps.tiling import Tiling

__all__ = ["FORMAT", "Plan", "planned"]

FORMAT = 2
"""Version of the layout of stores. The first kept chunks beside the store until all were there."""


@dataclass(frozen=True)
class Plan:
    """Fixed when a sweep begins, and the same for every process that works on it."""

    identity: Mapping[str, Any]
    static_axes: tuple[str, ...]
    box: tuple[int, ...]
    rows: int
    arrays: Mapping[str, ZarrArray]
    coordinates: Mapping[str, ZarrArray]
    attrs: Mapping[str, Any]

    @property
    def refined(self) -> tuple[str, ...]:
        """Axes along which cells are spent near boundaries only."""
        return tuple(self.identity.get("refine", ()))

    @functools.cached_property
    def tiling(self) -> Tiling:
        """How the grid is cut into chunks."""
        axes = self.identity["grid"]
        static = {name: tuple(axes[name]) for name in self.static_axes}
        traced = {n: np.asarray(v, float) for n, v in axes.items() if n not in static}
        return Tiling(Grid(static, traced), self.box, self.rows)

    def as_json(self) -> dict[str, Any]:
        """Plain values, with a fingerprint of them all."""
        told = {
            "format": FORMAT,
            "identity": self.identity,
            "static_axes": self.static_axes,
            "box": self.box,
            "rows": self.rows,
            "arrays": [_told(array) for array in self.arrays.values()],
            "coordinates": [_told(array) for array in self.coordinates.values()],
            "attrs": dict(self.attrs),
        }
        told = json.loads(json.dumps(told, default=lambda value: value.tolist()))
        return told | {"fingerprint": _fingerprint(told)}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> "Plan":
        """The plan in a store.

        Raises
        ------
        ValueError
            If it was written by a later version, or damaged.
        """
        if told.get("format") != FORMAT:
            raise ValueError(
                f"it has format {told.get('format')}, and this version of sigprop reads {FORMAT}"
            )
        rest = {name: value for name, value in told.items() if name != "fingerprint"}
        if told.get("fingerprint") != _fingerprint(rest):
            raise ValueError("its plan is damaged (checksum)")
        arrays, coordinates = (
            {array.name: array for array in map(_array, told[part])}
            for part in ("arrays", "coordinates")
        )
        return cls(
            told["identity"], tuple(told["static_axes"]), tuple(told["box"]), told["rows"],
            arrays, coordinates, told["attrs"],
        )  # fmt: skip


def planned(study: Study, tiling: Tiling, identity: Mapping[str, Any]) -> Plan:
    """The plan of a sweep that begins.

    Raises
    ------
    ValueError
        If the study has a variable with the name of the mask.
    """
    if layout.DONE in study.variables:
        raise ValueError(f"study {study.name} must not have a variable called {layout.DONE}")
    attrs = {
        "study": study.name,
        "config": json.dumps(study.config()),
        "config_hash": digest(identity),
        "package_versions": provenance.package_versions(),
        "git_commit": provenance.git_commit(),
        **study.attributes(),
        "cells_per_call": tiling.rows,
    }
    coordinates = {name: array for name, (array, _) in layout.coordinates_of(study, tiling).items()}
    plan = Plan(
        identity, tuple(tiling.grid.static), tiling.box, tiling.rows,
        layout.arrays_of(study, tiling), coordinates, attrs,
    )  # fmt: skip
    return Plan.from_json(plan.as_json())


def _told(array: ZarrArray) -> dict[str, Any]:
    return {**vars(array), "dtype": array.dtype.str, "attrs": dict(array.attrs)}


def _array(told: Mapping[str, Any]) -> ZarrArray:
    dims, shape, chunks = (tuple(told[name]) for name in ("dims", "shape", "chunks"))
    return ZarrArray(told["name"], dims, shape, chunks, np.dtype(told["dtype"]), told["attrs"])


def _fingerprint(told: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
