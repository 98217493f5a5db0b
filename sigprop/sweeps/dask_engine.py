"""Chunks computed by the workers of a Dask cluster: processes of this machine, or one that runs.

Only chunks and answers travel; the store is written by this process alone. What a lost worker had
in hand is computed again by another.
"""

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from sigprop.sweeps.study import Study
from sigprop.sweeps.tiling import Chunk
from sigprop.sweeps.work import Outcome, attempted

__all__ = ["DaskEngine", "opened"]

_LOST_WORKERS = 20  # that a chunk may outlive before it counts as failed


@contextlib.contextmanager
def opened(engine: Any, scheduler: str | None, workers: int | None) -> Iterator["DaskEngine"]:
    """The user's own client, a client of ``scheduler``, or one of a cluster started here.

    Raises
    ------
    ValueError
        If Dask is not installed, the scheduler does not answer, or is lost on the way.
    """
    try:
        import distributed
    except ImportError:
        raise ValueError(
            "engine dask needs Dask, which is not installed: pip install 'sigprop[dask]'"
        ) from None
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be >= 1, got {workers}")
    if engine != "dask":
        yield DaskEngine(engine)
        return
    with contextlib.ExitStack() as stack:
        address = scheduler or stack.enter_context(_cluster(workers))
        try:
            client = stack.enter_context(distributed.Client(address, timeout=20))
        except OSError as error:
            raise ValueError(f"scheduler must be one that runs, got {scheduler}: {error}") from None
        print(f"Dask dashboard: {client.dashboard_link}", file=sys.stderr, flush=True)
        yield DaskEngine(client)


def _cluster(workers: int | None) -> Any:
    """One process a core (or GPU), each with its own; on loopback, restarted when it is lost."""
    import dask.config
    from distributed import Nanny, Scheduler, SpecCluster

    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    gpus = _gpus()
    count = workers or len(gpus) or len(cores) or os.cpu_count() or 1
    quiet = {"DASK_DISTRIBUTED__LOGGING__DISTRIBUTED": "critical"}
    start = {**dask.config.get("distributed.nanny.pre-spawn-environ", {}), **quiet}
    dask.config.set(
        {
            "distributed.scheduler.allowed-failures": _LOST_WORKERS,
            "distributed.nanny.pre-spawn-environ": start,
            # A worker that is restarted on a busy machine takes longer than the 15 s after which
            # a cluster forgets it.
            "distributed.deploy.lost-worker-timeout": "1 hour",
        }
    )
    spec = {
        number: {"cls": Nanny, "options": _worker(number, count, cores, gpus)}
        for number in range(count)
    }
    options = {"host": "127.0.0.1", "port": 0, "dashboard_address": "127.0.0.1:0"}
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # lost workers are no news
    return SpecCluster(
        workers=spec,
        scheduler={"cls": Scheduler, "options": options},
        silence_logs=logging.CRITICAL,  # pyright: ignore
    )


def _worker(number: int, count: int, cores: list[int], gpus: list[str]) -> dict[str, Any]:
    """Options of one worker: its share of the cores, or its GPU, and one chunk at a time."""
    environment = {
        "SIGPROP_WORKER_CORES": ",".join(map(str, cores[number::count])),
    }
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
    return {
        "host": "127.0.0.1",
        "nthreads": 1,
        "memory_limit": 0,
        "env": environment,
        "preload": ["sigprop.sweeps.dask_worker"],
    }


def _gpus() -> list[str]:
    """Names of the GPUs that this process may use."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name]
    devices = os.listdir("/dev") if os.path.isdir("/dev") else []
    names = [name.removeprefix("nvidia") for name in devices if name.startswith("nvidia")]
    return sorted(name for name in names if name.isdecimal())


class DaskEngine:
    """A client, and how chunks go through it."""

    def __init__(self, client: Any):
        self.client = client

    def once(self, function: Callable, *arguments: Any) -> Any:
        """``function(*arguments)``, on one of the workers."""
        with self._one_line_errors():
            return self.client.submit(function, *arguments, pure=False).result()

    def outcomes(
        self, study: Study, chunks: Iterable[Chunk], stop: Callable[[], bool]
    ) -> Iterator[Outcome]:
        """As they come; two a worker are under way, so that none waits."""
        from distributed import as_completed

        coming, chunks = as_completed(), iter(chunks)
        under_way: dict[Any, Chunk] = {}

        def begin_more() -> None:
            while not stop() and len(under_way) < 2 * self._workers():
                chunk = next(chunks, None)
                if chunk is None:
                    return
                future = self.client.submit(attempted, study, chunk, pure=False)
                under_way[future] = chunk
                coming.add(future)

        with self._one_line_errors():
            try:
                begin_more()
                for future in coming:
                    yield self._outcome(future, under_way.pop(future))
                    del future  # lets the worker forget the answers
                    begin_more()
            finally:
                with contextlib.suppress(Exception):  # of a scheduler that is lost
                    self.client.cancel(list(under_way))

    def _workers(self) -> int:
        self._check_alive()
        return max(len(self.client.scheduler_info(-1).get("workers", ())), 1)

    def _outcome(self, future: Any, chunk: Chunk) -> Outcome:
        try:
            return future.result()
        except Exception as error:  # too many workers lost with it, or all is
            self._check_alive()
            return Outcome(chunk, None, error=error)

    def _check_alive(self) -> None:
        if self.client.status != "running":
            raise OSError("its connection is closed")

    @contextlib.contextmanager
    def _one_line_errors(self) -> Iterator[None]:
        try:
            yield
        except (TimeoutError, OSError) as error:  # CommClosedError is one
            raise ValueError(
                f"the Dask scheduler is lost ({error}); what is finished is kept, run the same "
                "command again"
            ) from None
