"""The law of squared singular values of the Jacobian, against independent answers."""

import itertools
import json
import math
from pathlib import Path

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sigprop import activations, theory
from tests.reference import independent

REFERENCE = json.loads(
    (Path(__file__).parents[1] / "reference" / "spectra.json").read_text(encoding="utf-8")
)
ENSEMBLES = ("gaussian", "orthogonal")
BY_REFERENCE = [
    (name, ensemble) for name in REFERENCE["moments_and_edges"] for ensemble in ENSEMBLES
]


def spectrum(activation, depth, ensemble, weight_var=1.5, variance=0.7):
    return theory.jacobian_spectrum(
        activation, depth=depth, weight_var=weight_var, variance=variance, ensemble=ensemble
    )


# ---------------------------------------------------------------------------- references


@pytest.mark.parametrize(("name", "ensemble"), BY_REFERENCE)
def test_reference_moments_and_edges(name, ensemble):
    case = REFERENCE["moments_and_edges"][name]
    gain = float(case["weight_var"])
    for depth, moments in case[ensemble]["moments"].items():
        law = spectrum(name, int(depth), ensemble, weight_var=gain)
        expected = [float(m) for m in moments]
        found = [law.moment(k) for k in range(1, len(expected) + 1)]
        np.testing.assert_allclose(found, expected, rtol=1e-13)
    for depth, variance in case[ensemble]["variance"].items():
        law = spectrum(name, int(depth), ensemble, weight_var=gain)
        np.testing.assert_allclose(law.variance_of_squares, float(variance), rtol=1e-13, atol=1e-13)
    for depth, largest in case[ensemble]["max_squared"].items():
        law = spectrum(name, int(depth), ensemble, weight_var=gain)
        np.testing.assert_allclose(law.max_squared, float(largest), rtol=1e-12)


@pytest.mark.parametrize("depth", REFERENCE["density"])
def test_reference_density(depth):
    case = REFERENCE["density"][depth]
    law = spectrum("linear", int(depth), "gaussian", weight_var=1.0)
    np.testing.assert_allclose(law.density(case["lam"]), case["rho"], rtol=1e-11)
    np.testing.assert_allclose(law.bulk_edges, (0.0, float(case["lambda_max"])), rtol=1e-12)


@pytest.mark.parametrize("depth", [1, 2, 5, 100, 1000])
def test_fuss_catalan(depth):
    law = spectrum("linear", depth, "gaussian", weight_var=1.0)
    for k in range(1, 9):
        exact = math.comb(k * (depth + 1), k) / (depth * k + 1)
        assert law.moment(k) == pytest.approx(exact, rel=1e-12)
    log_edge = (depth + 1) * math.log(depth + 1) - depth * math.log(depth)
    assert law.log_max_squared == pytest.approx(log_edge, rel=1e-13)


def _free_cumulants(moments):
    """By M(x) = C(x M(x)) for M = 1 + Σ m_k x^k, C = 1 + Σ κ_k x^k (Speicher 1994)."""
    order = len(moments)
    series = [mpmath.mpf(1), *moments]
    powers, cumulants = [[mpmath.mpf(1)] + [mpmath.mpf(0)] * order], []
    for _ in range(order):
        last = powers[-1]
        powers.append(
            [sum(last[i] * series[n - i] for i in range(n + 1)) for n in range(order + 1)]
        )
    for k in range(1, order + 1):
        known = sum(cumulants[j - 1] * powers[j][k - j] for j in range(1, k))
        cumulants.append(moments[k - 1] - known)
    return cumulants


def _noncrossing(n):
    """Noncrossing partitions of range(n)."""

    def of(points):
        if not points:
            yield []
            return
        first, rest = points[0], points[1:]
        for mask in range(2 ** len(rest)):
            block = [first, *(p for i, p in enumerate(rest) if mask >> i & 1)]
            gaps = [[p for p in points if a < p < b] for a, b in zip(block, [*block[1:], math.inf])]
            partial = [[block]]
            for gap in gaps:
                partial = [done + more for done in partial for more in of(gap)]
            yield from partial

    return list(of(list(range(n))))


