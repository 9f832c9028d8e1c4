"""Variants of SLUG, ours: other forget texts, directions, layers and rules beside the paper's.

Each changes one thing of SLUG and leaves the rest, above all the search of the step, as it is.
Knows a task and its CLIP.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import torch
from torch import Tensor

from slugdemo import catalog, data, layers
from slugdemo.concept import prompt, style_prompt
from slugdemo.data import Pairs
from slugdemo.edit import LAYER_NORM, Edit, qualified
from slugdemo.gradients import Gradients, forget_loss, gradient
from slugdemo.layers import LayerScore
from slugdemo.models import towers
from slugdemo.task import Task
from slugdemo.weights import Weights

PAIRED = 4  # layers, the most important of the front, of which each two are tried together
TRACED = 16  # pairs on which layers are traced
NOISE = 3.0  # standard deviations of the noise that hides the concept


def along(task: Task, score: LayerScore, forget: Weights) -> Edit:
    """The edit of one layer along a direction, as long as the layer, at strength 0."""
    weights = task.clip.named()
    edit = Edit.along(
        {qualified(name): forget[name] for name in score.tensors},
        {qualified(name): weights[name] for name in score.tensors},
        concept=task.concept.name,
        method=task.config.method,
        layer=qualified(score.layer),
    )
    return task.identified(edit)


# ---- the direction


def orthogonal(task: Task) -> Edit:
    """SLUG along g_f - (g_f . g_r / |g_r|^2) g_r in each layer: to first order what is kept stays.

    Deviation from SLUG: the direction is freed of its part along the retain gradient.
    """
    both = task.gradients

    def freed(score: LayerScore) -> Edit:
        return along(task, score, without({n: both.forget[n] for n in score.tensors}, both.retain))

    return task.tune([freed(s) for s in task.front], lambda: [freed(s) for s in task.next_front])


def without(direction: Weights, other: Weights) -> Weights:
    """A direction over some tensors less its part along another one over the same tensors."""
    pairs = [(direction[name].double(), other[name].double()) for name in direction]
    length = sum(float((b * b).sum()) for _, b in pairs)
    share = sum(float((a * b).sum()) for a, b in pairs) / length if length else 0.0
    return {name: (a - share * b).float() for name, (a, b) in zip(direction, pairs, strict=True)}


def synonyms(task: Task) -> Edit:
    """SLUG with a forget gradient of all the concept's texts: name, synonyms and descriptions.

    L_f is the mean over pictures and texts. Deviation from SLUG: it pairs every picture with the
    name alone. A concept without other words gives SLUG's own edit.
    """
    write = style_prompt if task.concept.domain == "style" else prompt
    captions = [task.concept.words, *map(write, catalog.other_words(task.concept.name))]
    pairs = Pairs(
        [replace(shown, caption=text) for text in captions for shown in task.concept.forget],
        task.clip,
        size=task.config.batch,
    )
    forget = gradient(
        task.clip,
        pairs,
        loss=forget_loss,
        names=layers.candidates(task.clip),
        tick=lambda: task.step("Gradients of all its texts", 0, 0),
    )
    every = layers.scores(
        task.clip.named(),
        Gradients(forget, task.gradients.retain),
        granularity=task.config.granularity,
    )
    moving = [s for s in every if {*s.tensors} <= task.editable and s.importance > 0]
    front = layers.pareto_front(moving, alignment=task.config.alignment)

    def further() -> list[Edit]:
        left = layers.behind(moving, front)
        after = layers.pareto_front(left, alignment=task.config.alignment)
        return [along(task, score, forget) for score in after]

    return task.tune([along(task, score, forget) for score in front], further)


# ---- the layers


def two_layers(task: Task) -> Edit:
    """SLUG in two layers at once, each along its own gradient by the same fraction of its norm.

    Each two of the four most important layers of the front are tried. Deviation from SLUG: two
    layers instead of one.
    """
    first = sorted(task.front, key=lambda score: -score.importance)[:PAIRED]
    singles = [along(task, score, task.gradients.forget) for score in first]
    if len(singles) < 2:
        return task.tune(singles)
    return task.tune([together(*two) for two in combinations(singles, 2)])


def together(edit: Edit, other: Edit) -> Edit:
    """Two edits of one layer each as one."""
    about = {key: value for key, value in edit.about.items() if key not in ("layer", "ratio")}
    about["layers"] = f"{edit.layer}, {other.layer}"
    return replace(edit, delta={**edit.delta, **other.delta}, unit=LAYER_NORM, about=about)


def causal_tracing(task: Task) -> Edit:
    """SLUG in the layer that causal tracing points at, one a tower (Meng et al. 2022; Basu et al. 2024).

    The concept is hidden behind noise where a tower begins, then what one attention or one MLP
    adds is put back as it was; the layer whose return brings the picture and its text nearest
    again is edited: the output matrix of that attention or MLP. Deviation from SLUG: no gradient
    chooses the layer; direction and step are SLUG's.
    """
    chosen = [traced(task, tower) for tower in towers.TOWERS]
    found = [score for score in chosen if score is not None]
    return task.tune([along(task, score, task.gradients.forget) for score in found])


def traced(task: Task, tower: str) -> LayerScore | None:
    """The layer of one tower whose restoration recovers most; None where none can be edited."""
    known = {score.layer: score for score in task.scores if score.importance > 0}
    stages = towers.chain(task.clip.model, tower)
    names = [written(stage, tower) for stage in stages]
    able = [at for at, name in enumerate(names) if name in known]
    if not able:
        return None
    shown = task.concept.forget[:TRACED]
    pixels = data.pixels(shown, task.clip.transform).to(task.clip.device)
    tokens = task.clip.tokenize([example.caption for example in shown]).to(task.clip.device)
    with torch.no_grad():
        if tower == "text":
            inputs, other = tokens, task.clip.encode_image(pixels)
        else:
            inputs, other = pixels, task.clip.encode_text(tokens)
        values = recovered(task, tower, inputs, other, able)
    best = max(zip(able, values, strict=True), key=lambda pair: pair[1])[0]
    return known[names[best]]


def written(stage: towers.Stage, tower: str) -> str:
    """The matrix through which a stage adds to the stream; "" for the first and the last stage."""
    lead = "visual." if tower == "vision" else ""
    ends = {"attn.": "attn.out_proj.weight", "mlp.": "mlp.c_proj.weight"}
    for prefix in stage.prefixes:
        for end, matrix in ends.items():
            if prefix.startswith(f"{lead}transformer.") and prefix.endswith(f".{end}"):
                return prefix.removesuffix(end) + matrix
    return ""


def recovered(
    task: Task, tower: str, inputs: Tensor, other: Tensor, able: Sequence[int]
) -> list[float]:
    """The mean cosine with the features of the other tower, with each of the stages put back."""
    model = task.clip.model
    stages = towers.chain(model, tower)
    x, rows = towers.prepare(model, tower, inputs)
    start = stages[0].run(x, rows)
    noise = torch.randn(start.shape, generator=task.generator()).to(start)
    noisy = start + NOISE * start.std() * noise
    noisy[:, :1] = start[:, :1]  # the first token tells nothing of the concept
    clean = added(stages, start, rows)

    def run(restored: int) -> Tensor:
        y = noisy
        for at, stage in enumerate(stages[1:], 1):
            y = read(y, stage, rows) + clean[at] if at == restored else stage.run(y, rows)
        return torch.nn.functional.normalize(y, dim=-1)

    found = []
    for at in able:
        task.step("Tracing layers", at, len(stages))
        found.append(float((run(at) * other).sum(-1).mean()))
    return found


def added(stages: Sequence[towers.Stage], x: Tensor, rows: Tensor) -> dict[int, Tensor]:
    """What every stage but the first and the last adds to the stream, by its number."""
    found = {}
    for at, stage in enumerate(stages[1:-1], 1):
        after = stage.run(x, rows)
        found[at] = after - (x if after.shape == x.shape else at_rows(x, rows))
        x = after
    return found


def read(x: Tensor, stage: towers.Stage, rows: Tensor) -> Tensor:
    """The stream as a stage leaves it but for what it adds: the last attention keeps one token."""
    after = stage.run(x, rows)
    return x if after.shape == x.shape else at_rows(x, rows)


def at_rows(x: Tensor, rows: Tensor) -> Tensor:
    """The one token of each item that is read at last: (N, 1, W)."""
    return x[torch.arange(len(x), device=x.device), rows][:, None]


# ---- the rule


def paper_rule(task: Task) -> Edit:
    """SLUG by the paper's rule and nothing else, whatever the task's config says.

    Ten evaluations of every front layer, no floor for what is kept, no margin, no shortlist and
    no next fronts; the concept counts as gone when it is not among the five best answers.
    """
    twin = copy.copy(task)
    twin.config = replace(task.config, tuning=replace(task.config.tuning, rule="paper"))
    for kept in ("evaluation", "evaluators"):
        twin.__dict__.pop(kept, None)  # they ask for the best answer alone
    return twin.tune([along(task, score, task.gradients.forget) for score in task.front])
