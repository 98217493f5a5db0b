"""Real kills: of the process, of workers, of the scheduler."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_fifty_kills_lose_only_what_was_in_hand(tmp_path):
    script = Path(__file__).with_name("killed_often.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "toy.zarr"), "50", "0"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["kills"] == 50, "the sweep must last long enough"
    # One chunk is being computed and one written, and the first is computed to find the size.
    assert told["computed"] <= told["chunks"] + 2 * told["kills"]
    assert told["left"] == ["toy.log", "toy.zarr"]
