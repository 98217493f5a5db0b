"""Run any study over any grid: chunks, engines, store, resume. No physics."""

from sigprop.sweeps.chunk_loop import SweepIncompleteError
from sigprop.sweeps.filling import filled
from sigprop.sweeps.multihost import join as join_hosts
from sigprop.sweeps.runner import run
from sigprop.sweeps.stored_datasets import open_store as open
from sigprop.sweeps.study import Study, Variable

__all__ = ["run", "open", "filled", "join_hosts", "Study", "SweepIncompleteError", "Variable"]
