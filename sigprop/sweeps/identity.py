"""Whether two sweeps are the same: what is compared, and how a difference is told."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sigprop.sweeps.grid import Grid
from sigprop.sweeps.study import Study

__all__ = ["differences", "digest", "identity_of"]


def identity_of(study: Study, grid: Grid, refine: Sequence[str] = ()) -> dict[str, Any]:
    """Everything that decides the results, as plain JSON values."""
    identity = {
        "study": study.name,
        "study_version": study.version,
        "config": study.config(),
        "grid": grid.as_json(),
    }
    content = study.content(grid.static) if hasattr(study, "content") else None  # type: ignore[attr-defined]
    if content:
        identity["content"] = content
    if refine:
        identity["refine"] = list(refine)
    return json.loads(json.dumps(identity))  # tuples become lists, as they come back from a file


def digest(identity: Mapping[str, Any]) -> str:
    """A short fingerprint of ``identity``.

    Examples
    --------
    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(stored: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """What differs, in words; empty if nothing does.

    Examples
    --------
    >>> differences({"config": {"depth": 100}}, {"config": {"depth": 50}})
    'depth is 100 there and 50 here'
    >>> both = {"config": {"seed": 0}, "grid": {"seed": [0, 1]}}
    >>> differences(both, both | {"config": {"seed": 5}})
    'seed is 0 there and 5 here'
    """
    old, new = dict(_leaves(stored)), dict(_leaves(given))
    return "; ".join(
        f"{_shown(key)} is {_brief(old.get(key))} there and {_brief(new.get(key))} here"
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key)
    )


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}.")
        else:
            yield path, value


def _shown(path: str) -> str:
    """Without "config" and "grid": this module's own grouping, not names the user knows."""
    return path.removeprefix("config.").removeprefix("grid.").replace("content.", "content of ", 1)


def _brief(value: Any) -> str:
    if value is None:
        return "absent"
    if isinstance(value, list) and len(value) > 4:
        return f"{len(value)} values from {value[0]} to {value[-1]}"
    return json.dumps(value)
