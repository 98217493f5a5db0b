"""Ctrl-C: the first one asks to stop after the chunk in hand, the second stops at once."""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator

__all__ = ["stop_requested"]


@contextlib.contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
    """A function that says whether to stop; signals reach the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked = threading.Event()

    def first(*_):
        asked.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print("stopping after this chunk; Ctrl-C again to stop at once", file=sys.stderr)

    before = signal.signal(signal.SIGINT, first)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)
