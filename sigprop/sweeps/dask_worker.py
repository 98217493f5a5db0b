"""Loaded by every worker of a local Dask cluster before any work: one JAX process, its cores."""

import contextlib
import os

__all__ = ["dask_setup"]


def dask_setup(worker: object) -> None:
    """Keep to this worker's cores, with one JAX device on each.

    Cells sharded over a device a core beat XLA's own threads, as in the scripts.
    """
    named = os.environ.get("SIGPROP_WORKER_CORES", "")
    cores = [int(core) for core in named.split(",") if core]
    if not cores:
        return
    with contextlib.suppress(AttributeError, OSError):  # of a system that has no such thing
        os.sched_setaffinity(0, cores)
    import jax

    with contextlib.suppress(RuntimeError):  # of a process that uses JAX already
        jax.config.update("jax_num_cpu_devices", len(cores))
