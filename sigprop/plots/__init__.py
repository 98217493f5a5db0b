"""Dataset in, axes or figure out. No computation and no physics."""

from sigprop.plots.blocks import block_growth, block_growth_figure
from sigprop.plots.conditioning_maps import conditioning_map, conditioning_panel
from sigprop.plots.demonstrations_axes import basics
from sigprop.plots.depth_profiles import depth_profile
from sigprop.plots.diagnoses import diagnosis
from sigprop.plots.isometry_axes import isometry_training, isometry_training_figure
from sigprop.plots.jacobian_spectrum import spectrum, spectrum_figure, spectrum_growth
from sigprop.plots.kernel_conditions import kernel_condition, kernel_condition_figure
from sigprop.plots.phase_diagrams import phase_diagram, phase_diagram_figure
from sigprop.plots.product_spectra import log_spectra, log_spectra_figure
from sigprop.plots.remedy_tables import remedies, verdict_matrix
from sigprop.plots.stability_maps import stability_map, stability_panel
from sigprop.plots.trainability_maps import trainability, trainability_figure, trainable_depth

__all__ = [
    "basics",
    "conditioning_map",
    "conditioning_panel",
    "block_growth",
    "block_growth_figure",
    "depth_profile",
    "diagnosis",
    "isometry_training",
    "isometry_training_figure",
    "kernel_condition",
    "kernel_condition_figure",
    "log_spectra",
    "log_spectra_figure",
    "phase_diagram",
    "phase_diagram_figure",
    "remedies",
    "spectrum",
    "spectrum_figure",
    "spectrum_growth",
    "stability_map",
    "stability_panel",
    "trainability",
    "trainability_figure",
    "trainable_depth",
    "verdict_matrix",
]
