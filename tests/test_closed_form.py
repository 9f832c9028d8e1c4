"""Closed forms against the same formulas written out slowly, and the identities they promise."""

import warnings
from importlib import import_module

import numpy as np
import pytest
import torch
from conftest import noise
from scipy.optimize import minimize
from torch import Tensor

from slugdemo import closed_form
from slugdemo.clip_projections import Features
from slugdemo.text_projections import Projection, Tokens, unchanged

with warnings.catch_warnings():  # the package compiles with what PyTorch has deprecated
    warnings.simplefilter("ignore", DeprecationWarning)
    from concept_erasure import LeaceFitter

METHODS = (
    "ccup",
    "cure",
    "double_projections",
    "inlp",
    "leace",
    "locoedit",
    "mace",
    "rece",
    "speed",
)
ccup, cure, double_projections, inlp, leace, locoedit, mace, rece, speed = (
    import_module(f"slugdemo.methods.{name}") for name in METHODS
)

D, OUT = 12, 7
RIDGE, ERASE, PRESERVE = 0.7, 0.6, 0.3


def rows(count: int, *, seed: int, size: int = D) -> Tensor:
    return noise(count, size, seed=seed).double()


@pytest.fixture(scope="module")
def weight() -> Tensor:
    return rows(OUT, seed=0)


@pytest.fixture(scope="module")
def pairs() -> Tokens:
    return Tokens(rows(5, seed=1), rows(5, seed=2))


@pytest.fixture(scope="module")
def rest() -> Tensor:
    return rows(4, seed=3)


def literal_uce(weight: Tensor, pairs: Tokens, rest: Tensor) -> Tensor:
    """W' as UCE prints it, column by column."""
    top, bottom = RIDGE * weight, RIDGE * torch.eye(D).double()
    for c, guide in zip(*pairs, strict=True):
        top = top + ERASE * torch.outer(weight @ guide, c)
        bottom = bottom + ERASE * torch.outer(c, c)
    for c in rest:
        top = top + PRESERVE * torch.outer(weight @ c, c)
        bottom = bottom + PRESERVE * torch.outer(c, c)
    return top @ torch.linalg.inv(bottom)


def test_regression_is_uces_formula(weight: Tensor, pairs: Tokens, rest: Tensor) -> None:
    move = closed_form.regression(*pairs, rest, ridge=RIDGE, erase=ERASE, preserve=PRESERVE)
    assert torch.allclose(weight + weight @ move, literal_uce(weight, pairs, rest), atol=1e-10)


def test_regression_is_the_least_of_what_it_minimises(
    weight: Tensor, pairs: Tokens, rest: Tensor
) -> None:
    move = closed_form.regression(*pairs, rest, ridge=RIDGE, erase=ERASE, preserve=PRESERVE)
    edited = (weight + weight @ move).requires_grad_()
    erased = ((pairs.sources @ edited.T - pairs.targets @ weight.T) ** 2).sum()
    changed = ((rest @ (edited - weight).T) ** 2).sum()
    loss = ERASE * erased + PRESERVE * changed + RIDGE * ((edited - weight) ** 2).sum()
    (slope,) = torch.autograd.grad(loss, edited)
    assert slope.abs().max() < 1e-10


def test_regression_weighs_each_source_by_its_own_number(pairs: Tokens, rest: Tensor) -> None:
    twice = Tokens(*(torch.cat([some, some[:1]]) for some in pairs))
    weights = torch.tensor([2.0, 1, 1, 1, 1])
    weighed = closed_form.regression(*pairs, rest, ridge=RIDGE, erase=weights)
    assert torch.allclose(weighed, closed_form.regression(*twice, rest, ridge=RIDGE), atol=1e-10)


def test_without_a_ridge_few_sources_are_answered_exactly(weight: Tensor, pairs: Tokens) -> None:
    move = closed_form.regression(*pairs, pairs.sources[:0], ridge=1e-6)
    edited = weight + weight @ move
    assert torch.allclose(edited @ pairs.sources.T, weight @ pairs.targets.T, atol=1e-4)


