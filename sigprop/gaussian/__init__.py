"""E[f(x)] and E[f(u) g(v)] under Gaussians, right for kinked and for bounded functions too."""

from sigprop.gaussian.expectations import expectation, expectation_pair
from sigprop.gaussian.unresolved import UnresolvedWarning

__all__ = ["UnresolvedWarning", "expectation", "expectation_pair"]
