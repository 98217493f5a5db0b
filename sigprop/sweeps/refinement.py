"""Cells spent near boundaries: a coarse lattice, halved again where its corners differ.

The grid that is asked for is the finest one. Along the refined axes every 2^k-th cell is computed
at first; a square of the lattice (a box, along more axes) in which two computed cells are of
different classes is split in half, and so is every neighbour that shares a face on which they
differ, until the squares have the side of one cell. What stays coarse is masked.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from sigprop.sweeps.study import Study
from sigprop.sweeps.tiling import Tiling

__all__ = ["Refinement", "classes"]

_COARSEST = 16  # cells between neighbours at first, at most


def classes(study: Study, answers: Mapping[str, np.ndarray]) -> np.ndarray:
    """A whole number for every cell; where it changes between neighbours there is a boundary.

    By the study's own ``boundary``, else by all of its variables with ``flag_values`` and one
    number a cell: a phase, a class of growth.

    Raises
    ------
    ValueError
        If the study has neither.
    """
    if hasattr(study, "boundary"):
        return np.asarray(study.boundary(answers)).astype(int)  # pyright: ignore
    names = [n for n, v in study.variables.items() if "flag_values" in v.attrs and not v.dims]
    if not names:
        raise ValueError(f"refine needs a study with a boundary, and {study.name} names none")
    codes = np.stack([answers[name].astype(int) for name in names], axis=-1)
    return np.unique(codes, axis=0, return_inverse=True)[1].ravel() if False else _mixed(codes)


def _mixed(codes: np.ndarray) -> np.ndarray:
    """Several codes of one byte as one number."""
    return (codes * 256 ** np.arange(codes.shape[-1])).sum(-1)
