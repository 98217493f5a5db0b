"""Objects by the name ``module:attribute``, installed ones or from the current folder's files."""

import contextlib
import difflib
import importlib
import os
import sys
from collections.abc import Iterator
from typing import Any

__all__ = ["imported"]


def imported(name: str) -> Any:
    """The object that ``module:attribute`` names; both may have dots.

    Raises
    ------
    ValueError
        With one line, if there is no such module or attribute, or the module cannot be loaded.

    Examples
    --------
    >>> imported("math:pi").__class__.__name__
    'float'
    """
    module, _, attribute = name.partition(":")
    found = _module(module)
    for part in attribute.split("."):
        if not hasattr(found, part):
            near = difflib.get_close_matches(part, dir(found), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"{module} has no {part or 'function without a name'}{hint}")
        found = getattr(found, part)
    return found


def _module(module: str) -> Any:
    try:
        with _current_folder_first():
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
            raise ValueError(
                f"there is no module {module} among those installed, and no "
                f"{module.replace('.', '/')}.py in {os.getcwd()}"
            ) from None
        raise ValueError(f"{module} could not be imported: {error}") from error
    except Exception as error:  # whatever the user's file raises
        raise ValueError(f"{module} could not be imported: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


@contextlib.contextmanager
def _current_folder_first() -> Iterator[None]:
    """A script's own folder stands first otherwise, with files that may have the same names."""
    folder = os.getcwd()
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(folder)