def _complement(blocks, n):
    """Kreweras complement: cycles of π⁻¹ composed with i -> i + 1."""
    follow = {b[i]: b[(i + 1) % len(b)] for b in blocks for i in range(len(b))}
    back = {v: k for k, v in follow.items()}
    step = {i: back[(i + 1) % n] for i in range(n)}
    seen, cycles = set(), []
    for start in range(n):
        cycle = []
        while start not in seen:
            seen.add(start)
            cycle.append(start)
            start = step[start]
        if cycle:
            cycles.append(cycle)
    return cycles


def _free_product(first, second):
    """Moments of the free product: Σ over noncrossing π of κ_π[first] m_complement[second]."""
    kappa = _free_cumulants(first)
    return [
        mpmath.fsum(
            mpmath.fprod(kappa[len(b) - 1] for b in blocks)
            * mpmath.fprod(second[len(c) - 1] for c in _complement(blocks, n))
            for blocks in _noncrossing(n)
        )
        for n in range(1, len(first) + 1)
    ]


SLOPES = {
    "tanh": (lambda x: mpmath.sech(x) ** 2, ()),
    "erf": (lambda x: 2 / mpmath.sqrt(mpmath.pi) * mpmath.exp(-x * x), ()),
    "gelu": (lambda x: mpmath.ncdf(x) + x * mpmath.npdf(x), ()),
    "elu": (lambda x: mpmath.exp(x) if x < 0 else mpmath.mpf(1), (0.0,)),
    "hard_tanh": (lambda x: mpmath.mpf(abs(x) < 1), (-1.0, 1.0)),
    "softsign": (lambda x: 1 / (1 + abs(x)) ** 2, (0.0,)),
}
ORDERS = 4


def _slope_moments(name, variance, orders=ORDERS):
    slope, kinks = SLOPES[name]
    deviation = mpmath.sqrt(variance)
    bends = [s * k / deviation for k in (0.5, 1, 2, 4, 8) for s in (-1, 1)]
    inner = [x for x in (*bends, *(k / deviation for k in kinks)) if abs(x) < 12]
    points = sorted({mpmath.mpf(x) for x in (*range(-12, 13, 2), *inner)})
    return [
        mpmath.quad(lambda z, j=j: slope(deviation * z) ** (2 * j) * mpmath.npdf(z), points)
        for j in range(1, orders + 1)
    ]


@pytest.mark.parametrize("name", SLOPES)
@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_moments_by_noncrossing_partitions(name, ensemble):
    """Two layers of different variances, by the combinatorics of free probability."""
    variances = np.asarray([0.6, 9.0])
    with mpmath.workdps(22):
        wishart = [mpmath.binomial(2 * k, k) / (k + 1) for k in range(1, ORDERS + 1)]
        total = None
        for variance in variances:
            layer = _slope_moments(name, variance)
            layer = _free_product(layer, wishart) if ensemble == "gaussian" else layer
            total = layer if total is None else _free_product(total, layer)
    law = spectrum(name, 2, ensemble, weight_var=1.3, variance=variances)
    for k, expected in enumerate(total, 1):
        assert law.moment(k) == pytest.approx(float(expected * 1.3 ** (2 * k)), rel=1e-11)