def test_the_adversary_brings_the_original_back() -> None:
    old = [rows(OUT, seed=4), rows(OUT, seed=5)]
    new = [rows(OUT, seed=6), rows(OUT, seed=7)]
    c = rows(1, seed=8)[0]
    found = closed_form.adversary(old, new, ridge=RIDGE) @ c
    wanted = found.clone().requires_grad_()
    loss = sum(((n @ wanted - o @ c) ** 2).sum() for o, n in zip(old, new, strict=True))
    (slope,) = torch.autograd.grad(loss + RIDGE * (wanted**2).sum(), wanted)
    assert slope.abs().max() < 1e-10
    same = closed_form.adversary(old, old, ridge=1e-12)
    assert torch.allclose(same, torch.eye(D).double(), atol=1e-6)


def test_spans_hold_the_energy_they_are_asked_for() -> None:
    flat = rows(6, seed=9)
    flat[3:] = flat[:3] * 2 - flat[1:4]  # rank 4
    everything = closed_form.span(flat)
    assert len(everything) == torch.linalg.matrix_rank(flat)
    assert torch.allclose(flat @ closed_form.projector(everything), flat, atol=1e-10)
    values = torch.linalg.svdvals(flat) ** 2
    for share in (0.3, 0.6, 0.9):
        held = [float(values[: n + 1].sum() / values.sum()) for n in range(6)]
        assert len(closed_form.span(flat, share=share)) == sum(h < share for h in held) + 1
    assert len(closed_form.span(torch.zeros(2, D))) == 0


def test_a_null_space_is_what_the_gram_matrix_does_not_see() -> None:
    seen = rows(5, seed=10)
    null = closed_form.null_space(seen.T @ seen, threshold=1e-9)
    assert torch.allclose(seen @ null, torch.zeros(5, D).double(), atol=1e-6)
    assert round(float(null.trace())) == D - 5


def test_the_spectral_projection_lifts_weak_directions() -> None:
    some = rows(3, seed=11)
    _, values, directions = torch.linalg.svd(some, full_matrices=False)
    literal = torch.zeros(D, D).double()
    for s, v in zip(values, directions, strict=True):
        r = s**2 / (values**2).sum()
        literal += 2 * r / ((2 - 1) * r + 1) * torch.outer(v, v)
    assert torch.allclose(closed_form.spectral(some, expansion=2.0), literal, atol=1e-10)
    hard = closed_form.projector(closed_form.span(some))
    assert torch.allclose(closed_form.spectral(some, expansion=1e12), hard, atol=1e-6)


def test_centres_are_means_of_what_is_nearest() -> None:
    groups = [rows(4, seed=seed) * 0.01 + 10 * rows(1, seed=20 + seed) for seed in range(3)]
    found = closed_form.centres(torch.cat(groups), 3)
    for group in groups:
        assert torch.cdist(group.mean(0, keepdim=True), found).min() < 1e-9
    assert torch.equal(closed_form.centres(groups[0][:2], 3), groups[0][:2])


# ---- methods


def test_rece_answers_its_adversary_too(pairs: Tokens, rest: Tensor) -> None:
    weights = [rows(OUT, seed=12), rows(2 * OUT, seed=13)]
    found = rece.moves(weights, pairs, rest)
    assert len(found) == 1 + rece.EPOCHS
    now = torch.eye(D).double() + found[0]
    inverse = torch.linalg.inv(
        rece.ADVERSARY_RIDGE * torch.eye(D).double() + sum((w @ now).T @ (w @ now) for w in weights)
    )
    attack = inverse @ sum((w @ now).T @ w for w in weights)
    for w in weights:  # one epoch, written out for a whole weight
        old = w @ now
        top, bottom = rece.RIDGE * old, rece.RIDGE * torch.eye(D).double()
        for c, guide in zip(*pairs, strict=True):
            for asked in (c, attack @ c):
                top = top + torch.outer(w @ guide, asked)
                bottom = bottom + torch.outer(asked, asked)
        for c in rest:
            top = top + rece.PRESERVE * torch.outer(w @ c, c)
            bottom = bottom + rece.PRESERVE * torch.outer(c, c)
        assert torch.allclose(w + w @ found[1], top @ torch.linalg.inv(bottom), atol=1e-9)


