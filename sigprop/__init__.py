"""Signal propagation in deep networks: what theory predicts, what networks do, how they train.

Every room (`sigprop.theory`, `sigprop.jacobian`, ...) is loaded when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sigprop import (
        activations,
        architecture,
        diagnosis,
        gaussian,
        gradients,
        jacobian,
        kinds,
        limit,
        networks,
        plots,
        propagation,
        studies,
        sweeps,
        theory,
        training,
    )
    from sigprop.architecture import Architecture
    from sigprop.citing import cite
    from sigprop.diagnosis import diagnose

__all__ = [
    "Architecture",
    "activations",
    "architecture",
    "cite",
    "diagnose",
    "diagnosis",
    "gaussian",
    "gradients",
    "jacobian",
    "kinds",
    "limit",
    "networks",
    "plots",
    "propagation",
    "studies",
    "sweeps",
    "theory",
    "training",
]

_HOMES = {"Architecture": "architecture", "cite": "citing", "diagnose": "diagnosis"}


def __getattr__(name: str) -> Any:
    """A room, or one of the names that stand at the top, brought in when first asked for."""
    if name == "__version__":
        from importlib.metadata import version  # takes longer than all the rest of this file

        return version("sigprop")
    if name not in __all__:
        raise AttributeError(f"module 'sigprop' has no attribute {name!r}")
    home = importlib.import_module(f"sigprop.{_HOMES.get(name, name)}")
    return getattr(home, name) if name in _HOMES else home


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, "__version__"])
