"""One BLAS thread for many small matrices: the pool belongs to whoever runs the matrices."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import scipy.linalg  # noqa: F401  (JAX takes LAPACK from here: it must be loaded to be found)
from threadpoolctl import ThreadpoolController

from sigprop._precision import is_traced

__all__ = ["one_blas_thread", "on_one_blas_thread"]


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


def on_one_blas_thread(compute: Callable[..., Any], *arguments: Any) -> Any:
    """What ``compute`` gives, finished before the user's setting comes back.

    JAX answers before it has computed, and what is only traced is not computed here at all.
    """
    with one_blas_thread():
        result = compute(*arguments)
        return result if is_traced(result) else jax.block_until_ready(result)


@functools.cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()
