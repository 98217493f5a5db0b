"""A sweep that is killed at random moments, again and again, and looked at each time.

Usage: python killed_often.py STORE KILLS SEED. Forks, so that starting again costs nothing; prints
how many chunks were computed in all, over how many there are.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import xarray as xr

from sigprop import sweeps
from tests.sweeps.toy_study import ToyStudy

GRID = {
    "flavour": ["sweet", "sour"],
    "x": np.linspace(0.0, 1.0, 30),
    "y": np.linspace(0.5, 3.0, 30),
}
OPTIONS = {"chunk_cells": 8, "progress": False}


class Logged(ToyStudy):
    """Writes a byte for every call, also of a process that is killed."""

    log = None

    def compute(self, static, cells):
        os.write(self.log, b".")
        return super().compute(static, cells)


def swept(store, log):
    Logged.log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    # So long that the kills come to an end before the sweep does, however fast the machine.
    sweeps.run(Logged(pause=0.05), GRID, store=store, **OPTIONS)


def killed_after(seconds, store, log):
    """Whether a fresh process was killed before it had finished."""
    child = os.fork()
    if not child:
        try:
            swept(store, log)
        finally:
            os._exit(0)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(0.0005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def check(store, whole):
    """What a reader sees is whole chunks, right, and nothing else; by any Zarr reader too."""
    if not store.exists():
        return 0
    with sweeps.open(store) as part, xr.open_zarr(store, chunks=None) as plain:
        done = plain["done"].load().values
        np.testing.assert_array_equal(part["done"], done)
        for name in ("path", "total"):
            right = whole[name].values
            there = done.reshape(done.shape + (1,) * (right.ndim - done.ndim))
            np.testing.assert_array_equal(part[name], np.where(there, right, np.nan))
            np.testing.assert_array_equal(
                np.where(there, plain[name], 0), np.where(there, right, 0)
            )
        return int(done.sum())


def main(store, kills, seed):
    store, log = Path(store), Path(store).with_suffix(".log")
    whole = sweeps.run(ToyStudy(), GRID, **OPTIONS)
    draw = random.Random(int(seed))
    happened, seen = 0, 0
    while happened < int(kills):
        slow = draw.random() < 0.8  # the others die while the store is laid out or opened
        if not killed_after(draw.uniform(0, 0.4 if slow else 0.03), store, log):
            break
        happened += 1
        now = check(store, whole)
        assert now >= seen, "what was there is there"
        seen = now
    swept(store, log)
    check(store, whole)
    final = sweeps.open(store)
    for name in whole.variables:
        np.testing.assert_array_equal(final[name], whole[name])
        assert final[name].dtype == whole[name].dtype
    left = sorted(p.name for p in store.parent.iterdir())
    chunks = len(list((store / "done").glob("[0-9]*")))
    told = {"computed": log.stat().st_size, "chunks": chunks, "kills": happened, "left": left}
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
