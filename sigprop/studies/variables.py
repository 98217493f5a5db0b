"""What a study says of one of its outputs; the attributes follow the CF conventions."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Variable", "flags", "quantity"]


@dataclass(frozen=True)
class Variable:
    """One output of a study: the grid axes it varies along, its own dimensions, its meaning."""

    axes: tuple[str, ...]
    dims: tuple[str, ...] = ()
    dtype: str = "float64"
    attrs: Mapping[str, Any] = field(default_factory=dict)


def quantity(
    axes: tuple[str, ...],
    long_name: str,
    *dims: str,
    units: str = "1",
    dtype: str = "float64",
) -> Variable:
    """A number with a name and a unit (``"1"``: dimensionless).

    Examples
    --------
    >>> quantity(("weight_var",), "variance of the pre-activations", "layer").dims
    ('layer',)
    """
    return Variable(axes, dims, dtype, {"long_name": long_name, "units": units})


def flags(axes: tuple[str, ...], long_name: str, codes: type[enum.IntEnum], *dims: str) -> Variable:
    """A status, stored as the integer code of ``codes`` with its meanings beside it.

    Examples
    --------
    >>> class Light(enum.IntEnum):
    ...     RED = 0
    ...     GREEN = 1
    >>> flags((), "traffic light", Light).attrs["flag_meanings"]
    'red green'
    """
    attrs = {
        "long_name": long_name,
        "flag_values": [int(code) for code in codes],
        "flag_meanings": " ".join(code.name.lower() for code in codes),
    }
    return Variable(axes, dims, "int8", attrs)
