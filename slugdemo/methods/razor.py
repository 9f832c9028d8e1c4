"""RAZOR: a few layers and heads, a regularised step, and more layers while the goal is unmet.

Ranjan et al., CVPR 2026 Findings, arXiv 2603.14819. Constants ours: the paper's are printed
nowhere that we could read. Knows a task; knows no kind of model.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from slugdemo import search, weights
from slugdemo.edit import Edit, qualified
from slugdemo.errors import SlugError
from slugdemo.gradients import forget_loss, retain_loss_of
from slugdemo.models.clip import Clip
from slugdemo.search import Goal, Score
from slugdemo.task import Task
from slugdemo.training import TowerPairs, differentiated, shuffled, tower_weights
from slugdemo.weights import Weights

ALPHA, EPSILON = 0.5, 1e-8
TAU = 0.6  # of the best score: units above it are edited from the first round on
RHO, FORGET, MISMATCH = 1.0, 1.0, 1.0
ROUNDS, EVALUATIONS, BATCHES = 6, 6, 4
IN, OUT = ".attn.in_proj_weight", ".attn.out_proj.weight"


@dataclass(frozen=True, eq=False)
class Unit:
    """What RAZOR selects: a layer, or one attention head across its tensors.

    `masks` holds 0 or 1 for each entry (broadcast) of the tensors that it is part of.
    """

    name: str
    masks: Mapping[str, Tensor]

    def of(self, tensors: Weights) -> dict[str, Tensor]:
        """The unit's share of some tensors: zero elsewhere."""
        return {n: tensors[n] * mask.to(tensors[n].device) for n, mask in self.masks.items()}


@dataclass(frozen=True, eq=False)
class Slopes:
    """The gradients of the forget, the retain and the mismatch loss at the weights of a round."""

    forget: Weights
    retain: Weights
    mismatch: Weights


def razor(task: Task) -> Edit:
    """Scores layers and heads, moves the best, and grows until the concept is gone.

    1. phi(l) = ||g_f|| / (||w_l|| + eps) (1 - cos(g_f, g_r))^alpha for every layer, attention
       layers head by head; those above tau are selected.
    2. w_l <- w_l + eta_l (lambda_f rho g_f - g_r - lambda_m grad L_m): g_f = grad mean(1 - cos),
       ascended; g_r of the contrastive loss; L_m the drift of the retain pairs' similarities from
       those of the original model. (The paper prints + L_forget; so it would pull pairs together.)
    3. eta by a binary search on the search split, each layer by the same share of its norm,
       between the smallest step that forgets, or keeps too little, and the largest that does not:
       of the steps that keep enough of the rest the one that forgets most, perhaps none.
    4. While the goal is unmet: phi on the edited model, the best layer not selected yet joins, and
       2 and 3 again; at most 6 rounds.

    Deviations: alpha, rho, tau, the lambdas, eps and the sizes are ours, and so is the floor in 3:
    without it a style took everything else along (pixel art in pocket-clip kept .13 of the rest),
    with it a style (neon) stayed. Raises SlugError when no layer has a gradient.
    """
    trainable = tower_weights(task)
    units = parts(task.clip, list(trainable))
    slopes_at = _Slopes(task, trainable)
    before = task.evaluators.full(task.edit({}))(0.0)
    goal = search.goal_of(before, task.config.tuning)
    moved = {name: torch.zeros_like(w, dtype=torch.float32) for name, w in trainable.items()}
    selected: list[Unit] = []
    for number in range(ROUNDS):
        now = {name: w + moved[name] for name, w in trainable.items()}
        slopes = slopes_at(now)
        ranked = [(unit, phi(unit, now, slopes)) for unit in units if unit not in selected]
        selected += chosen(ranked) if not selected else best(ranked)
        task.step(f"RAZOR, round {number + 1} with {len(selected)} layers", number, ROUNDS)
        along = direction(selected, now, slopes)
        score = _searched(task, moved, along, goal)
        moved = {name: moved[name] + score.strength * along[name] for name in moved}
        if goal.met(score):
            break
    found = {name for unit in selected for name in unit.masks}
    edit = task.edit({qualified(name): moved[name] for name in moved if name in found})
    return edit.noted(units=", ".join(unit.name for unit in selected))


def parts(clip: Clip, names: Sequence[str]) -> list[Unit]:
    """The units that these tensors make up: heads of attention blocks, and all other tensors."""
    found: list[Unit] = []
    blocks: dict[str, None] = {}
    for name in names:
        if name.endswith((IN, OUT)):
            blocks[name.removesuffix(IN).removesuffix(OUT)] = None
        else:
            found.append(Unit(name, {name: torch.ones(())}))
    for block in blocks:
        found += _heads(clip, block, [name for name in names if name in (block + IN, block + OUT)])
    return found


