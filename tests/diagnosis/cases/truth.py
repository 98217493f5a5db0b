"""What is true of a model, by its gradient and by training it: nothing here knows the doctor.

Run as a program, it measures every case whose sources have changed and writes them down.
"""

import ast
import functools
import hashlib
import json
import math
import pathlib
import sys

import jax
import numpy as np

from tests.diagnosis import cases
from tests.diagnosis.cases.case import parts, trainer
from tests.diagnosis.cases.taps import gradients_at_taps

__all__ = ["digest", "judged_ratios", "kinds", "measured", "stored"]

FOLDER = pathlib.Path(__file__).parent
FILE = FOLDER / "truth.json"
SHARED = ("case.py", "taps.py", "truth.py")

FACTOR = 10.0
STEPS = 60
RATES = (1e-3, 1e-2)
OPENING = 1e-6  # a rate of Adam at which nothing moves but what is 0


def measured(case, model=None) -> dict:
    """Loss, gradient ratios at the start and opened, weights without gradient, 60 steps of Adam.

    A ratio is |∂loss/∂first| / |∂loss/∂last| of a path. In time it is that of the first step over
    the last but one, which as the first reaches the end through the state alone.
    """
    model = case.build() if model is None else model
    loss, batch = truth_loss(case), case.batch()
    after, read = trainer(model, loss, batch), _reader(model, loss, batch)
    start, opened = read(model), read(after(OPENING, 5))
    ends = [read(after(rate, STEPS))["loss"] for rate in RATES]
    found = {
        "loss": start["loss"],
        "ratios": start["ratios"],
        "opened": opened["ratios"],
        "finite": start["finite"],
        "without": start["without"],
        "without_opened": opened["without"],
        "after": min((end for end in ends if math.isfinite(end)), default=math.inf),
    }
    return _written(found)


def truth_loss(case):
    """Of a tree of arrays, the loss of the function made of it."""
    apply = dict(case.options).get("apply")
    if apply is None:
        return case.loss
    return lambda params, batch: case.loss(functools.partial(apply, params), batch)


def kinds(found: dict) -> set[str]:
    """The doctor's words that this allows."""
    if not (found["finite"] and math.isfinite(float(found["loss"]))):
        return {"nonfinite"}
    words = set()
    for ratio in map(float, judged_ratios(found).values()):
        if not math.isfinite(ratio) or ratio > FACTOR:
            words.add("exploding")
        elif ratio < 1 / FACTOR:
            words.add("vanishing")
    if found["without"] and found["without_opened"]:
        words.add("vanishing")
    return words or {"healthy"}


def judged_ratios(found: dict) -> dict:
    """Those at the start, or opened if factors were 0 and training opens them."""
    opens = len(found["without_opened"]) < len(found["without"])
    return found["opened" if opens else "ratios"]


def _reader(model, loss, batch):
    """Reads any model of this structure, by one program."""
    _, whole = parts(model)
    of_params = lambda params: loss(whole(params), batch)  # noqa: E731

    @jax.jit
    def slopes(params):
        return jax.value_and_grad(of_params)(params), gradients_at_taps(of_params, params)

    def read(model):
        (value, by_array), by_tap = slopes(parts(model)[0])
        flat = jax.tree_util.tree_flatten_with_path(by_array)[0]
        named = {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in flat}
        return {
            "loss": float(value),
            "finite": all(bool(np.isfinite(x).all()) for x in named.values()),
            "without": sorted(n for n, x in named.items() if x.ndim >= 2 and not np.any(x)),
            "ratios": _ratios(by_tap),
        }

    return read


def _ratios(by_tap: dict) -> dict[str, float]:
    ratios = {}
    for name, slope in sorted(by_tap.items()):
        path, what = name.split(":")
        if what == "steps":
            ratios[path] = _quotient(_norm(slope[:, 0]), _norm(slope[:, -2]))
        elif what == "first":
            ratios[path] = _quotient(_norm(slope), _norm(by_tap[f"{path}:last"]))
    return ratios


def _norm(array) -> float:
    array = np.abs(np.asarray(array)).astype(np.float64)
    return float(np.sqrt(np.sum(array**2)))


def _quotient(first: float, last: float) -> float:
    """0 / 0 is a path that carries nothing."""
    return 0.0 if first == 0 else float(np.divide(first, last))


# ---------------------------------------------------------------------------- what is kept


def _written(found):
    """As it is kept: four digits, numbers that are not finite as text."""
    if isinstance(found, dict):
        return {name: _written(value) for name, value in found.items()}
    if not isinstance(found, float):
        return found
    return float(f"{found:.4g}") if math.isfinite(found) else str(found)


def digest(name: str) -> str:
    """Of the sources that the truth of a case depends on."""
    module = pathlib.Path(cases.MODULE[name].__file__)
    sources = [FOLDER / shared for shared in SHARED] + sorted(_sources(module))
    return hashlib.sha256("".join(map(_code, sources)).encode()).hexdigest()[:16]


@functools.cache
def _code(path: pathlib.Path) -> str:
    """Whatever the layout and the comments."""
    return ast.dump(ast.parse(path.read_text()))


@functools.cache
def _sources(module: pathlib.Path) -> frozenset[pathlib.Path]:
    """A module of cases and those it takes models from."""
    found, text = {module}, module.read_text()
    for other in FOLDER.glob("*.py"):
        if other.name not in SHARED and f"cases.{other.stem} import" in text:
            found |= _sources(other)
    return frozenset(found)


def stored() -> dict[str, dict]:
    return json.loads(FILE.read_text()) if FILE.exists() else {}


def main(only: list[str]) -> None:
    """Measure what is stale (of the modules named, or all), and keep the table in its order."""
    table = stored()
    for name, case in cases.CASES.items():
        module = cases.MODULE[name].__name__.rpartition(".")[2]
        if table.get(name, {}).get("digest") != digest(name) and (not only or module in only):
            table[name] = {"digest": digest(name), **measured(case)}
            said = ", ".join(sorted(kinds(table[name])))
            print(f"{'  ' if said in case.verdicts else '! '}{name}: {said}", flush=True)
            FILE.write_text(json.dumps(table, indent=1) + "\n")
    kept = {name: table[name] for name in cases.CASES if name in table}
    FILE.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    main(sys.argv[1:])
