"""E[f(x)] and E[f(u) g(v)] under Gaussians, right for kinked and for bounded functions too."""

from sigprop.gaussian.expectations import expectation, expectation_pair

__all__ = ["expectation", "expectation_pair"]
