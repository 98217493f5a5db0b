"""The lines of a phase diagram: each point a critical point, the edge where statuses change."""

import numpy as np
import pytest

from sigprop import theory

NAMES = ["tanh", "gelu", "silu", "selu", "sigmoid", "sin", "relu"]


@pytest.mark.parametrize("bias_var", [0.0025, 0.05, 0.3])
@pytest.mark.parametrize("name", NAMES)
def test_the_line_passes_every_critical_point_and_no_other(name, bias_var):
    line = theory.critical_line(name)
    off = line.bias_var - bias_var
    steps = np.flatnonzero(np.sign(off[1:]) * np.sign(off[:-1]) < 0)
    share = off[steps] / (off[steps] - off[steps + 1])
    crossings = line.weight_var[steps] * (1 - share) + line.weight_var[steps + 1] * share
    points = theory.critical_points(name, bias_var=bias_var)
    if not points:  # relu: critical as the variance grows without bound
        points = [theory.critical_weight_var(name, bias_var=bias_var)]
    np.testing.assert_allclose(np.sort(crossings), [p.weight_var for p in points], rtol=2e-3)


@pytest.mark.parametrize("name", ["tanh", "gelu", "mish"])
def test_the_line_is_solid_where_networks_flow_to_it(name):
    line = theory.critical_line(name)
    for i in np.flatnonzero((line.bias_var > 1e-3) & (line.bias_var < 1.0))[::20]:
        at = {"weight_var": line.weight_var[i], "bias_var": line.bias_var[i]}
        start = at["weight_var"] + at["bias_var"]
        found = theory.fixed_point(name, **at, variance0=start)
        stays = abs(float(found.variance) / line.variance[i] - 1) < 1e-4
        assert stays == (line.status[i] == theory.CriticalStatus.STABLE), at


@pytest.mark.parametrize("name", ["gelu", "silu", "selu", "relu", "softplus"])
@pytest.mark.parametrize("second_moment", [1.0, 4.0])
def test_networks_are_bounded_up_to_the_edge(name, second_moment):
    bias_var = np.asarray([0.0, 0.05, 0.4])
    edge = theory.bounded_weight_var(name, bias_var=bias_var, second_moment=second_moment)
    for side, unbounded in ((1 - 1e-4, False), (1 + 1e-4, True)):
        at = {"weight_var": edge * side, "bias_var": bias_var}
        start = theory.input_variance(second_moment, **at)
        status = theory.fixed_point(name, **at, variance0=start).variance_status
        assert (np.equal(status, theory.VarianceStatus.UNBOUNDED) == unbounded).all()


def test_known_lines():
    """tanh begins at (1, 0); relu's is 2 at any bias; bounded functions have no edge."""
    tanh = theory.critical_line("tanh")
    np.testing.assert_allclose([tanh.weight_var[0], tanh.bias_var[0]], [1.0, 0.0], atol=1e-7)
    assert (theory.critical_line("relu").weight_var == 2.0).all()
    assert np.isinf(theory.bounded_weight_var("tanh", bias_var=[0.0, 1.0])).all()
    assert np.isnan(theory.critical_line(lambda x: x**2 / (1 + x**2)).weight_var).sum() < 641


def test_a_line_that_starts_at_a_finite_variance_meets_zero_bias_exactly():
    line = theory.critical_line("selu")
    for point in theory.critical_points("selu", bias_var=0.0):
        if point.variance > 0:
            assert np.min(abs(line.weight_var - point.weight_var)) < 1e-9
