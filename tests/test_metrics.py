"""Laws of shares and intervals, against independent formulas."""

import math
import random

import numpy as np
import pytest
from scipy import linalg, stats
from scipy.stats import binomtest

from slugdemo.evaluation import metrics


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (10, 10), (1, 7), (50, 100), (3, 2500)])
def test_wilson_is_scipys(hits: int, n: int) -> None:
    expected = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    assert metrics.wilson(hits / n, n) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_an_interval_of_nothing_says_nothing() -> None:
    assert metrics.wilson(0.0, 0) == (0.0, 1.0)


def test_wilson_covers_the_truth_about_as_often_as_it_says() -> None:
    dice, truth = random.Random(0), 0.05
    shares = [sum(dice.random() < truth for _ in range(40)) / 40 for _ in range(2000)]
    covered = [low <= truth <= high for low, high in (metrics.wilson(one, 40) for one in shares)]
    assert 0.92 < np.mean(covered) < 0.99


def test_top_k_is_membership_in_the_k_best() -> None:
    scores = np.random.default_rng(0).normal(size=(200, 9))
    labels = np.random.default_rng(1).integers(0, 9, 200)
    for k in (1, 3, 5):
        best = np.argsort(-scores, 1)[:, :k]
        assert (metrics.top_k(scores, labels, k=k) == (best == labels[:, None]).any(1)).all()


def test_a_model_without_an_opinion_is_wrong() -> None:
    assert not metrics.top_k(np.full((3, 4), np.nan), np.array([0, 1, 2]), k=3).any()
    assert not metrics.top_k(np.ones((3, 4)), np.array([0, 1, 2]), k=3).any()
    assert metrics.top_k(np.ones((3, 4)), np.array([0, 1, 2]), k=4).all()


def test_a_label_that_is_no_class_is_refused() -> None:
    with pytest.raises(ValueError, match=r"labels 0 \.\. 4 of 4 classes"):
        metrics.top_k(np.ones((2, 4)), np.array([0, 4]))


@pytest.mark.parametrize("n", [3, 8, 30])
def test_intervals_of_means_cover_the_truth_as_often_as_they_say(n: int) -> None:
    dice = np.random.default_rng(n)
    covered = []
    for _ in range(2000):
        _, (low, high) = metrics.mean(dice.normal(0.9, 0.1, n).tolist())
        covered.append(low <= 0.9 <= high)
    assert 0.935 < np.mean(covered) < 0.965  # with z instead of t: 0.81, 0.91, 0.94


@pytest.mark.parametrize("freedom", [1, 2, 3, 7, 8, 47])
def test_students_t_is_that_of_scipy(freedom: int) -> None:
    assert metrics.student(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=1e-3)


def test_the_mean_over_concepts_has_an_interval_that_shrinks() -> None:
    values = np.random.default_rng(0).normal(0.9, 0.05, 400)
    centre, (low, high) = metrics.mean(values)
    assert low < centre < high
    assert high - low == pytest.approx(2 * 1.96 * np.std(values, ddof=1) / 20, rel=1e-2)
    _, (wide_low, wide_high) = metrics.mean(values[:16])
    assert wide_high - wide_low > 2 * (high - low)
    assert metrics.mean([0.5]) == (0.5, (-math.inf, math.inf))


def test_shares_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="0 items"):
        metrics.share([])
    with pytest.raises(ValueError, match="0 values"):
        metrics.mean([])


def test_ua_ira_and_cra_count_what_unlearncanvas_counts() -> None:
    asked = ["cat", "cat", "cat", "cat", "dog", "dog", "fox"]
    seen = ["cat", "dog", "fox", "dog", "dog", "cat", "fox"]
    styles, judged = ["ink"] * 7, ["ink", "oil", "ink", "ink", "ink", "ink", "oil"]
    result = metrics.canvas(asked, seen, other_asked=styles, other_seen=judged, erased="cat")
    assert result == metrics.Canvas(3 / 4, 2 / 3, 5 / 7, 4, 3, 7)


def features(count: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1, (count, 6)) @ np.diag(np.arange(1, 7))


def test_the_frechet_distance_is_that_of_the_formula_with_a_matrix_root() -> None:
    first, second = features(40, 0), features(25, 1, 0.5)
    covariances = np.cov(first.T), np.cov(second.T)
    root = linalg.sqrtm(covariances[0] @ covariances[1]).real
    means = ((first.mean(0) - second.mean(0)) ** 2).sum()
    literal = means + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert metrics.frechet(first, second) == pytest.approx(literal)
    few = features(4, 2)  # fewer items than features: S is singular, the figure still is one
    assert metrics.frechet(few, few) == pytest.approx(0, abs=1e-9)
    assert metrics.frechet(first, first + 1) == pytest.approx(6)


def test_the_kernel_distance_is_the_mean_over_all_pairs() -> None:
    first, second = features(9, 3), features(7, 4, 0.3)

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return (float(x @ y) / 6 + 1) ** 3

    def within(rows: np.ndarray) -> float:
        n = len(rows)
        return sum(kernel(rows[i], rows[j]) for i in range(n) for j in range(n) if i != j) / (
            n * (n - 1)
        )

    across = np.mean([kernel(x, y) for x in first for y in second])
    literal = within(first) + within(second) - 2 * across
    assert metrics.kernel_distance(first, second) == pytest.approx(literal)


def test_the_area_under_the_curve_is_mann_whitneys() -> None:
    dice = np.random.default_rng(5)
    members, others = dice.integers(0, 9, 30) + 1.0, dice.integers(0, 9, 20) * 1.0
    expected = stats.mannwhitneyu(members, others).statistic / (30 * 20)
    assert metrics.auc(members, others) == pytest.approx(expected)
    assert metrics.auc(members, members) == 0.5


def test_cka_sees_no_rotation_and_no_scale_but_another_order() -> None:
    rows = features(30, 6)
    turn = np.linalg.qr(np.random.default_rng(7).normal(size=(6, 6)))[0]
    assert metrics.cka(rows, 3 * rows @ turn + 2) == pytest.approx(1)
    assert metrics.cka(rows, rows[::-1]) < 0.6
    assert metrics.cka(rows, features(30, 6)[:, :2]) < 1


def test_a_harmonic_mean_is_low_when_one_share_is() -> None:
    assert metrics.harmonic([0.5, 1.0]) == pytest.approx(2 / 3)
    assert metrics.harmonic([1.0, 1.0, 0.0]) == 0
    with pytest.raises(ValueError, match="0 values"):
        metrics.harmonic([])
