"""Run any study over any grid: chunks, engines, store, resume. No physics."""

from sigprop.sweeps.loop import SweepIncompleteError
from sigprop.sweeps.reading import open_store as open
from sigprop.sweeps.runner import run
from sigprop.sweeps.study import Study, Variable

__all__ = ["run", "open", "Study", "SweepIncompleteError", "Variable"]
