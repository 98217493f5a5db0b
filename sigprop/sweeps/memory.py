"""How much memory this process holds, and held at most."""

import contextlib
import os
import sys
from pathlib import Path

try:
    import resource
except ImportError:  # Windows: nothing is known
    resource = None

__all__ = ["forget_peak", "peak_bytes", "resident_bytes"]

_STATUS = Path("/proc/self/status")


def resident_bytes() -> int:
    """What the process holds now; 0 where the system does not tell."""
    return _field("VmRSS:") or _largest_ever()


def peak_bytes() -> int:
    """The most it has held since `forget_peak`, or since it began where that is not to be had."""
    return _field("VmHWM:") or _largest_ever()


def forget_peak() -> None:
    """Begin anew to watch the peak (on Linux)."""
    with contextlib.suppress(OSError):  # of another system, or a container that forbids it
        Path("/proc/self/clear_refs").write_text("5")


def _field(name: str) -> int:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), 0)


def _largest_ever() -> int:
    if resource is None:
        return 0
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024 if os.name == "posix" else 0
