"""Dataset in, axes or figure out. No computation and no physics."""

from sigprop.plots.depth_profile import depth_profile
from sigprop.plots.phase_diagram import phase_diagram, phase_diagram_figure
from sigprop.plots.stability_map import stability_map, stability_panel

__all__ = [
    "depth_profile",
    "phase_diagram",
    "phase_diagram_figure",
    "stability_map",
    "stability_panel",
]