def literal_speed(weight: Tensor, pairs: Tokens, own: Tensor, fixed: Tensor) -> Tensor:
    before = sum(torch.outer(c, c) for c in pairs.sources) / len(pairs.sources)
    across = sum(torch.outer(g, c) for c, g in zip(*pairs, strict=True)) / len(pairs.sources)
    u, s, _ = torch.linalg.svd(sum(torch.outer(c, c) for c in own) / len(own))
    small = u[:, s < speed.THRESHOLD * s[0]]
    null, one = small @ small.T, torch.eye(D).double()
    m = torch.linalg.inv(before @ null + speed.RIDGE * one)
    k = fixed.T
    held = torch.linalg.inv(k.T @ null @ m @ k)
    return weight + weight @ (across - before) @ null @ (one - m @ k @ held @ k.T @ null) @ m


def test_speed_is_its_formula_and_keeps_what_it_promises(
    weight: Tensor, pairs: Tokens, rest: Tensor
) -> None:
    fixed = rows(2, seed=14)
    edited = weight + weight @ speed.move(pairs, rest, fixed)
    assert torch.allclose(edited, literal_speed(weight, pairs, rest, fixed), atol=1e-8)
    assert torch.allclose(edited @ rest.T, weight @ rest.T, atol=1e-6)
    assert torch.allclose(edited @ fixed.T, weight @ fixed.T, atol=1e-6)
    assert (edited - weight).norm() > 0.1


def test_speed_keeps_the_states_that_an_unbound_edit_would_move_most(
    weight: Tensor, pairs: Tokens
) -> None:
    some = rows(30, seed=15)
    found = speed.influenced(weight, pairs, some, torch.Generator().manual_seed(0))
    before = pairs.sources.T @ pairs.sources / 5
    across = pairs.targets.T @ pairs.sources / 5
    change = weight @ (across - before) @ torch.linalg.inv(torch.eye(D).double() + before)
    far = torch.stack([(change @ c).norm() for c in some])
    chosen = some[far > far.mean()]
    assert torch.equal(found[: len(chosen)], chosen)
    copies = found[len(chosen) :]
    assert 0 < len(copies) < speed.COPIES * len(chosen)
    least = torch.linalg.svd(weight).Vh[-1]
    for copy in copies:  # a copy differs from its original in what the weight reads least
        away = (chosen - copy)[(chosen - copy).norm(dim=1).argmin()]
        assert torch.allclose(away, (away @ least) * least, atol=1e-8)


def test_speed_holds_the_empty_prompts_first_token() -> None:
    blank = rows(8, seed=16)
    fixed = speed.invariant(blank)
    assert fixed.shape == (4, D)
    assert torch.equal(fixed[0], blank[0])


def test_cure_takes_what_the_concept_has_for_itself(rest: Tensor) -> None:
    own = rows(2, seed=17)
    p_f = closed_form.spectral(own, expansion=cure.EXPANSION)
    p_r = closed_form.spectral(rest, expansion=cure.EXPANSION)
    assert torch.allclose(cure.move(own, rest), -(p_f - p_f @ p_r), atol=1e-12)
    assert ((own + own @ cure.move(own, rest).T).norm(dim=1) < own.norm(dim=1)).all()


def test_double_projections_keep_their_two_identities(weight: Tensor, rest: Tensor) -> None:
    c, anchors = rows(1, seed=18), rows(2, seed=19)
    change = weight @ double_projections.move(c, anchors, rest)
    assert change.norm() > 0.1
    assert torch.allclose(change @ rest.T, torch.zeros(OUT, 4).double(), atol=1e-8)
    kept = closed_form.span(anchors, share=double_projections.ANCHORED)
    s = kept.T
    goal = s @ torch.linalg.pinv(s.T @ s) @ s.T @ c[0]
    assert torch.allclose((weight + change) @ c[0], weight @ goal, atol=1e-8)
    u = torch.linalg.svd(rest.T, full_matrices=True).U[:, 4:]  # null space of the preserved
    x = u.T @ c[0]
    literal = weight @ torch.outer(goal - c[0], x) / (x @ x) @ u.T
    assert torch.allclose(change, literal, atol=1e-8)


