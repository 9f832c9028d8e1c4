"""NEST: single neurons in all layers, chosen by gradients and activations, moved in one step.

Built by its authors on SLUG's repository. Knows a task; knows no kind of model.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor

from slugdemo import search, weights
from slugdemo.edit import Edit, qualified
from slugdemo.errors import SlugError
from slugdemo.gradients import forget_loss, retain_loss_of
from slugdemo.recording import Activations
from slugdemo.search import Goal, Score
from slugdemo.task import Task
from slugdemo.training import TowerPairs, differentiated, shuffled, tower_weights
from slugdemo.weights import Weights

SCORE = {"a": 1.0, "b": 1.0, "c": 0.5, "d": 1.0}
STEP = {"c": 1.0, "d": 1.0}
EPSILON = 1e-8
ROUNDS, BATCHES, SIZE = 5, 8, 8
SHARE, FREQUENCY, FALSE_RATE = 0.05, 1.0, 0.10
LEAST, MOST, EVALUATIONS = 0.1, 10.0, 12
SHARED = ("visual.proj", "text_projection")

Rows = Mapping[str, Tensor]  # one number for each output row of each weight


@dataclass(frozen=True, eq=False)
class Observed:
    """What a few batches show of every weight: its mean gradient, and of every output row the mean
    gradient norm (rows,) and the activation in each batch (batches, rows)."""

    gradient: Weights
    sizes: Rows
    activations: Rows


def nest(task: Task) -> Edit:
    """Moves the neurons that speak of the concept and not of the rest, in all layers at once.

    1. For every output row: R = gradient norm and A = activation on forget and retain batches,
       ~ divided by the layer's mean; S = relu(R~f - a R~r) relu(A~f - b A~r)
       (1 - max(0, cos(g_f, g_r)))^d (e + R~r^2)^(-c).
    2. Five rounds of 8 batches: rows among the top 5 % in every round whose activations differ
       (Welch's t, Benjamini-Hochberg at .10) are kept.
    3. Along w g_f / ||g_f|| in each row, w = clip((1 - max(0, cos)) / (e + R_r^2), .1, 10), as
       long as the rows together: 12 evaluations that double or bisect from a tenth, and the best
       .5 forgotten - .5 lost.

    Deviations: batches of 8 pairs; p-values of the normal distribution (40 batches a side); the
    two projections into the shared space, whose rows are inputs, are left out; activations count
    without their bias; the score's last factor has R~r where its authors have R_r, with which
    rows that nothing uses win. Raises SlugError when no neuron is kept.
    """
    trainable = {n: w for n, w in tower_weights(task).items() if w.dim() > 1 and n not in SHARED}
    contrast, names = retain_loss_of(task.clip), list(trainable)
    own = TowerPairs(task.clip, task.concept.forget, names)
    rest = TowerPairs(task.clip, task.retain_split[0], names)
    rounds: list[tuple[Observed, Observed]] = []
    batches = [shuffled(len(pairs), SIZE, task.generator()) for pairs in (own, rest)]
    for _ in range(ROUNDS):
        mine = list(islice(batches[0], BATCHES))
        others = list(islice(batches[1], BATCHES))
        forget = observed(
            task, trainable, mine, lambda now, rows: forget_loss(*own.features(rows, now))
        )
        retain = observed(
            task,
            trainable,
            others,
            lambda now, rows: contrast(*rest.features(rows, now)),
        )
        rounds.append((forget, retain))
    kept = selected(rounds)
    if not any(int(rows.sum()) for rows in kept.values()):
        raise SlugError(
            f"NEST finds no neuron in {task.opened.model.name} that speaks of "
            f"{task.concept.name!r} and not of the rest, in all of {ROUNDS} rounds."
        )
    along = direction(trainable, kept, _mean([f for f, _ in rounds]), _mean([r for _, r in rounds]))
    best = _searched(task, along)
    count = sum(int(rows.sum()) for rows in kept.values())
    edit = task.edit({qualified(n): best.strength * along[n] for n in along if kept[n].any()})
    return edit.noted(neurons=repr(count))


def observed(
    task: Task,
    trainable: Weights,
    batches: Sequence[Tensor],
    loss: Callable[[Weights, Tensor], Tensor],
) -> Observed:
    """What these batches of rows show under a loss (weights, rows) -> scalar."""
    leaves = {name: w.detach().float().requires_grad_() for name, w in trainable.items()}
    gradient = {name: torch.zeros_like(w, dtype=torch.float32) for name, w in trainable.items()}
    sizes = {name: torch.zeros(len(w)) for name, w in trainable.items()}
    seen: dict[str, list[Tensor]] = {name: [] for name in trainable}
    for done, rows in enumerate(batches):
        task.step("Neurons", done, len(batches))
        with torch.enable_grad(), Activations(leaves) as activations:
            value = loss(leaves, rows)
        for name, grad in zip(leaves, differentiated(value, leaves), strict=True):
            gradient[name] += grad / len(batches)
            sizes[name] += grad.flatten(1).norm(dim=1).cpu() / len(batches)
            seen[name].append(activations.of(name))
    return Observed(gradient, sizes, {name: torch.stack(rows) for name, rows in seen.items()})


def neuron_scores(forget: Observed, retain: Observed) -> dict[str, Tensor]:
    """S of every output row of every weight: (rows,)."""
    found = {}
    for name in forget.gradient:
        kept = _relative(retain.sizes[name])
        gradients = _relative(forget.sizes[name]) - SCORE["a"] * kept
        loud = (observed.activations[name].mean(0) for observed in (forget, retain))
        active, background = (_relative(rows) for rows in loud)
        found[name] = (
            gradients.relu()
            * (active - SCORE["b"] * background).relu()
            * _harmless(forget.gradient[name], retain.gradient[name]) ** SCORE["d"]
            * (EPSILON + kept**2) ** -SCORE["c"]
        )
    return found


def _relative(rows: Tensor) -> Tensor:
    return rows / rows.mean().clamp(min=torch.finfo(rows.dtype).tiny)


def _harmless(forget: Tensor, retain: Tensor) -> Tensor:
    """1 - max(0, cos) of each output row: (rows,)."""
    cosine = torch.cosine_similarity(forget.flatten(1), retain.flatten(1), eps=1e-20)
    return 1 - cosine.clamp(min=0).cpu()


def selected(rounds: Sequence[tuple[Observed, Observed]]) -> dict[str, Tensor]:
    """Masks of the rows at the top in every round whose activations differ for certain."""
    frequency: dict[str, Tensor] = {}
    for forget, retain in rounds:
        scores = neuron_scores(forget, retain)
        every = torch.cat(list(scores.values()))
        threshold = every.quantile(1 - SHARE)
        for name, rows in scores.items():
            top = ((rows >= threshold) & (rows > 0)).float() / len(rounds)
            frequency[name] = frequency.get(name, torch.zeros_like(rows)) + top
    stable = {name: rows >= FREQUENCY - 1e-6 for name, rows in frequency.items()}
    chances = {
        name: different(
            torch.cat([forget.activations[name] for forget, _ in rounds]),
            torch.cat([retain.activations[name] for _, retain in rounds]),
        )
        for name in stable
    }
    tested = torch.cat([chances[name][stable[name]] for name in stable])
    limit = discovery_limit(tested, FALSE_RATE)
    return {name: stable[name] & (chances[name] <= limit) for name in stable}


def different(a: Tensor, b: Tensor) -> Tensor:
    """The two-sided p-value of Welch's t for each column of (n, rows) and (m, rows)."""
    spread = a.var(0) / len(a) + b.var(0) / len(b)
    t = (a.mean(0) - b.mean(0)) / spread.sqrt().clamp(min=torch.finfo(a.dtype).tiny)
    return torch.erfc(t.abs() / 2**0.5)


def discovery_limit(chances: Tensor, rate: float) -> float:
    """Benjamini-Hochberg: the largest p-value that is still a discovery; -1 when none is."""
    ordered = chances.sort().values
    ranks = torch.arange(1, len(ordered) + 1)
    passed = ordered[ordered <= rate * ranks / max(1, len(ordered))]
    return passed[-1].item() if len(passed) else -1.0


def _mean(several: Sequence[Observed]) -> Observed:
    def mean(kind: str) -> dict[str, Tensor]:
        maps = [getattr(some, kind) for some in several]
        return {name: torch.stack([each[name] for each in maps]).mean(0) for name in maps[0]}

    return Observed(mean("gradient"), mean("sizes"), mean("activations"))


def direction(
    trainable: Weights, kept: Rows, forget: Observed, retain: Observed
) -> dict[str, Tensor]:
    """The update of the kept rows, as long as these rows together; zero elsewhere."""
    along, rows = {}, {}
    for name, mask in kept.items():
        weight, gradient = trainable[name], forget.gradient[name]
        harmless = _harmless(gradient, retain.gradient[name]) ** STEP["d"]
        factor = harmless * (EPSILON + retain.sizes[name] ** 2) ** -STEP["c"]
        length = gradient.flatten(1).norm(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
        each = mask * factor.clamp(LEAST, MOST) / length.cpu()
        shape = (-1, *[1] * (weight.dim() - 1))
        along[name] = gradient * each.to(gradient).view(shape)
        rows[name] = weight.float() * mask.to(weight.device).view(shape)
    return dict(weights.scaled(along, weights.norm(rows) / weights.norm(along)))


def _searched(task: Task, along: Weights) -> Score:
    """The best of the evaluations along the direction, by .5 forgotten - .5 lost."""
    evaluate = task.evaluators.full
    before = evaluate(task.edit({}))(0.0)

    def full(strength: float) -> Score:
        task.step("NEST, search of the step", 0, 0)
        edit = task.edit({qualified(name): strength * along[name] for name in along})
        return replace(evaluate(edit)(1.0), strength=strength)

    def worth(score: Score) -> float:
        gain = before.forget_acc - score.forget_acc
        return 0.5 * gain - 0.5 * (before.retain_acc - score.retain_acc)

    trace = search.search(full, Goal(), rule="paper", evaluations=EVALUATIONS)
    return max(trace, key=lambda score: (worth(score), -score.strength))
