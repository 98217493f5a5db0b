"""Measured numbers, kept: random keys are fixed, so every run would measure the same ones again.

A test module's measurements stand in ``tests/reference/measured``, each with a digest of the
sources it depends on: the rooms named and the test module itself, comments and docstrings left out.
Where the digest differs they are measured anew and kept, and so they are in the slow run.
"""

import ast
import functools
import hashlib
import inspect
import json
import os
import pathlib
from collections.abc import Callable

import jax
import numpy as np

__all__ = ["MEASURE_ANEW", "measured_once"]

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tests" / "reference" / "measured"
MEASURE_ANEW = "SIGPROP_MEASURE_ANEW"
"""The environment's variable by which the slow run asks for it."""

NETWORKS = ("activations", "architecture", "kinds", "networks")
_SIZED = "structure"


def measured_once(*rooms: str) -> Callable[[Callable], Callable]:
    """Decorator: what a function of hashable arguments returns is measured once and kept.

    It returns arrays and numbers in tuples, lists and dicts (tuples come back as lists).
    """

    def decorate(measure: Callable) -> Callable:
        source = pathlib.Path(inspect.getfile(measure))
        kept = FOLDER / f"{source.stem}.npz"

        @functools.cache
        def found(*arguments):
            key = f"{measure.__name__}{arguments!r}"
            digest = _digest(source, *rooms)
            stored = _read(kept, key, digest)
            if stored is None or os.environ.get(MEASURE_ANEW):
                _write(kept, key, digest, measure(*arguments))
                stored = _read(kept, key, digest)
            return stored

        return found

    return decorate


def _read(kept: pathlib.Path, key: str, digest: str):
    if not kept.exists():
        return None
    with np.load(kept) as arrays:
        if f"{key}/{_SIZED}" not in arrays:
            return None
        record = json.loads(str(arrays[f"{key}/{_SIZED}"]))
        if record["digest"] != digest:
            return None
        return jax.tree.map(lambda leaf: arrays[f"{key}/{leaf}"][()], record["places"])


def _write(kept: pathlib.Path, key: str, digest: str, value) -> None:
    others = {}
    if kept.exists():
        with np.load(kept) as arrays:
            others = {n: arrays[n] for n in arrays if not n.startswith(f"{key}/")}
    leaves, structure = jax.tree.flatten(value)
    places = jax.tree.unflatten(structure, range(len(leaves)))
    own = {f"{key}/{i}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
    own[f"{key}/{_SIZED}"] = np.asarray(json.dumps({"digest": digest, "places": places}))
    kept.parent.mkdir(exist_ok=True)
    part = kept.with_suffix(f".{os.getpid()}.npz")
    np.savez_compressed(part, **others, **own)
    os.replace(part, kept)


@functools.cache
def _digest(source: pathlib.Path, *rooms: str) -> str:
    files = [source]
    for room in rooms:
        place = ROOT / "sigprop" / room
        files += sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    text = "\n".join(_code(path) for path in files)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _code(path: pathlib.Path) -> str:
    """The source without comments and docstrings, which decide no number."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            node.body = body[1:] or [ast.Pass()]  # type: ignore[attr-defined]
    return ast.unparse(tree)
