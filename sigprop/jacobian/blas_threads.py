"""One BLAS thread for many small matrices: the pool belongs to whoever runs the matrices."""

import contextlib
import functools
from collections.abc import Iterator

import scipy.linalg  # noqa: F401  (JAX takes LAPACK from here: it must be loaded to be found)
from threadpoolctl import ThreadpoolController

__all__ = ["one_blas_thread"]


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold BLAS to one thread inside the ``with`` block; the user's setting comes back after it.

    XLA hands each matrix of a batch to a thread of its own pool; BLAS would start as many threads
    again inside each one, and they wait for one another.

    Examples
    --------
    >>> import numpy as np
    >>> with one_blas_thread():
    ...     np.linalg.norm(np.eye(3) @ np.eye(3))
    np.float64(1.7320508075688772)
    """
    with _controller().limit(limits=1, user_api="blas"):
        yield


@functools.cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()
