"""Run any study over any grid: chunks, progress, store, resume. No physics."""

from sigprop.sweeps.runner import run
from sigprop.sweeps.store import open_store as open
from sigprop.sweeps.study import Study, Variable

__all__ = ["run", "open", "Study", "Variable"]
