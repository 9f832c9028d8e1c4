"""Closed forms: the linear algebra that edits a projection without training it.

Vectors are rows, all sums are taken in float64. Most methods move a weight within the span of
what it reads, W' = W + W M, and differ in the move M (D, D) alone; a projection with outputs of
its own to forget is moved from the left. Knows tensors only: no model, no task, no prompts.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def regression(
    sources: Tensor,
    targets: Tensor,
    kept: Tensor,
    *,
    ridge: float,
    erase: float | Tensor = 1.0,
    preserve: float = 1.0,
) -> Tensor:
    """The move M (D, D) for which W' = W + W M answers `targets` to `sources` and keeps the rest.

    W' minimises sum e |W' s - W t|^2 + p sum |(W' - W) k|^2 + l |W' - W|^2 over rows s of
    `sources`, t of `targets` (N, D) and k of `kept` (K, D), whatever W is, so that
    M = sum e (t - s) s^T (l I + sum e s s^T + p sum k k^T)^-1. `erase` is e, one for all or one
    for each source (N,); `preserve` is p, `ridge` is l.
    """
    s, t, k = sources.double(), targets.double(), kept.double()
    weighted = s * torch.as_tensor(erase, dtype=s.dtype).reshape(-1, 1)  # (N, D) or (1, ...)
    gram = ridge * torch.eye(s.shape[1], dtype=s.dtype)
    gram = gram + weighted.T @ s + preserve * k.T @ k  # (D, D)
    return divided((t - s).T @ weighted, gram)


def divided(numerator: Tensor, gram: Tensor) -> Tensor:
    """numerator @ gram^-1 for a symmetric gram (D, D); its pseudoinverse where it has none."""
    return numerator @ torch.linalg.pinv(gram, hermitian=True)


def adversary(original: Sequence[Tensor], edited: Sequence[Tensor], *, ridge: float) -> Tensor:
    """The map (D, D) from what was asked to what asks the same of the edited weights.

    c' = (r I + sum W'^T W')^-1 (sum W'^T W) c brings the edited projections W' as near as possible
    to what the original ones W made of c, with r |c'|^2 as its price (RECE).
    """
    size = original[0].shape[1]
    gram, cross = torch.zeros(2, size, size, dtype=torch.float64)
    for old, new in zip(original, edited, strict=True):
        gram += new.double().T @ new.double()
        cross += new.double().T @ old.double()
    return torch.linalg.solve(gram + ridge * torch.eye(size, dtype=gram.dtype), cross)


def span(rows: Tensor, *, share: float = 1.0) -> Tensor:
    """An orthonormal basis (R, D) of the leading right-singular directions of `rows` (N, D).

    As many as hold the given share of the sum of squared singular values; with 1 all that are
    not numerically zero.
    """
    _, values, directions = torch.linalg.svd(rows.double(), full_matrices=False)
    if not len(values) or values[0] == 0:
        return directions[:0]
    floor = values[0] * max(rows.shape) * torch.finfo(values.dtype).eps
    if rows.dtype == torch.float32:  # what float32 cannot tell from zero is zero
        floor = values[0] * max(rows.shape) * torch.finfo(torch.float32).eps
    rank = int((values > floor).sum())
    held = (values**2).cumsum(0) / (values**2).sum()
    enough = int((held < share - 1e-12).sum()) + 1
    return directions[: min(rank, enough)]


def projector(basis: Tensor) -> Tensor:
    """The orthogonal projection (D, D) onto the span of orthonormal rows (R, D)."""
    return basis.T @ basis


def null_space(gram: Tensor, *, threshold: float) -> Tensor:
    """The projection (D, D) onto the singular directions of a Gram matrix (D, D) below a threshold.

    The threshold is relative to the largest singular value.
    """
    values, directions = torch.linalg.eigh(gram.double())  # singular values, for a gram matrix
    small = directions[:, values < threshold * values[-1]]
    return small @ small.T


def spectral(rows: Tensor, *, expansion: float) -> Tensor:
    """CURE's soft projection (D, D) onto the span of `rows` (N, D): V diag(f(r)) V^T.

    r_i = s_i^2 / sum s^2 is the energy of a singular direction and f(r) = a r / ((a - 1) r + 1);
    the expansion a lifts weak directions, and with a -> infinity f is 1 wherever r > 0.
    """
    _, values, directions = torch.linalg.svd(rows.double(), full_matrices=False)
    energy = values**2 / (values**2).sum()
    lifted = expansion * energy / ((expansion - 1) * energy + 1)
    return directions.T @ (lifted[:, None] * directions)


def whitening(features: Tensor) -> tuple[Tensor, Tensor]:
    """S^(-1/2) and S^(1/2) (D, D) of the covariance S of `features` (N, D); zero where S is."""
    centred = features.double() - features.double().mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(features))
    real = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
    root = values.clamp(min=0).sqrt()
    inverse = torch.where(real, 1 / root, 0.0)
    return vectors @ (inverse[:, None] * vectors.T), vectors @ ((root * real)[:, None] * vectors.T)


def centres(rows: Tensor, count: int, *, rounds: int = 50) -> Tensor:
    """The k-means centres (count, D) of `rows` (N, D), begun from rows that lie far apart.

    The first centre is the row nearest the mean, each next one the row farthest from all before,
    so that the answer depends on the rows alone. Fewer rows than `count` are their own centres.
    """
    rows = rows.double()
    if len(rows) <= count:
        return rows
    found = rows[[int(torch.cdist(rows.mean(0, keepdim=True), rows).argmin())]]
    while len(found) < count:
        far = torch.cdist(rows, found).min(1).values.argmax()
        found = torch.cat([found, rows[far : far + 1]])
    for _ in range(rounds):
        nearest = torch.cdist(rows, found).argmin(1)
        new = torch.stack(
            [rows[nearest == i].mean(0) if (nearest == i).any() else found[i] for i in range(count)]
        )
        if torch.equal(new, found):
            break
        found = new
    return found
