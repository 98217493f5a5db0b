"""Where a dataset came from: package versions and the commit of the code that made it."""

import importlib.metadata
import json
import subprocess
from pathlib import Path

__all__ = ["git_commit", "package_versions"]

_PACKAGES = ("sigprop", "jax", "jaxlib", "flax", "numpy", "scipy", "scikit-learn", "xarray", "zarr")


def package_versions() -> str:
    """Installed versions of the packages that decide the numbers, as a JSON object.

    Examples
    --------
    >>> "numpy" in json.loads(package_versions())
    True
    """
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # run from a source tree
            versions[package] = "not installed"
    return json.dumps(versions)


def git_commit() -> str:
    """Commit of the checkout this package runs from, ``-dirty`` if edited; "" outside one."""
    here = Path(__file__).resolve()
    # A virtual environment may lie inside somebody else's repository: ask whether git knows us.
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return ""
    commit = _git(here.parent, "rev-parse", "HEAD") or ""
    edited = _git(here.parent, "status", "--porcelain", "--untracked-files=no", "--", "..")
    return f"{commit}-dirty" if commit and edited else commit


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
