"""A JAX program read as one graph: what multiplies what, along which way, and what passes there."""

from sigprop.program.evaluation import Places, evaluate, places, step_counts
from sigprop.program.flow import Flow, Origin, Site, flow_of
from sigprop.program.measuring import Measured, Pass, Size, log_mean_square, measured, size, widened
from sigprop.program.nodes import Atom, Graph, Node, Program, aval_of, graph_of, is_floating
from sigprop.program.sameness import same_program_key
from sigprop.program.trail import Trail, trail_of
from sigprop.program.ways import Line, Place, depth_loops, places_in_order, timelines

__all__ = [
    "Atom",
    "Flow",
    "Graph",
    "Line",
    "Measured",
    "Node",
    "Origin",
    "Pass",
    "Place",
    "Places",
    "Program",
    "Site",
    "Size",
    "Trail",
    "aval_of",
    "depth_loops",
    "evaluate",
    "flow_of",
    "graph_of",
    "is_floating",
    "log_mean_square",
    "measured",
    "places",
    "places_in_order",
    "same_program_key",
    "size",
    "step_counts",
    "timelines",
    "trail_of",
    "widened",
]
