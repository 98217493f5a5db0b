"""The Zarr dataset of a sweep: which arrays it has, and the bytes of their metadata and chunks.

Version 2 of the format: the third has no settled form yet for fixed-length strings, and readers
warn about them. Every chunk carries a checksum of its values (a filter that any Zarr reader
applies), so damage is an error wherever the store is read.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numcodecs
import numpy as np

from sigprop.sweeps.study import Study, Variable
from sigprop.sweeps.tiling import Tiling

__all__ = ["DONE", "ZarrArray", "arrays_of", "coordinates_of", "metadata_files"]

DONE = "done"
"""Name of the mask of what has been computed."""

_COMPRESSOR = numcodecs.Zstd(level=1, checksum=True)
_CHECKSUM = numcodecs.CRC32()


@dataclass(frozen=True)
class ZarrArray:
    """One array: its dimensions and chunks, and what stands where nothing was computed yet."""

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype
    attrs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def blank(self) -> Any:
        """NaN; of integers the extreme value that their readers show as NaN while it is there."""
        if self.dtype.kind in "iu":
            limits = np.iinfo(self.dtype)
            return limits.min if limits.min < 0 else limits.max
        return np.nan if self.dtype.kind == "f" else False

    def empty_chunk(self) -> np.ndarray:
        """A chunk in which nothing was computed yet."""
        return np.full(self.chunks, self.blank, self.dtype)

    def key(self, place: Sequence[int]) -> str:
        """The file of the chunk at ``place``, within the store."""
        return f"{self.name}/{'.'.join(map(str, place)) or '0'}"

    def encode(self, block: np.ndarray) -> bytes:
        """The file of a whole chunk."""
        values = np.ascontiguousarray(block, self.dtype).reshape(self.chunks)
        return bytes(_COMPRESSOR.encode(_CHECKSUM.encode(values)))

    def decode(self, data: bytes) -> np.ndarray:
        """The chunk in a file.

        Raises
        ------
        ValueError
            If the bytes are not those that were written.
        """
        try:
            raw = np.asarray(_CHECKSUM.decode(_COMPRESSOR.decode(data)))
            return raw.view(self.dtype).reshape(self.chunks).copy()
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"damaged: {error}") from None

    def metadata(self, *, settled: bool) -> dict[str, Any]:
        """What ``.zarray`` says; of a ``settled`` array nothing is blank, and integers stay so."""
        blank = None if settled or self.dtype.kind in "bU" else self.blank
        return {
            "zarr_format": 2,
            "shape": self.shape,
            "chunks": self.chunks,
            "dtype": self.dtype.str,
            "compressor": _COMPRESSOR.get_config(),
            "filters": [_CHECKSUM.get_config()],
            "fill_value": "NaN" if self.dtype.kind == "f" else blank,
            "order": "C",
            "dimension_separator": ".",
        }


def arrays_of(study: Study, tiling: Tiling) -> dict[str, ZarrArray]:
    """Every output of ``study`` over its axes, and the mask, which comes first.

    Readers that load one array after another then see whole chunks only: what the mask promises
    was there before the mask was read.
    """
    everywhere = _over(tiling, tiling.grid.dims)
    mask = ZarrArray(DONE, *everywhere, np.dtype(bool), {"long_name": "whether it was computed"})
    named = {name: _array(name, v, study, tiling) for name, v in study.variables.items()}
    return {DONE: mask} | named


def _array(name: str, variable: Variable, study: Study, tiling: Tiling) -> ZarrArray:
    dims, shape, chunks = _over(tiling, [d for d in tiling.grid.dims if d in variable.axes])
    trailing = tuple(len(study.coordinates[dim]) for dim in variable.dims)
    return ZarrArray(
        name,
        (*dims, *variable.dims),
        (*shape, *trailing),
        (*chunks, *(max(length, 1) for length in trailing)),
        np.dtype(variable.dtype),
        dict(variable.attrs),
    )


def _over(tiling: Tiling, dims: Sequence[str]) -> tuple[tuple, tuple, tuple]:
    grid = tiling.grid
    lengths = dict(zip(grid.dims, grid.shape))
    sides = dict.fromkeys(grid.static, 1) | dict(zip(grid.traced, tiling.box))
    return tuple(dims), tuple(lengths[d] for d in dims), tuple(sides[d] for d in dims)


def coordinates_of(study: Study, tiling: Tiling) -> dict[str, tuple[ZarrArray, np.ndarray]]:
    """The coordinates of every dimension in use, each one chunk."""
    grid = tiling.grid
    used = [dim for variable in study.variables.values() for dim in variable.dims]
    values = {**grid.static, **grid.traced, **{dim: study.coordinates[dim] for dim in used}}
    return {name: _coordinate(name, np.asarray(v), study) for name, v in values.items()}


def _coordinate(name: str, values: np.ndarray, study: Study) -> tuple[ZarrArray, np.ndarray]:
    shape = values.shape
    attrs = dict(study.axis_attrs.get(name, {}))
    return ZarrArray(name, (name,), shape, (max(math.prod(shape), 1),), values.dtype, attrs), values


def metadata_files(
    arrays: Sequence[ZarrArray],
    coordinates: Sequence[ZarrArray],
    attrs: Mapping[str, Any],
    *,
    settled: bool,
) -> dict[str, bytes]:
    """The contents of every metadata file; the consolidated one, which readers take, comes last."""
    entries: dict[str, Any] = {".zgroup": {"zarr_format": 2}, ".zattrs": dict(attrs)}
    for array in [*arrays, *coordinates]:
        whole = settled or array in coordinates
        entries[f"{array.name}/.zarray"] = array.metadata(settled=whole)
        entries[f"{array.name}/.zattrs"] = {"_ARRAY_DIMENSIONS": array.dims, **array.attrs}
    consolidated = {"zarr_consolidated_format": 1, "metadata": entries}
    files = {name: json.dumps(entry, indent=1).encode() for name, entry in entries.items()}
    return files | {".zmetadata": json.dumps(consolidated, indent=1).encode()}