@pytest.mark.parametrize("variance", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("name", ["tanh", "gelu", "hard_tanh", "softsign"])
def test_moments_at_depth_1000(name, variance):
    """Against the series of moments of φ'² integrated in 25 digits."""
    with mpmath.workdps(25):
        layer = _slope_moments(name, variance, 3)
        # E[λ²]/E[λ]² and E[λ³]/E[λ]³ of L free copies of DW, in closed form by the S-transform.
        m2, m3 = layer[1] / layer[0] ** 2, layer[2] / layer[0] ** 3
        for ensemble, g in (("gaussian", 1), ("orthogonal", 0)):
            # log of y ζ/(E[d] (1 + y)) (1 + y)^g = a y + b y² + ...
            a = m2 - 1 + g
            b = (m3 - m2**2) - m2**2 / 2 + mpmath.mpf(1 - g) / 2
            first, second = 1 + 1000 * a, -mpmath.mpf(1) / 2 + 1000 * b
            expected = [first, second + mpmath.mpf(3) / 2 * first**2]
            law = spectrum(name, 1000, ensemble, weight_var=1.0, variance=variance)
            for k, ratio in zip((2, 3), expected):
                found = law.log_moment(k) - k * law.log_mean
                assert found == pytest.approx(float(mpmath.log(ratio)), rel=1e-11, abs=1e-11)


@pytest.mark.parametrize("variance", [1e-3, 0.03, 1.0, 30.0, 1e3])
@pytest.mark.parametrize("name", independent.TABLE)
def test_moments_of_every_activation(name, variance):
    """First three, at depth 1 and 1000, from a quadrature of φ' that sigprop has no part in."""
    phi = independent.TABLE[name]
    z, weights = independent.composite_rule(variance, phi.kinks, panels=1800)
    squares = phi.derivative(np.sqrt(variance) * z) ** 2
    mean = float(weights @ squares)
    second, third = (float(weights @ (squares / mean - 1) ** k) for k in (2, 3))
    for depth, (ensemble, g) in itertools.product((1, 1000), (("gaussian", 1), ("orthogonal", 0))):
        law = spectrum(name, depth, ensemble, weight_var=1.3, variance=variance)
        # As in the test above, by central moments: they keep their digits near isometry.
        spread = depth * (second + g)
        cube = depth * (third - 1.5 * second**2 - g / 2) - 0.5 + 1.5 * (1 + spread) ** 2
        assert law.log_mean == pytest.approx(depth * math.log(1.3 * mean), rel=1e-12, abs=1e-11)
        assert law.relative_variance == pytest.approx(spread, rel=1e-11, abs=1e-13)
        for order, ratio in ((2, 1 + spread), (3, cube)):
            found = law.log_moment(order) - order * law.log_mean
            assert found == pytest.approx(math.log(ratio), rel=1e-11, abs=1e-11)


# ---------------------------------------------------------------------------- closed forms


def test_relu_gaussian_single_layer_is_marchenko_pastur():
    """D W with half the rows of W kept: aspect ratio 1/2, edges σ_w² (1 ± √(1/2))²."""
    law = spectrum("relu", 1, "gaussian", weight_var=2.0)
    low, high = (2 * (1 - math.sqrt(0.5)) ** 2, 2 * (1 + math.sqrt(0.5)) ** 2)
    np.testing.assert_allclose(law.bulk_edges, (low, high), rtol=1e-10)
    at = np.linspace(low + 0.01, high - 0.01, 9)
    exact = np.sqrt((at - low) * (high - at)) / (4 * np.pi * at)
    np.testing.assert_allclose(law.density(at), exact, rtol=1e-11)
    assert law.atoms == {0.0: 0.5}
    assert law.min_squared == 0.0


def test_relu_orthogonal_two_layers_is_the_arcsine_law():
    """Two free projections of half rank: λ = σ_w⁴ cos²θ with θ uniform."""
    law = spectrum("relu", 2, "orthogonal", weight_var=1.0)
    at = np.asarray([1e-6, 0.1, 0.5, 0.9, 0.999])
    np.testing.assert_allclose(law.density(at), 0.5 / (np.pi * np.sqrt(at * (1 - at))), rtol=1e-11)


def test_hard_tanh_atom_at_the_top_leaves_when_depth_is_over():
    share = math.erf(1 / math.sqrt(2 * 0.7))
    for depth in range(1, 9):
        law = spectrum("hard_tanh", depth, "orthogonal")
        top = 1 - depth * (1 - share)
        assert law.atoms.get(law.max_squared, 0.0) == pytest.approx(max(top, 0.0), abs=1e-13)
        assert law.atoms[0.0] == pytest.approx(1 - share, rel=1e-13)
    assert spectrum("hard_tanh", 3, "gaussian").atoms == {0.0: pytest.approx(1 - share)}


def test_two_free_projections():
    """hard_tanh, two orthogonal layers: the bulk ends at σ_w⁴ 4 p (1 - p), below the atom."""
    share = math.erf(1 / math.sqrt(2 * 0.7))
    law = spectrum("hard_tanh", 2, "orthogonal", weight_var=1.0)
    np.testing.assert_allclose(law.bulk_edges, (0.0, 4 * share * (1 - share)), rtol=1e-10)
    assert law.max_squared == pytest.approx(1.0, rel=1e-13)


def test_a_single_orthogonal_layer_is_the_law_of_its_slopes():
    law = spectrum("tanh", 1, "orthogonal", weight_var=2.0, variance=1.7)
    # λ = 2 sech⁴(√1.7 |z|), so ρ = 2 N(z)/|dλ/dz|.
    z = np.asarray([0.05, 0.3, 1.0, 2.5, 4.0])
    x = np.sqrt(1.7) * z
    at = 2 / np.cosh(x) ** 4
    steepness = 4 * np.sqrt(1.7) * at * np.tanh(x)
    exact = 2 * np.exp(-z * z / 2) / np.sqrt(2 * np.pi) / steepness
    np.testing.assert_allclose(law.density(at), exact, rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "atoms"),
    [
        ("linear", {1.5: 1.0}),
        ("relu", {0.0: 0.5, 1.5: 0.5}),
        ("leaky_relu(0.2)", {1.5: 0.5, 1.5 * 0.2**2: 0.5}),
        ("elu", {1.5: 0.5}),
        ("selu", {1.5 * 1.0507009873554805**2: 0.5}),
        ("tanh", {}),
    ],
)
def test_atoms_of_one_orthogonal_layer(name, atoms):
    found = spectrum(name, 1, "orthogonal").atoms
    assert sorted(found) == pytest.approx(sorted(atoms), rel=1e-13)
    assert [found[k] for k in sorted(found)] == pytest.approx([atoms[k] for k in sorted(atoms)])


