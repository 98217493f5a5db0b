"""Scripts started as a user starts them, or sooner: in a process that has JAX loaded already."""

import atexit
import functools
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import sigprop

ROOT = Path(sigprop.__file__).parents[1]
EXPERIMENTS = ROOT / "experiments"
SECONDS = 300  # that a script of these tests may take

# Reads (script, arguments, folder), answers (exit code, output, errors), a line of JSON each.
_SHARED = """
import contextlib, io, json, os, runpy, sys, traceback
for line in sys.stdin:
    script, arguments, folder = json.loads(line)
    sys.path[0] = os.path.dirname(script)
    os.chdir(folder)
    sys.argv = [script, *arguments]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as stop:
            code = stop.code or 0
        except BaseException:
            traceback.print_exc()
            code = 1
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""


def started(script, *arguments, cwd):
    """A process of its own, as from a shell."""
    return _process(str(EXPERIMENTS / f"{script}.py"), *arguments, cwd=cwd, stderr=subprocess.PIPE)


def run_afresh(script, *arguments, cwd):
    """Exit code, output and errors of a process of its own."""
    process = started(script, *arguments, cwd=cwd)
    out, err = process.communicate(timeout=SECONDS)
    return process.returncode, out, err


def run(script, *arguments, cwd):
    """Exit code, output and errors of the script, run in a process shared by a worker's tests.

    A tiny run of the blocks takes 11 s afresh, and 0.6 s where the same programs have run before.
    """
    process = _shared()
    request = [str(EXPERIMENTS / f"{script}.py"), list(map(str, arguments)), str(cwd)]
    limit = threading.Timer(SECONDS, process.kill)
    limit.start()
    process.stdin.write(json.dumps(request) + "\n")
    process.stdin.flush()
    answer = process.stdout.readline()
    limit.cancel()
    if not answer:
        _shared.cache_clear()  # the tests that follow get a new one
    assert answer, f"{script} {arguments} took longer than {SECONDS} s, or ended the process"
    return tuple(json.loads(answer))


def contents(folder):
    """Everything below, and when it was changed."""
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*")}


@functools.cache
def _shared():
    process = _process("-c", _SHARED, cwd=ROOT, stdin=subprocess.PIPE)
    atexit.register(process.communicate)  # closes its input, upon which it ends
    return process


def _process(*arguments, **options):
    environment = {
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "100",
        # As in pyproject.toml: a worker of the tests has not finished writing it.
        "PYTHONWARNINGS": "ignore:Error reading persistent compilation cache entry",
    }
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )
