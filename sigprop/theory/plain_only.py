"""Theory of plain networks, asked about an architecture: its own numbers, or a refusal."""

from typing import Any

from sigprop.architecture import Architecture

__all__ = ["check_given", "told_by"]


def told_by(architecture: Architecture, **arguments: Any) -> dict[str, Any] | None:
    """The named arguments as a plain architecture has them; None if its layers are not plain.

    Raises
    ------
    ValueError
        If one of them was given beside it.
    """
    twice = [name for name, value in arguments.items() if value is not None]
    if twice:
        raise ValueError(f"{', '.join(twice)} must be left out beside an architecture")
    if not architecture.is_plain:
        return None
    orthogonal = architecture.distribution == "orthogonal"
    own = {"ensemble": "orthogonal" if orthogonal else "gaussian"}
    return {name: own.get(name, getattr(architecture, name, None)) for name in arguments}


def check_given(**arguments: Any) -> None:
    """Raise if one of what an activation alone does not say is missing."""
    missing = [name for name, value in arguments.items() if value is None]
    if missing:
        raise ValueError(f"{', '.join(missing)} must be given beside an activation")
