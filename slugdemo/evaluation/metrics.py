"""Accuracies, intervals and UnlearnCanvas's scores: arrays in, floats out.

Knows neither models nor files. All shares lie in [0, 1]; intervals are 95 %.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Z = 1.959964  # the 97.5 % point of the normal distribution
Interval = tuple[float, float]


def top_k(scores: np.ndarray, labels: np.ndarray, *, k: int = 1) -> np.ndarray:
    """Whether the right class is among the k best, for scores (N, C) and labels (N,): bools (N,).

    A tie with a wrong class counts against the model, so a model without any opinion is wrong,
    and so is one whose scores are not numbers. Raises ValueError for a label that is no class.
    """
    if len(labels) and not 0 <= labels.min() <= labels.max() < scores.shape[1]:
        raise ValueError(f"labels {labels.min()} .. {labels.max()} of {scores.shape[1]} classes")
    own = scores[np.arange(len(labels)), labels]
    return (~(scores < own[:, None])).sum(1) <= k  # own counts itself, NaN counts against it


def share(hits: Sequence[bool] | np.ndarray) -> float:
    """The share of True; raises ValueError for nothing at all."""
    if len(hits) == 0:
        raise ValueError("a share of 0 items")
    return float(np.mean(hits))


def wilson(share: float, n: int) -> Interval:
    """The Wilson score interval of a share measured on n items; (0, 1) for none.

    Unlike the normal interval it is honest at 0 and 1: 0 of 10 is (0, 0.278) (Wilson 1927).
    """
    if n == 0:
        return 0.0, 1.0
    centre = share + Z**2 / (2 * n)
    spread = Z * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    low, high = ((centre + sign * spread) / (1 + Z**2 / n) for sign in (-1, 1))
    return max(0.0, low), min(1.0, high)


def mean(values: Sequence[float]) -> tuple[float, Interval]:
    """The mean over concepts and its 95 % interval, mean +- t * standard error.

    t is Student's for n - 1 degrees of freedom, since means here are often over few concepts
    (n = 8 styles: 2.36 instead of 1.96). One value alone has no spread to judge by: its interval
    is (-inf, inf). Raises ValueError for none.
    """
    if len(values) == 0:
        raise ValueError("a mean of 0 values")
    centre = float(np.mean(values))
    if len(values) == 1:
        return centre, (-math.inf, math.inf)
    spread = student(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return centre, (centre - spread, centre + spread)


def student(freedom: int) -> float:
    """The 97.5 % point of Student's t distribution, to three digits for 1 and more degrees.

    By bisection on its distribution function, a finite sum for whole degrees of freedom
    (Abramowitz and Stegun, 26.7.3 and 26.7.4).
    """
    low, high = 1.9, 13.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if _inside(middle, freedom) < 0.95 else (low, middle)
    return high


def _inside(t: float, freedom: int) -> float:
    """The probability that Student's t lies within +- t."""
    angle = math.atan(t / math.sqrt(freedom))
    cos, sin = math.cos(angle), math.sin(angle)
    odd, term, total = freedom % 2, 1.0, 0.0
    term = cos if odd else 1.0
    for k in range(odd + 1, freedom, 2):
        total += term
        term *= cos * cos * k / (k + 1)
    return 2 / math.pi * (angle + sin * total) if odd else sin * total


def frechet(first: np.ndarray, second: np.ndarray) -> float:
    """The Frechet distance between the Gaussians of two sets of features (N, D) and (M, D).

    |m_1 - m_2|^2 + tr S_1 + tr S_2 - 2 tr (S_1 S_2)^(1/2) (Heusel et al., NeurIPS 2017, eq. 6, as
    FID). With S = A^T A of centred rows the last trace is the sum of the singular values of
    A_1 A_2^T, so that no root of a D x D matrix is taken and few items do no harm to the numerics;
    to the figure they do: it falls with N, so only figures of equal N compare.
    """
    means, parts = [], []
    for rows in (first, second):
        rows = np.asarray(rows, np.float64)
        means.append(rows.mean(0))
        parts.append((rows - means[-1]) / math.sqrt(len(rows) - 1))
    shared = np.linalg.svd(parts[0] @ parts[1].T, compute_uv=False).sum()
    spread = sum(float((part**2).sum()) for part in parts)
    return max(0.0, float(((means[0] - means[1]) ** 2).sum()) + spread - 2 * float(shared))


def kernel_distance(first: np.ndarray, second: np.ndarray) -> float:
    """The unbiased squared MMD of features (N, D) and (M, D) under the kernel (x.y / D + 1)^3.

    Binkowski et al., ICLR 2018, as KID; over all pairs instead of random subsets. It may be a
    little below 0.
    """
    x, y = (np.asarray(rows, np.float64) for rows in (first, second))
    own = [((rows @ rows.T / rows.shape[1] + 1) ** 3, len(rows)) for rows in (x, y)]
    within = sum((kernel.sum() - np.trace(kernel)) / (n * (n - 1)) for kernel, n in own)
    return float(within - 2 * ((x @ y.T / x.shape[1] + 1) ** 3).mean())


def auc(members: np.ndarray, others: np.ndarray) -> float:
    """How often a member's score (M,) lies above another's (N,), ties as half: the area under ROC."""
    above = members[:, None] > others[None]
    return float((above + 0.5 * (members[:, None] == others[None])).mean())


def cka(first: np.ndarray, second: np.ndarray) -> float:
    """Linear CKA (Kornblith et al., ICML 2019) of two models' features of the same N items.

    1 when they are alike up to rotation and scale, near 0 when they have nothing in common; the
    widths (N, D) and (N, E) may differ.
    """
    x, y = (rows - rows.mean(0) for rows in (first.astype(np.float64), second.astype(np.float64)))
    own = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.linalg.norm(x.T @ y) ** 2 / own) if own else 0.0


def harmonic(shares: Sequence[float]) -> float:
    """The harmonic mean, 0 when a share is 0; raises ValueError for none."""
    if len(shares) == 0:
        raise ValueError("a mean of 0 values")
    return 0.0 if min(shares) <= 0 else len(shares) / sum(1 / share for share in shares)


@dataclass(frozen=True)
class Canvas:
    """UnlearnCanvas's three shares for one erased concept, each with the number of pictures.

    `ua`: pictures asked to show the erased concept in which the judge does not find it. `ira`:
    right answers about the other concepts of its own domain. `cra`: right answers about the
    other domain (objects when a style was erased, styles when an object was).
    """

    ua: float
    ira: float
    cra: float
    n_ua: int
    n_ira: int
    n_cra: int


def canvas(
    asked: Sequence[str],
    seen: Sequence[str],
    *,
    other_asked: Sequence[str],
    other_seen: Sequence[str],
    erased: str,
) -> Canvas:
    """UA, IRA and CRA (UnlearnCanvas, arXiv 2402.11846) of N judged pictures.

    `asked` and `seen` are what the prompt named and what the judge saw in the erased concept's
    own domain, `other_*` in the other one. CRA counts every picture, those that were to show the
    erased concept too, as the official loop does. Raises ValueError when a share has no pictures.
    """
    own, answer = np.array(asked), np.array(seen)
    target = own == erased
    cross = np.array(other_asked) == np.array(other_seen)
    ua, ira = share(answer[target] != erased), share((answer == own)[~target])
    return Canvas(ua, ira, share(cross), int(target.sum()), int((~target).sum()), len(cross))
