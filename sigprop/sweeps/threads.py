"""One core gives the bits that several give."""

import os

__all__ = ["at_least_two"]


def at_least_two() -> None:
    """Give XLA a second thread where there is one core; before JAX is first used, else in vain.

    With one thread its CPU backend sums long products in another order than with two or more, which
    all agree; the last digits of trained networks differed.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if cores == 1:
        os.environ.setdefault("NPROC", "2")  # what XLA reads
