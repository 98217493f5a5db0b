"""What studies have in common: the ranges of their fields, what identifies them, how they compute.

A study is one file with a dataclass on top of `Study`, its plot and its test. It says which grid it
is asked on, its outputs once, what theory says (`told`) and what networks show (`measured`).
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from sigprop import activations, architecture, own_activations
from sigprop._checks import check_non_negative, check_positive, check_whole_number
from sigprop.studies import inputs
from sigprop.studies.variables import Variable

__all__ = ["Study", "above_one", "non_negative", "positive", "positive_if_given", "tuning", "whole"]

Arrays = dict[str, np.ndarray]


def whole(default: int, least: int) -> Any:
    """A field that is a whole number >= ``least``."""
    return _checked(default, lambda name, value: check_whole_number(name, value, least))


def positive(default: float) -> Any:
    """A field that is > 0."""
    return _checked(default, check_positive)


def positive_if_given() -> Any:
    """A field that is None, or > 0."""

    def check(name: str, value: float | None) -> None:
        if value is not None and not (np.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be > 0 and finite, got {value}")

    return _checked(None, check)


def non_negative(default: float) -> Any:
    """A field that is >= 0."""
    return _checked(default, check_non_negative)


def above_one(default: float) -> Any:
    """A field that is > 1."""

    def check(name: str, value: float) -> None:
        if not (np.isfinite(value) and value > 1):
            raise ValueError(f"{name} must be > 1 and finite, got {value}")

    return _checked(default, check)


def tuning(default: Any) -> Any:
    """A field that decides how fast a result comes, not which."""
    return dataclasses.field(default=default, metadata={"tuning": True})


def _checked(default: Any, check: Callable[[str, Any], object]) -> Any:
    return dataclasses.field(default=default, metadata={"check": check})


_MEANINGS: dict[str, tuple[str, str | None]] = {
    "activation": ("activation", None),
    "initialiser": ("distribution of the weights", None),
    "weight_var": ("weight variance times fan-in", "1"),
    "bias_var": ("bias variance", "1"),
    "learning_rate": ("step size", "1"),
    "depth": ("weight layers", "1"),
    "layer": ("layer", "1"),
    "seed": ("seed", "1"),
}

_CHECKS: dict[str, Callable[[Any], object]] = {
    "activation": activations.get,
    "initialiser": architecture.distribution_of,
    "weight_var": functools.partial(check_non_negative, "weight_var"),
    "bias_var": functools.partial(check_non_negative, "bias_var"),
    "learning_rate": functools.partial(check_positive, "learning_rate"),
    "seed": functools.partial(check_whole_number, "seed", minimum=0),
}


class Study:
    """Base of the studies, which are frozen dataclasses (`sweeps.Study` is what a sweep asks for).

    Attributes
    ----------
    name, version, title
        Of the study, in stores and figures.
    static_axes, traced_axes
        Of the grid: strings, and numbers.
    told_axes
        Those that theory depends on; `told` is asked once for each point on them.
    meanings
        ``long_name`` and unit of dimensions that `Study` does not know.
    file_field
        Name of the field with the user's data, which is identified by its content.
    """

    name: str
    version: int
    title: str
    static_axes: tuple[str, ...]
    traced_axes: tuple[str, ...]
    told_axes: tuple[str, ...] = ()
    meanings: Mapping[str, tuple[str, str | None]] = {}
    file_field: str | None = None
    matmul_precision: str = "highest"
    dtype: str = "float32"
    cell_multiple: int = 1
    least_depth: int = 1

    def __post_init__(self):
        for field in dataclasses.fields(self):  # type: ignore[arg-type]  # subclasses are dataclasses
            if "check" in field.metadata:
                field.metadata["check"](field.name, getattr(self, field.name))

    @property
    def coordinates(self) -> dict[str, np.ndarray]:
        """Of every dimension besides the grid's."""
        return {}

    @property
    def variables(self) -> dict[str, Variable]:
        """Every output."""
        raise NotImplementedError

    @property
    def axis_attrs(self) -> dict[str, dict[str, str]]:
        """What the dimensions mean."""
        known = _MEANINGS | dict(self.meanings)
        dims = [*self.static_axes, *self.traced_axes, *self.coordinates]
        return {
            dim: {"long_name": known[dim][0]} | ({"units": known[dim][1]} if known[dim][1] else {})
            for dim in dims
        }  # type: ignore[return-value]

    def check(self, grid: Mapping[str, Any]) -> None:
        """Raise ValueError for coordinates that no network can have."""
        for axis in (*self.static_axes, *self.traced_axes):
            if axis in ("weight_var", "bias_var", "learning_rate"):
                _CHECKS[axis](grid[axis])
            elif axis in _CHECKS:
                for value in np.asarray(grid[axis]).tolist():
                    _CHECKS[axis](_as_integer(value))
            elif axis == "depth":
                for value in np.asarray(grid[axis]).tolist():
                    check_whole_number("depth", _as_integer(value), self.least_depth)

    def named(self, axis: str, value: Any) -> Any:
        """The string for a coordinate of a static axis: an activation may be a function."""
        return own_activations.named(value) if axis == "activation" else value

    def content(self, static: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
        """What stands behind the names of activations that are the user's own, by fingerprint."""
        found = {name: own_activations.fingerprint(name) for name in static.get("activation", ())}
        return {name: content for name, content in found.items() if content is not None}

    def config(self) -> dict[str, Any]:
        """What decides the results besides the grid; user's data by content, not by place."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        config = {f.name: getattr(self, f.name) for f in fields if "tuning" not in f.metadata}
        if self.file_field is not None:
            config.pop(self.file_field)
            config["inputs"] = inputs.content_of(getattr(self, self.file_field))
        return config

    def attributes(self) -> dict[str, Any]:
        """Settings a reader wants at hand, and the machine."""
        device = jax.devices()[0]
        return {
            "title": self.title,
            **{name: value for name, value in self.config().items() if value is not None},
            "device": f"{len(jax.devices())} x {device.platform} ({device.device_kind})",
            "matmul_precision": self.matmul_precision,
            "dtype": self.dtype,
        }

    def told(self, static: Mapping[str, str], cells: Mapping[str, Any]) -> Arrays:
        """What theory says, by name, at cells over `told_axes`.

        Without an axis of cells where it depends on static axes alone.
        """
        return {}

    def measured(self, static: Mapping[str, str], cells: Mapping[str, Any], told: Arrays) -> Arrays:
        """What networks show, by name, at every cell; ``told`` is theory there."""
        raise NotImplementedError

    def compute(self, static: Mapping[str, str], cells: Mapping[str, Any]) -> Arrays:
        """Theory and measurement at every cell."""
        told = self._told_at(static, cells) if self.told_axes else {}
        found = told | self.measured(static, cells, told)
        rows = len(next(iter(cells.values())))
        once = {name: found[name] for name in self._same_everywhere}
        return found | {n: np.broadcast_to(v, (rows, *np.shape(v))) for n, v in once.items()}

    @functools.cached_property
    def _same_everywhere(self) -> tuple[str, ...]:
        """Outputs that depend on no traced axis, and come without an axis of cells."""
        traced = set(self.traced_axes)
        return tuple(name for name, v in self.variables.items() if not traced & set(v.axes))

    def _told_at(self, static: Mapping[str, str], cells: Mapping[str, Any]) -> Arrays:
        """`told` at the distinct points among the cells, put back in their places."""
        own = [name for name in self.traced_axes if name in self.told_axes]
        points, where = np.unique(
            np.stack([cells[name] for name in own]), axis=1, return_inverse=True
        )
        names = tuple((name, static[name]) for name in self.static_axes if name in self.told_axes)
        content = tuple(self.content({name: (value,) for name, value in names}).values())
        found = _told(self, names, content, tuple(own), points.astype(np.float64).tobytes())
        once = self._same_everywhere
        return {n: v if n in once else v[where.ravel()] for n, v in found.items()}


@functools.lru_cache(maxsize=32)
def _told(
    study: Study, static: tuple, content: tuple, axes: tuple[str, ...], points: bytes
) -> Arrays:
    """Kept for the next combination of static axes that theory does not depend on."""
    values = np.frombuffer(points).reshape(len(axes), -1)
    return study.told(dict(static), dict(zip(axes, values)))


def _as_integer(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value == int(value) else value
