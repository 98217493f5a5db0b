"""The extrapolation to infinite width, on numbers whose answer is known."""

import numpy as np
from scipy import stats

from sigprop.studies import Growth, growth_class, infinite_width

DEPTH, SEEDS = 101, 12


def _simulated(rng, width, truth, slope, repeats):
    """Rates of Gaussian seeds: log g² has mean truth + slope/N - V/2 a depth and variance V."""
    variance = 600.0 / width
    total = (truth + slope / width) * (DEPTH - 1) - variance / 2
    seeds = rng.normal(total, np.sqrt(variance), (SEEDS, repeats)) / (DEPTH - 1)
    return infinite_width.GrowthAtWidth(
        width=width,
        rate=seeds.mean(0),
        stderr=seeds.std(0, ddof=1) / np.sqrt(SEEDS),
        log_variance=(seeds * (DEPTH - 1)).var(0, ddof=1),
    )


def test_both_shifts_are_removed_exactly_where_nothing_is_random():
    truth, slope = -0.2, 3.0
    widths = []
    for width in (90, 40):
        variance = np.asarray([500.0 / width])
        rate = truth + slope / width - variance / (2 * (DEPTH - 1))
        widths.append(infinite_width.GrowthAtWidth(width, rate, np.zeros(1), variance))
    rate, _ = infinite_width.at_infinite_width(*widths, layers=DEPTH - 1, seeds=SEEDS)
    np.testing.assert_allclose(rate, truth, rtol=1e-12)


def test_z_scores_of_simulated_seeds_are_standard():
    rng, repeats, truth = np.random.default_rng(1), 20_000, 0.1
    wide, narrow = (_simulated(rng, width, truth, 2.0, repeats) for width in (512, 256))
    rate, stderr = infinite_width.at_infinite_width(wide, narrow, layers=DEPTH - 1, seeds=SEEDS)
    z = infinite_width.standard_errors_off(rate, stderr, np.full(repeats, truth))
    # Centred: 4 standard errors of a mean of 20,000. Spread: between a normal distribution and
    # the heavier tails of Student's with the seeds of one width.
    assert abs(z.mean()) < 4 / np.sqrt(repeats)
    outside = np.mean(np.abs(z) > 1.96)
    assert 0.05 - 0.006 < outside < 2 * stats.t.sf(1.96, SEEDS - 1) + 0.006

    raw = infinite_width.standard_errors_off(wide.rate, wide.stderr, np.full(repeats, truth))
    assert abs(raw.mean()) > 0.5, "the bare comparison is biased"


def test_no_score_without_a_standard_error():
    z = infinite_width.standard_errors_off(
        np.asarray([1.0, 1.0, np.nan]), np.asarray([0.0, np.nan, 1.0]), np.zeros(3)
    )
    assert np.isnan(z).all()


def test_growth_classes_are_those_of_the_norm_over_the_depth():
    edge = 2 * np.log(10.0) / (DEPTH - 1)
    rates = np.asarray([-1.01 * edge, -0.99 * edge, 0.0, 0.99 * edge, 1.01 * edge, np.nan, np.inf])
    expected = [
        Growth.VANISHING, Growth.STABLE, Growth.STABLE, Growth.STABLE, Growth.EXPLODING,
        Growth.UNDEFINED, Growth.EXPLODING,
    ]  # fmt: skip
    assert growth_class(rates, depth=DEPTH, stable_factor=10.0).tolist() == expected
