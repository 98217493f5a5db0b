"""The papers behind what was used, as BibTeX."""

import functools
import importlib.resources
import re
from typing import Any

import numpy as np

from sigprop.architecture import Architecture

__all__ = ["cite"]


def cite(used: Any) -> str:
    """BibTeX of the papers behind the theory of a network, or behind one public name.

    Parameters
    ----------
    used
        An `Architecture`: papers of mean-field theory and of its activation, block, norm, dropout,
        initialiser and parameterisation. Or the name of an activation, a block, a norm, a recipe,
        or of a function of this library that has papers behind it, as "jacobian_spectrum".

    Returns
    -------
    str
        Entries, oldest first, each with its DOI where it has one.

    Raises
    ------
    ValueError
        For a name behind which no paper is listed.

    Examples
    --------
    >>> print(cite("lyapunov_exponents").splitlines()[0])
    @article{newman1986,
    >>> from sigprop.architecture import Architecture
    >>> deep = Architecture(50, 256, "relu", block="residual", initialiser="he")
    >>> [line.split("{")[1].strip(",") for line in cite(deep).splitlines() if line[:1] == "@"]
    ['cho2009', 'he2015', 'poole2016', 'he2016', 'schoenholz2017', 'yang2017']
    """
    names = _names(used) if isinstance(used, Architecture) else {used}
    found = [entry for entry, keywords in _papers().items() if names & keywords]
    if not found:
        known = ", ".join(sorted(frozenset().union(*_papers().values())))
        raise ValueError(f"used must be an Architecture or one of {known}, got {used!r}")
    return "\n".join(sorted(found, key=_year))


def _names(network: Architecture) -> set[Any]:
    """What a network is made of, as keywords of papers."""
    return {
        "mean_field",
        network.activation.name,
        network.block,
        network.norm,
        network.initialiser,
        network.initialiser.partition("_")[0],
        network.parameterisation,
        "dropout" if np.any(np.asarray(network.dropout)) else None,
    }


@functools.cache
def _papers() -> dict[str, frozenset[str]]:
    """Every entry of the bibliography, with its keywords."""
    text = importlib.resources.files("sigprop").joinpath("papers.bib").read_text("utf-8")
    entries = re.findall(r"^@.*?^}\n", text, re.MULTILINE | re.DOTALL)
    return {entry: frozenset(_field("keywords", entry).split(", ")) for entry in entries}


def _field(name: str, entry: str) -> str:
    return re.search(rf"^  {name} = {{(.*?)}},?$", entry, re.MULTILINE)[1]  # type: ignore[index]


def _year(entry: str) -> int:
    return int(_field("year", entry))
