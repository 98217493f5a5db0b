"""What the user sees of a sweep's course."""

import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sigprop import sweeps
from sigprop.sweeps import bars

ROOT = Path(__file__).parents[2]


class Clock:
    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(bars.time, "perf_counter", lambda: self.now)


def test_lines_say_rate_time_left_and_failures(monkeypatch, capfd):
    clock = Clock(monkeypatch)
    with bars.shown("a_toy", 8, 2, spent=4.0) as show:
        clock.now += 1
        show.chunk(10, 5.0, left=5, failed=0)  # five seconds, of which four before
        clock.now += 5
        show.chunk(0, 5.0, left=5, failed=1)
        clock.now += 20
        show.chunk(10, 20.0, left=4, failed=1)
        clock.now += 1
        show.chunk(10, 1.0, left=3, failed=1)
    assert capfd.readouterr().err.splitlines() == [
        "a toy: 3/8 chunks, 2 cells/s, 0:00:25 left",
        "a toy: 4/8 chunks, 0.667 cells/s, 0:00:40 left, 1 failed",
        "a toy: 5/8 chunks, 0.968 cells/s, 0:00:23 left, 1 failed",
    ]


def test_a_sweep_of_one_chunk_is_one_line(toy, capfd):
    grid = {**toy["GRID"], "flavour": ["sweet"]}
    sweeps.run(toy["ToyStudy"](pause=0.2), grid)
    (line,) = capfd.readouterr().err.splitlines()
    found = re.fullmatch(r"toy: 1/1 chunks, ([\d.]+) cells/s, 0:00:00 left", line)
    assert found
    assert float(found[1]) < 15 / 0.2, "the chunk was computed to find its size, and that counts"


def test_what_failed_once_is_tried_again_and_counted(toy, capfd, monkeypatch):
    monkeypatch.setattr(bars, "_SECONDS_A_LINE", 0.0)

    class Breaks(toy["ToyStudy"]):
        def compute(self, static, cells):
            found = super().compute(static, cells)
            if len(self.calls) == 3 or (static["flavour"] == "sour" and cells["x"][0] == 0.5):
                raise RuntimeError("no")
            return found

    with pytest.raises(sweeps.SweepIncompleteError):
        sweeps.run(Breaks(), toy["GRID"], chunk_cells=3)
    lines = capfd.readouterr().err.splitlines()
    failed = [int((re.findall(r"(\d) failed", line) or ["0"])[0]) for line in lines]
    assert failed == [0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1]
    assert lines[-1].startswith("toy: 9/10 chunks")
    assert "0:00:00 left" in lines[-1], "nothing is tried any more"


@pytest.mark.slow
def test_bars_on_a_terminal(tmp_path):
    """A real pseudo-terminal: bars for the sweep and the chunk, and the last state stays."""
    script = Path(__file__).with_name("toy_study.py")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "toy.zarr"), "0.4", "shown"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", "TERM": "xterm"},
        stderr=theirs,
    )
    os.close(theirs)
    seen, deadline = b"", time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            seen += os.read(ours, 4096)
        except OSError:  # the other side is closed
            break
    assert process.wait(timeout=60) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())
    assert re.search(r"toy +━+ 0/10 chunks", text)
    assert re.search(r"this chunk ━+ the first one compiles", text)
    assert re.search(r"this chunk ━+╺?━* the last took 0\.4 s", text)
    assert re.search(r"5/10 chunks, [67]\.\d+ cells/s, 0:00:02 left", text)
    assert re.search(r"10/10 chunks, [67]\.\d+ cells/s, 0:00:00 left\s*$", text)
