"""A JAX program read as one graph: what multiplies what, along which way, and what passes there."""

from sigprop.program.evaluation import Places, Steps, evaluate, places
from sigprop.program.flow import Flow, Origin, Site, flow_of
from sigprop.program.nodes import Atom, Graph, Node, Program, aval_of, graph_of, is_floating
from sigprop.program.sameness import same_program_key
from sigprop.program.trail import Trail, trail_of
from sigprop.program.watching import (
    Measured,
    Note,
    Pass,
    Size,
    gradients_of,
    log_mean_square,
    loss_of,
    measured,
    size,
)
from sigprop.program.ways import Line, Place, depth_loops, places_in_order, timelines

__all__ = [
    "Atom",
    "Flow",
    "Graph",
    "Line",
    "Measured",
    "Node",
    "Note",
    "Origin",
    "Pass",
    "Place",
    "Places",
    "Program",
    "Site",
    "Size",
    "Steps",
    "Trail",
    "aval_of",
    "depth_loops",
    "evaluate",
    "flow_of",
    "gradients_of",
    "graph_of",
    "is_floating",
    "log_mean_square",
    "loss_of",
    "measured",
    "places",
    "places_in_order",
    "same_program_key",
    "size",
    "timelines",
    "trail_of",
]
