"""The LAPACK routines in float64 that NumPy and SciPy have no functions for."""

import numpy as np
from scipy.linalg import get_lapack_funcs

__all__ = ["dgejsv", "dgeqp3", "dgeqrf", "dorgqr", "dormqr", "dtrtri"]

dgejsv, dgeqp3, dgeqrf, dorgqr, dormqr, dtrtri = get_lapack_funcs(
    ("gejsv", "geqp3", "geqrf", "orgqr", "ormqr", "trtri"), dtype=np.float64
)