def _heads(clip: Clip, block: str, names: Sequence[str]) -> Iterator[Unit]:
    attention = clip.model.get_submodule(f"{block}.attn")
    width, heads = attention.embed_dim, attention.num_heads
    owner = torch.arange(width) // (width // heads)  # (W,) the head of each channel
    for head in range(heads):
        own = (owner == head).float()
        masks = {block + IN: own.repeat(3)[:, None], block + OUT: own[None]}
        yield Unit(f"{block}.attn head {head}", {name: masks[name] for name in names})


def phi(unit: Unit, now: Weights, slopes: Slopes) -> float:
    """||g_f|| / (||w|| + eps) (1 - cos(g_f, g_r))^alpha of one unit."""
    forget, retain = unit.of(slopes.forget), unit.of(slopes.retain)
    importance = weights.norm(forget) / (weights.norm(unit.of(now)) + EPSILON)
    return importance * (1 - weights.cosine(forget, retain)) ** ALPHA


def chosen(ranked: Sequence[tuple[Unit, float]]) -> list[Unit]:
    """The units whose score is above tau, a share of the best score."""
    most = max((score for _, score in ranked), default=0.0)
    if most <= 0:
        raise SlugError("No layer of this model has a gradient along which it could forget.")
    return [unit for unit, score in ranked if score > TAU * most]


def best(ranked: Sequence[tuple[Unit, float]]) -> list[Unit]:
    """The one unit with the best score; none when all are selected already."""
    return [unit for unit, _ in sorted(ranked, key=lambda pair: -pair[1])[:1]]


def direction(selected: Sequence[Unit], now: Weights, slopes: Slopes) -> dict[str, Tensor]:
    """The update of the U selected units, each 1 / U as long as the unit itself; zero elsewhere."""
    update = {
        name: FORGET * RHO * slopes.forget[name]
        - slopes.retain[name]
        - MISMATCH * slopes.mismatch[name]
        for name in now
    }
    total = {name: torch.zeros_like(tensor) for name, tensor in update.items()}
    for unit in selected:
        own = unit.of(update)
        length = weights.norm(own)
        ratio = weights.norm(unit.of(now)) / length if length else 0.0
        for name, tensor in own.items():
            total[name] += ratio * tensor / len(selected)
    return total


def _searched(task: Task, moved: Weights, along: Weights, goal: Goal) -> Score:
    """The score to keep of a binary search along the round's direction, from where it stands."""
    ask = task.evaluators

    def asked(strength: float) -> Score:
        task.step("RAZOR, search of the step", 0, 0)
        delta = {qualified(name): moved[name] + strength * along[name] for name in along}
        return replace(ask.full(task.edit(delta))(1.0), strength=strength)

    low, high, step, trace = 0.0, math.inf, search.START, []
    for _ in range(EVALUATIONS):
        trace.append(score := asked(step))
        far = score.retain_acc < goal.min_retain_acc or score.forget_acc <= goal.max_forget_acc
        low, high = (low, step) if far else (step, high)
        step = (low + high) / 2 if high < math.inf else 2 * step
    kept = [score for score in trace if score.retain_acc >= goal.min_retain_acc]
    return min(kept, key=lambda score: (score.forget_acc, score.strength)) if kept else asked(0.0)


class _Slopes:
    """The three gradients at any weights, over the same `BATCHES` batches of pairs."""

    def __init__(self, task: Task, trainable: Weights) -> None:
        self._task = task
        self._forget = TowerPairs(task.clip, task.concept.forget, list(trainable))
        self._retain = TowerPairs(task.clip, task.retain_split[0], list(trainable))
        noise, size = task.generator(), task.config.batch
        own = shuffled(len(self._forget), size, noise)
        rest = shuffled(len(self._retain), size, noise)
        self._rows = [(next(own), next(rest)) for _ in range(BATCHES)]
        with torch.no_grad():
            self._frozen = [self._cosines(rows, trainable) for _, rows in self._rows]

    def __call__(self, now: Weights) -> Slopes:
        leaves = {name: w.detach().float().requires_grad_() for name, w in now.items()}
        contrast = retain_loss_of(self._task.clip)
        totals = [[torch.zeros_like(leaf) for leaf in leaves.values()] for _ in range(3)]
        for (own, rest), frozen in zip(self._rows, self._frozen, strict=True):
            self._task.step("Gradients", 0, 0)
            with torch.enable_grad():
                image, text = self._retain.features(rest, leaves)
                losses = (
                    forget_loss(*self._forget.features(own, leaves)),
                    contrast(image, text),
                    (image @ text.T - frozen).square().mean(),
                )
            for total, loss in zip(totals, losses, strict=True):
                torch._foreach_add_(
                    total, differentiated(loss, leaves, retain_graph=True), alpha=1 / BATCHES
                )
        return Slopes(*(dict(zip(leaves, total, strict=True)) for total in totals))

    def _cosines(self, rows: Tensor, now: Weights) -> Tensor:
        image, text = self._retain.features(rows, now)
        return image @ text.T
