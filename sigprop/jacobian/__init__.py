"""Singular-value spectra of Jacobians: of any JAX function, of layers and spans, at any depth.

Nothing here needs a sigprop network.
"""

from sigprop._blas_threads import one_blas_thread
from sigprop.jacobian.extremes import (
    ExtremeSingularValues,
    ExtremeStatus,
    extreme_singular_values,
)
from sigprop.jacobian.lanczos_density import SpectralDensity, spectral_density
from sigprop.jacobian.layered import Dense, Layers, Scanned
from sigprop.jacobian.networks import hidden_layers
from sigprop.jacobian.partial_norms import log_partial_norms
from sigprop.jacobian.products import (
    LogProduct,
    ProductStatus,
    cumulative_log_singular_values,
    log_product,
    log_singular_values,
    lyapunov_exponents,
)
from sigprop.jacobian.spans import (
    layer_jacobians,
    log_spectra,
    span_jacobians,
    spectra,
)
from sigprop.jacobian.trace_moments import Moments, moments
from sigprop.jacobian.whole_jacobian import jacobian_matrix, singular_values

__all__ = [
    "Dense",
    "ExtremeSingularValues",
    "ExtremeStatus",
    "Layers",
    "LogProduct",
    "Moments",
    "ProductStatus",
    "Scanned",
    "SpectralDensity",
    "cumulative_log_singular_values",
    "extreme_singular_values",
    "hidden_layers",
    "jacobian_matrix",
    "layer_jacobians",
    "log_partial_norms",
    "log_product",
    "log_singular_values",
    "log_spectra",
    "lyapunov_exponents",
    "moments",
    "one_blas_thread",
    "singular_values",
    "span_jacobians",
    "spectra",
    "spectral_density",
]