def test_mace_fuses_the_refinements_of_each_word(weight: Tensor, rest: Tensor) -> None:
    words = [Tokens(rows(3, seed=21), rows(3, seed=22)), Tokens(rows(4, seed=23), rows(4, seed=24))]
    top, bottom = mace.RIDGE * weight, mace.RIDGE * torch.eye(D).double()
    kept = mace.PRESERVE * sum(torch.outer(c, c) for c in rest)
    for word in words:
        upper, lower = mace.RIDGE * weight + weight @ kept, mace.RIDGE * torch.eye(D) + kept
        for c, goal in zip(*word, strict=True):
            upper, lower = upper + torch.outer(weight @ goal, c), lower + torch.outer(c, c)
        refined = upper @ torch.linalg.inv(lower)
        top = top + refined @ sum(torch.outer(c, c) for c in word.sources)
        bottom = bottom + sum(torch.outer(c, c) for c in word.sources)
    literal = (top + weight @ kept) @ torch.linalg.inv(bottom + kept)
    assert torch.allclose(weight + weight @ mace.fused(words, rest), literal, atol=1e-9)


def test_locoedit_is_its_formula_and_looks_through_a_window(weight: Tensor, pairs: Tokens) -> None:
    x, y = pairs
    lower = x.T @ x + locoedit.RIDGE * torch.eye(D).double()
    upper = x.T @ y @ weight.T + locoedit.RIDGE * weight.T
    literal = (torch.linalg.inv(lower) @ upper).T
    move = closed_form.regression(x, y, x[:0], ridge=locoedit.RIDGE)
    assert torch.allclose(weight + weight @ move, literal, atol=1e-10)
    sixteen = [
        Projection(f"{layer}.{role}", weight, role, f"unet/{layer}.attn2", unchanged)
        for layer in range(16)
        for role in ("key", "value")
    ]
    pooled = Projection("pooled", weight, "key", "unet/add_embedding.pool", unchanged)
    chosen = [one.block for one in locoedit.window([*sixteen, pooled])]
    assert chosen[::2] == [*(f"unet/{layer}.attn2" for layer in (8, 9, 10, 11)), pooled.block]


# ---- CLIP's projections


@pytest.fixture(scope="module")
def features() -> Features:
    """Twenty features of a concept that lies to one side, and sixty others."""
    mixed = rows(80, seed=25) @ rows(D, seed=26)
    return Features(mixed[:20] + 3 * rows(1, seed=27), mixed[20:])


def test_leace_is_that_of_its_authors(features: Features) -> None:
    x, z = features.all, features.labels
    theirs = LeaceFitter.fit(
        x, z, affine=False, shrinkage=False, constrain_cov_trace=False, svd_tol=1e-12
    )
    assert torch.allclose(leace.eraser(features), theirs.eraser.P, atol=1e-8)


def test_after_leace_no_linear_probe_can_tell(features: Features) -> None:
    erased = features.all @ leace.eraser(features).T
    z = features.labels.double()
    assert ((erased - erased.mean(0)).T @ (z - z.mean())).abs().max() < 1e-8
    other = features.all @ (torch.eye(D).double() - closed_form.projector(rows(1, seed=28))).T
    assert ((other - other.mean(0)).T @ (z - z.mean())).abs().max() > 1e-3


def test_ccup_takes_one_direction_that_the_rest_does_not_have(features: Features) -> None:
    p = ccup.eraser(features)
    assert torch.linalg.matrix_rank(p) == D - 1
    assert torch.allclose(p @ p, p, atol=1e-10)
    retained = closed_form.span(features.retain, share=ccup.RETAINED)
    assert torch.allclose(p @ retained.T, retained.T, atol=1e-8)
    assert ((features.forget @ p.T).norm(dim=1) < features.forget.norm(dim=1) - 1e-6).all()


def test_inlp_takes_the_probes_direction_each_round(features: Features) -> None:
    p = inlp.eraser(features)
    assert torch.linalg.matrix_rank(p) == D - inlp.ROUNDS
    first = inlp.probe(features.all, features.labels.double())
    assert torch.allclose(p @ first, torch.zeros(D).double(), atol=1e-8)


def test_the_probe_is_a_logistic_regression(features: Features) -> None:
    x, z = features.all.numpy(), features.labels.numpy()

    def loss(weights: np.ndarray) -> float:
        signed = (2 * z - 1) * (x @ weights[:-1] + weights[-1])
        each = np.log1p(np.exp(-signed))
        balanced = (each[z == 1].mean() + each[z == 0].mean()) / 2
        return balanced + inlp.DECAY * (weights[:-1] ** 2).sum()

    literal = minimize(loss, np.zeros(D + 1), options={"gtol": 1e-7}).x[:-1]
    found = inlp.probe(features.all, features.labels.double())
    assert np.allclose(found.numpy(), literal, atol=1e-3)
