"""Predicted spectra of Jacobians against those of actual networks, width 1000, in every phase.

Each network is an `MLP` whose first layer is square too and whose input is as large as the fixed
point wants, so J = D_L W_L ⋯ D_1 W_1 with one law of D in every layer. Compared is the law's
cumulative distribution at a few places in its bulk: the share of singular values below them.

Within one network eigenvalues repel, and a share varies by O(1/N) only; from network to network
all of them shift together, by O(1/√N), with the gains of its layers. Shares therefore vary much
in one direction and hardly in the others. Hotelling's T² weighs each direction by its own
sampling error, estimated from the seeds, and so sees a deviation of the shape as well as of the
scale. What finite width shifts, b/N to leading order, is measured on narrower networks
(b/125 - b/250) and taken out at width 1000, where it is about one standard error; its sampling
error counts. The law is rejected below p = 1e-4. `test_a_few_per_cent_would_be_seen` shows that a
theory or a measurement wrong by 4% in the gain σ_w² of a layer is.
"""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from sigprop import jacobian, theory
from sigprop.architecture import Architecture
from sigprop.networks import MLP
from tests.agreement.stored import NETWORKS, measured_once

BIAS_VAR = 0.05
WIDTH, NARROW = 1000, (125, 250)
SEEDS = {1000: 16, 250: 40, 125: 120}
SHARES = (0.2, 0.5, 0.8, 0.96)  # of the bulk below the places where it is looked at
REJECTED = 1e-4
# Mean of the Tracy-Widom law of real matrices (Tracy and Widom 1996; Bornemann 2010, Table 4).
TRACY_WIDOM_MEAN = -1.2065335745820


@dataclass(frozen=True)
class Case:
    """One law: which networks, how deep, where in the phase diagram."""

    activation: str
    ensemble: str
    depth: int
    weight_var: float

    def variance(self, scale: float = 1.0) -> float:
        """The one that layers keep, with σ_w² times ``scale``."""
        gain = scale * self.weight_var
        point = theory.fixed_point(self.activation, weight_var=gain, bias_var=BIAS_VAR)
        return float(point.variance)


CASES = {
    "tanh, ordered": Case("tanh", "gaussian", 2, weight_var=1.06),
    "tanh, chaotic": Case("tanh", "gaussian", 2, weight_var=2.82),
    "tanh, orthogonal, chaotic": Case("tanh", "orthogonal", 2, weight_var=2.82),
    "erf, critical": Case("erf", "gaussian", 5, weight_var=1.3758),
    "relu, ordered": Case("relu", "gaussian", 2, weight_var=1.2),
    "hard_tanh, orthogonal, critical": Case("hard_tanh", "orthogonal", 3, weight_var=1.1655),
}


@functools.partial(jax.jit, static_argnames=("activation", "ensemble", "depth", "width"))
def _jacobians(keys, weight_var, variance, activation, ensemble, depth, width):
    def one(key):
        for_input, for_network = jax.random.split(key)
        x = jax.random.normal(for_input, (width,))
        x = x * jnp.sqrt((variance - BIAS_VAR) / weight_var / jnp.mean(x * x))
        network = MLP(
            Architecture(depth, width, activation, weight_var, BIAS_VAR, initialiser=ensemble),
            width,
            rngs=for_network,
        )
        return jacobian.span_jacobians(network, x, "cumulative")[-1]

    return jax.lax.map(one, keys)


@measured_once(*NETWORKS, "jacobian")
def _squares(case: Case, width: int) -> np.ndarray:
    """λ of every seed's network, (seeds, width), to rounding of the largest."""
    keys = jax.random.fold_in(jax.random.key([*CASES.values()].index(case)), width)
    found = _jacobians(
        jax.random.split(keys, SEEDS[width]),
        jnp.float32(case.weight_var),
        jnp.float32(case.variance()),
        case.activation,
        case.ensemble,
        case.depth,
        width,
    )
    exact = np.asarray(found, np.float64)
    return np.linalg.eigvalsh(exact @ exact.mT).astype(np.float32)


@functools.cache
def _law(case: Case, scale: float = 1.0) -> theory.JacobianSpectrum:
    return theory.jacobian_spectrum(
        case.activation,
        depth=case.depth,
        weight_var=scale * case.weight_var,
        variance=case.variance(scale),
        ensemble=case.ensemble,
    )


