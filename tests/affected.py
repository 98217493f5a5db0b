"""Which tests a change needs: those of the rooms it touches and of all that import them."""

import ast
import functools
import pathlib
import subprocess
from collections.abc import Iterable

__all__ = ["rooms_imported", "tests"]

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "sigprop"


def tests(revision: str, collected: Iterable[pathlib.Path]) -> set[pathlib.Path]:
    """Of the test files collected, those that what changed since ``revision`` can decide."""
    changed = {ROOT / name for name in _changed(revision)}
    rooms = {room_of(path) for path in changed if PACKAGE in path.parents}
    # What all tests share, and what a run is set up by, decides all of them.
    if any(path.parent in (ROOT, ROOT / "tests") for path in changed if path.suffix in _SETTINGS):
        return set(collected)
    outside = {path.parent for path in changed if PACKAGE not in path.parents}
    return {
        path
        for path in collected
        if path.parent in outside or rooms & depends_on(frozenset(_rooms_of_test(path)))
    }


_SETTINGS = {".py", ".toml"}


def _changed(revision: str) -> list[str]:
    git = functools.partial(subprocess.run, cwd=ROOT, capture_output=True, text=True, check=True)
    tracked = git(["git", "diff", "--name-only", revision]).stdout
    new = git(["git", "ls-files", "--others", "--exclude-standard"]).stdout
    return [*tracked.splitlines(), *new.splitlines()]


def room_of(path: pathlib.Path) -> str:
    """The first component of a module's place inside the package."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _rooms_of_test(path: pathlib.Path) -> set[str]:
    """What a test file imports, and the room its folder mirrors (a doctest: its own module's)."""
    if PACKAGE in path.parents:
        return {room_of(path)}
    return rooms_imported(path.read_text()) | {path.parent.name}


@functools.cache
def depends_on(rooms: frozenset[str]) -> frozenset[str]:
    """The rooms themselves, and whatever they import, directly or not."""
    found, todo = set(), set(rooms)
    while todo:
        room = todo.pop()
        found.add(room)
        todo |= _direct().get(room, set()) - found
    return frozenset(found)


@functools.cache
def _direct() -> dict[str, set[str]]:
    imported: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        if path.parent != PACKAGE or path.stem != "__init__":
            rooms = imported.setdefault(room_of(path), set())
            rooms |= rooms_imported(path.read_text())
    # Scripts and notebooks are run by tests that do not import them; they use everything.
    imported["experiments"] = set(imported)
    return imported


def rooms_imported(source: str) -> set[str]:
    """Rooms of the package that a source file imports, at the top or inside a function."""
    rooms = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "sigprop":
            rooms |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sigprop."):
            rooms.add(str(node.module).split(".")[1])
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            rooms |= {parts[1] for parts in names if parts[0] == "sigprop" and len(parts) > 1}
    return rooms
