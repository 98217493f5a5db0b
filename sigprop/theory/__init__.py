"""Infinite width: what mean-field theory predicts. No network, no random key."""

from sigprop.gaussian.unresolved import UnresolvedWarning
from sigprop.theory.all_fixed_points import fixed_points
from sigprop.theory.batch_norm_growth import batch_norm_rate
from sigprop.theory.critical import CriticalPoint, critical_points, critical_weight_var
from sigprop.theory.critical_lines import (
    LINE_POINTS,
    CriticalLine,
    bounded_weight_var,
    critical_line,
)
from sigprop.theory.equilibrium import FixedPoint, fixed_point
from sigprop.theory.finite_width import LogGradientVariance, log_gradient_variance
from sigprop.theory.growth_laws import GrowthKind, GrowthLaw, growth_law
from sigprop.theory.kernel_condition_number import KernelConditioning, kernel_conditioning
from sigprop.theory.kernel_recursion import Kernels, kernels
from sigprop.theory.lyapunov import lyapunov_exponents
from sigprop.theory.maps import (
    chi,
    correlation_map,
    input_correlation,
    input_variance,
    variance_map,
    variance_slope,
)
from sigprop.theory.spectrum_law import JacobianSpectrum, jacobian_spectrum
from sigprop.theory.statuses import (
    CorrelationStatus,
    CriticalStatus,
    Phase,
    TheoryStatus,
    VarianceStatus,
)
from sigprop.theory.trajectories import Trajectory, predict, propagate

__all__ = [
    "LINE_POINTS",
    "CorrelationStatus",
    "CriticalLine",
    "CriticalPoint",
    "CriticalStatus",
    "FixedPoint",
    "GrowthKind",
    "GrowthLaw",
    "JacobianSpectrum",
    "LogGradientVariance",
    "KernelConditioning",
    "Kernels",
    "Phase",
    "TheoryStatus",
    "Trajectory",
    "UnresolvedWarning",
    "VarianceStatus",
    "batch_norm_rate",
    "bounded_weight_var",
    "chi",
    "correlation_map",
    "critical_line",
    "critical_points",
    "critical_weight_var",
    "fixed_point",
    "fixed_points",
    "growth_law",
    "input_correlation",
    "input_variance",
    "jacobian_spectrum",
    "kernel_conditioning",
    "kernels",
    "log_gradient_variance",
    "lyapunov_exponents",
    "predict",
    "propagate",
    "variance_map",
    "variance_slope",
]