def test_linear_orthogonal_is_one_atom_and_no_bulk():
    law = spectrum("linear", 40, "orthogonal", weight_var=1.1)
    ((at, mass),) = law.atoms.items()
    assert (at, mass) == (pytest.approx(1.1**40), 1.0)
    assert np.isnan(law.bulk_edges).all()
    assert not law.density([0.5, 1.1**40, 80.0]).any()
    assert law.max_squared == law.min_squared == pytest.approx(1.1**40)
    assert law.variance_of_squares == 0.0


def test_atom_at_zero_is_that_of_the_layer_that_blocks_most():
    variances = np.asarray([0.3, 2.0, 0.9])
    law = spectrum("hard_tanh", 3, "gaussian", variance=variances)
    assert law.atoms == {0.0: pytest.approx(math.erfc(1 / math.sqrt(2 * 2.0)), rel=1e-13)}
    assert law.bulk_edges[0] > 0  # one layer alone is narrowest: no singular value nears 0


def test_orthogonal_slopes_bounded_below_bound_the_spectrum():
    """1/λ has the law of the inverse slopes: min = 1/max of the leaky relu upside down."""
    law = spectrum("leaky_relu(0.5)", 3, "orthogonal", weight_var=1.0)
    # Slopes 1 and 1/2, half each: symmetric under d -> 1/(4 d), so min · max = (1/4)³.
    assert law.min_squared * law.max_squared == pytest.approx(0.25**3, rel=1e-11)
    assert 0.25**3 < law.min_squared < law.max_squared < 1


# ---------------------------------------------------------------------------- the physical root


def _integrals(law):
    """Mass and first two moments (relative to the mean) of the density, by quadrature in √."""
    low, high = law.log_bulk_edges
    nodes, weights = np.polynomial.legendre.leggauss(16)
    if np.isfinite(low):
        ends = np.linspace(0, np.pi, 17)
    else:
        ends = np.sqrt(50 * (law.depth + 2)) * np.linspace(0, 1, 57) ** 2
    half = np.diff(ends)[:, None] / 2
    t = (ends[:-1, None] + half * (1 + nodes)).ravel()
    share = (half * weights).ravel()
    if np.isfinite(low):
        at, share = (
            (low + high + (high - low) * np.cos(t)) / 2,
            share * (high - low) / 2 * np.sin(t),
        )
    else:
        at, share = high - t * t, share * 2 * t
    density = law.density_of_log(at) * share
    relative = at - law.log_mean
    return [float(np.sum(density * np.exp(k * relative))) for k in (0, 1, 2)]


MASS = [
    *[(name, "gaussian", depth) for name in ("tanh", "relu") for depth in (1, 2, 8, 1000)],
    *[("hard_tanh", ensemble, depth) for ensemble in ENSEMBLES for depth in (2, 8, 64, 1000)],
    *[("tanh", "orthogonal", depth) for depth in (2, 3, 8)],
    ("leaky_relu(0.3)", "orthogonal", 8),
    ("gelu", "gaussian", 1),
    ("gelu", "gaussian", 8),
    ("relu", "orthogonal", 1000),
    ("selu", "gaussian", 2),
    ("softsign", "gaussian", 8),
    ("linear", "gaussian", 64),
]