@functools.cache
def _bulk(case: Case, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Points log λ across the bulk, and its mass below each; what lies further down is in all."""
    law = _law(case, scale)
    low, high = law.log_bulk_edges
    half = (high - max(low, high - 14 * law.depth)) / 2
    t = np.linspace(0, np.pi, 161)
    at = high - half * (1 + np.cos(t))
    density = law.density_of_log(at) * half * np.sin(t)
    steps = np.diff(t) * (density[1:] + density[:-1]) / 2
    total = 1 - sum(law.atoms.values())
    return at, total - np.cumsum(np.append(steps, 0.0)[::-1])[::-1]


def _places(case: Case) -> np.ndarray:
    """log λ with the shares of the bulk below them."""
    at, below = _bulk(case, 1.0)
    return np.interp(below[-1] * np.asarray(SHARES), below, at)


def _predicted(case: Case, scale: float) -> np.ndarray:
    """Share of all λ below each place, atoms included, for a theory with σ_w² times ``scale``."""
    places = _places(case)
    atoms = _law(case, scale).log_atoms.items()
    under = [sum(mass for at, mass in atoms if at < place) for place in places]
    return np.interp(places, *_bulk(case, scale)) + under


def _measured(case: Case, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """The same of networks whose layers' squared gains are off by ``scale``, and its covariance."""
    mean, covariance = {}, {}
    for width in SEEDS:
        squares = scale**case.depth * _squares(case, width)
        shares = (squares[..., None] < np.exp(_places(case))).mean(1)
        mean[width], covariance[width] = shares.mean(0), np.cov(shares.T) / len(shares)
    return _without_width(mean, covariance)


def _without_width(mean: dict, covariance: dict):
    """What is left at WIDTH without the share that falls like 1/N, and its (co)variance."""
    half, whole = NARROW
    part = 1 / (WIDTH / half - WIDTH / whole)  # b/1000 from b/125 - b/250
    shift = part * (mean[half] - mean[whole])
    spread = part**2 * (covariance[half] + covariance[whole])
    return mean[WIDTH] - shift, covariance[WIDTH] + spread


def _probability(case: Case, theory_scale: float = 1.0, measured_scale: float = 1.0) -> float:
    """P of a T² as large as found if the law holds (Hotelling 1931)."""
    measured, covariance = _measured(case, measured_scale)
    deviation = measured - _predicted(case, theory_scale)
    size = deviation @ np.linalg.solve(covariance, deviation)
    places, left = len(SHARES), SEEDS[WIDTH] - len(SHARES)
    return float(stats.f.sf(size * left / (places * (left + places - 1)), places, left))


@pytest.mark.parametrize("name", CASES)
def test_cases_are_of_the_phases_they_are_named_for(name):
    case = CASES[name]
    law = _law(case)
    phase = name.split(", ")[-1]
    expected = {"ordered": law.log_mean < -0.1, "chaotic": law.log_mean > 0.1}
    assert expected.get(phase, abs(law.log_mean) < 1e-3)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_spectra_of_width_1000_lie_on_the_predicted_law(case):
    measured, covariance = _measured(case, 1.0)
    deviations = (measured - _predicted(case, 1.0)) / np.sqrt(np.diag(covariance))
    assert np.abs(deviations).max() < 4.5, deviations
    assert _probability(case) > REJECTED


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_few_per_cent_would_be_seen(case):
    for scale in (1.04, 0.96):
        assert _probability(case, theory_scale=scale) < REJECTED
        assert _probability(case, measured_scale=scale) < REJECTED


# ------------------------------------------------------------------------ finite width


@pytest.mark.parametrize("name", [name for name in CASES if "hard_tanh" not in name])
def test_the_largest_singular_value_stays_below_the_edge_as_random_matrices_do(name):
    """By TW/(A N)^(2/3) in log λ, where the density of log λ is A √(edge - log λ)/π at its edge.

    What is left falls like 1/N. No hard_tanh: its spectrum ends in an atom.
    """
    case, near = CASES[name], 1e-5
    law = _law(case)
    edge = law.log_max_squared
    steepness = np.pi * float(law.density_of_log(edge - near)) / np.sqrt(near)
    below, error, left = {}, {}, {}
    for width in SEEDS:
        largest = np.log(_squares(case, width).max(1))
        error[width] = largest.std(ddof=1) / np.sqrt(len(largest))
        below[width] = largest.mean() - edge
        left[width] = below[width] - TRACY_WIDOM_MEAN / (steepness * width) ** (2 / 3)
    rest, own_error = _without_width(left, {width: e**2 for width, e in error.items()})
    assert abs(rest) < 4 * np.sqrt(own_error), (left, error)
    assert below[NARROW[0]] < -5 * error[NARROW[0]]  # so the correction is one that can be seen


@pytest.mark.parametrize("width", [32, 64, 128])
def test_zeros_of_relu_networks_near_their_atom_as_the_root_of_the_width(width):
    """The rank is that of the layer that blocks most: the least of L numbers of live units.

    Each is binomial (z is symmetric, whatever the layers before), so E[max_l dead_l]/N exceeds the
    atom's 1/2 by a known number that falls like 1/√N.
    """
    depth, seeds = 3, 60
    network = Architecture(depth, width, "relu", 2.0, BIAS_VAR)

    @jax.jit
    def factors(key):
        x = jax.random.normal(jax.random.fold_in(key, depth + 1), (width,))
        return jacobian.layer_jacobians(MLP(network, width, rngs=key), x)

    keys = jax.random.split(jax.random.key(width), seeds)
    ranks = [jacobian.log_product(np.asarray(factors(key), np.float64)).rank for key in keys]
    share = 1 - np.asarray(ranks) / width
    none_above = stats.binom.cdf(np.arange(width), width, 0.5) ** depth  # P(max_l dead_l <= k)
    expected = 1 - none_above.sum() / width
    law = theory.jacobian_spectrum("relu", depth=depth, weight_var=2.0, variance=1.0)
    normal_order = 3 / (2 * np.sqrt(np.pi))  # mean of the largest of three normal variables
    assert expected == pytest.approx(law.atoms[0.0] + normal_order / (2 * np.sqrt(width)), rel=1e-3)
    error = share.std(ddof=1) / np.sqrt(seeds)
    assert abs(share.mean() - expected) < 4 * error
    assert expected - law.atoms[0.0] > 4 * error  # without the correction this would fail