@pytest.mark.parametrize(("name", "ensemble", "depth"), MASS)
def test_the_density_holds_the_mass_and_the_moments(name, ensemble, depth):
    """A root on another branch would miss them; the moments come from the series instead."""
    law = spectrum(name, depth, ensemble)
    atoms = [
        sum(mass * math.exp(k * (at - law.log_mean)) for at, mass in law.log_atoms.items())
        if k
        else sum(law.log_atoms.values())
        for k in (0, 1, 2)
    ]
    mass, mean, square = np.add(_integrals(law), atoms)
    # Below e^-50 a layer the tail is cut off, which only the mass can see.
    assert mass == pytest.approx(1, abs=1e-8)
    assert mean == pytest.approx(1, abs=1e-9)
    assert square == pytest.approx(1 + law.relative_variance, rel=1e-9)


def test_layers_of_different_variance():
    law = spectrum("tanh", 4, "orthogonal", variance=np.asarray([0.3, 2.0, 0.9, 0.3]))
    mass, mean, square = _integrals(law)
    assert mass == pytest.approx(1, abs=1e-8)
    assert mean == pytest.approx(1, abs=1e-9)
    assert square == pytest.approx(1 + law.relative_variance, rel=1e-9)


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_density_vanishes_outside_and_as_a_root_at_the_edge(ensemble):
    law = spectrum("tanh", 3, ensemble)
    top = law.max_squared
    assert not law.density(top * np.asarray([1.0001, 1.5, 1e6])).any()
    near = law.density(top * (1 - np.asarray([1e-6, 4e-6])))
    assert near[1] / near[0] == pytest.approx(2, rel=1e-4)


# ---------------------------------------------------------------------------- properties

depths = st.integers(1, 30)
gains = st.floats(0.1, 10)
names = st.sampled_from(["tanh", "relu", "hard_tanh", "gelu", "elu", "sigmoid", "sin"])


@settings(max_examples=12)
@given(names, depths, gains, st.sampled_from(ENSEMBLES))
def test_weight_variance_scales_squares(name, depth, gain, ensemble):
    one, other = (spectrum(name, depth, ensemble, weight_var=w) for w in (1.0, gain))
    shift = depth * math.log(gain)
    assert other.log_mean - one.log_mean == pytest.approx(shift, rel=1e-12, abs=1e-12)
    assert other.log_max_squared - one.log_max_squared == pytest.approx(shift, rel=1e-9, abs=1e-9)
    assert other.log_moment(3) - one.log_moment(3) == pytest.approx(3 * shift, rel=1e-12, abs=1e-11)
    at = one.log_max_squared - np.asarray([0.3, 2.0])
    np.testing.assert_allclose(
        other.density_of_log(at + shift), one.density_of_log(at), rtol=1e-8, atol=1e-12
    )


@settings(max_examples=12)
@given(names, st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6), st.sampled_from(ENSEMBLES))
def test_moments_agree_with_each_other(name, variances, ensemble):
    law = spectrum(name, len(variances), ensemble, variance=np.asarray(variances))
    assert law.log_moment(1) == pytest.approx(law.log_mean, abs=1e-12)
    ratio = math.exp(law.log_moment(2) - 2 * law.log_mean)
    assert ratio - 1 == pytest.approx(law.relative_variance, rel=1e-11, abs=1e-13)
    # Moments grow no faster than the largest value, and are log-convex.
    logs = [law.log_moment(k) for k in range(1, 6)]
    steps = np.diff([0.0, *logs])
    assert np.all(np.diff(steps) >= -1e-12)
    assert steps[-1] <= law.log_max_squared + 1e-10


@settings(max_examples=10)
@given(names, st.permutations([0.2, 1.0, 5.0]))
def test_order_of_layers_does_not_matter(name, variances):
    sorted_law, law = (
        spectrum(name, 3, "gaussian", variance=np.asarray(v))
        for v in (sorted(variances), variances)
    )
    assert law.log_moment(4) == pytest.approx(sorted_law.log_moment(4), abs=1e-12)


# ---------------------------------------------------------------------------- limits and statuses


@pytest.mark.parametrize("name", activations.names())
@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_every_activation_at_any_depth(name, ensemble):
    for depth in (1, 1000):
        law = spectrum(name, depth, ensemble)
        assert np.isfinite([law.log_mean, law.log_max_squared, law.log_moment(8)]).all()
        low, high = law.log_bulk_edges
        if np.isfinite(high):
            span = high - max(low, high - 3.0)
            inside = law.density_of_log(high - span * np.asarray([0.1, 0.5]))
            assert np.all(inside > 0)


def test_where_the_mean_leaves_the_range_of_floats():
    law = spectrum("tanh", 1000, "gaussian", weight_var=1e-3)
    assert law.mean == 0.0
    assert law.log_mean == pytest.approx(1000 * spectrum("tanh", 1, "gaussian", 1e-3).log_mean)
    at = law.log_max_squared - 1.0
    assert law.density_of_log(at) == pytest.approx(
        spectrum("tanh", 1000, "gaussian").density_of_log(at + 1000 * math.log(1500)), rel=1e-8
    )
    assert spectrum("linear", 1000, "gaussian", weight_var=10.0).mean == math.inf


def test_limits_of_the_variance():
    zero, tiny = (spectrum("tanh", 3, "gaussian", variance=q) for q in (0.0, 1e-12))
    assert zero.moment(3) == pytest.approx(tiny.moment(3), rel=1e-10)
    ordered = theory.jacobian_spectrum("tanh", depth=3, weight_var=0.5, bias_var=0.0)
    assert ordered.mean == pytest.approx(0.5**3, rel=1e-13)
    unbounded = theory.jacobian_spectrum("leaky_relu(0.5)", depth=2, weight_var=3.0, bias_var=0.1)
    assert unbounded.mean == pytest.approx((3 * 1.25 / 2) ** 2, rel=1e-13)


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_a_jacobian_that_vanishes(ensemble):
    for law in (
        spectrum("tanh", 4, ensemble, weight_var=0.0),
        spectrum(lambda x: 0 * x + 1.0, 4, ensemble),
    ):
        assert law.atoms == {0.0: 1.0}
        assert law.mean == law.moment(5) == law.max_squared == law.min_squared == 0.0
        assert law.variance_of_squares == 0.0
        assert not law.density([0.1, 1.0]).any()


def test_no_theory_is_a_status():
    # The slopes of x³ have no limit as the variance grows without bound.
    law = theory.jacobian_spectrum(lambda x: x**3, depth=3, weight_var=2.0, bias_var=1.0)
    assert law.status == theory.TheoryStatus.NO_THEORY
    assert np.isnan([law.mean, law.variance_of_squares, law.moment(2), law.max_squared]).all()
    assert np.isnan(law.density([1.0, 2.0])).all()
    assert law.atoms == {}
    assert spectrum("tanh", 3, "gaussian").status == theory.TheoryStatus.OK


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 0}, "depth must be an integer >= 1, got 0"),
        ({"weight_var": -1.0}, "weight_var must be finite and >= 0, got -1.0"),
        ({"weight_var": math.nan}, "weight_var must be finite and >= 0, got nan"),
        ({"variance": math.nan}, "variance must be >= 0, got nan"),
        ({"variance": np.asarray([1.0, -2.0])}, r"variance must be >= 0, got -2.0 at index \(1,\)"),
        ({"variance": np.ones(3)}, "one for each of 2 layers"),
        ({"bias_var": 1.0}, "exactly one of bias_var and variance"),
        ({"variance": None}, "exactly one of bias_var and variance"),
        ({"ensemble": "goe"}, "ensemble must be one of 'gaussian', 'orthogonal', got 'goe'"),
        ({"activation": "tahn"}, "did you mean 'tanh'"),
    ],
)
def test_bad_arguments(changes, message):
    arguments = {"activation": "tanh", "depth": 2, "weight_var": 1.0, "variance": 1.0} | changes
    with pytest.raises(ValueError, match=message):
        theory.jacobian_spectrum(**arguments)


def test_bad_questions():
    law = spectrum("tanh", 2, "gaussian")
    with pytest.raises(ValueError, match="order must be an integer >= 1, got 0"):
        law.moment(0)
    for wrong in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="squares must be finite and > 0"):
            law.density([1.0, wrong])
    assert law.density(np.ones((2, 3))).shape == (2, 3)
    assert law.density(1.0).shape == ()
