"""How fast: each figure is a ratio of two things measured in turns in this very run.

Absolute times drift with the machine and are only reported beside. Knows the house below the
command line; prints nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, TypeVar

import open_clip
import torch

from slugdemo import catalog, layers
from slugdemo import search as searches
from slugdemo.benchmark import runner
from slugdemo.benchmark.cells import Cell
from slugdemo.benchmark.figures import Figure, median, ratio, seconds
from slugdemo.benchmark.naive import naive, texts
from slugdemo.concept import prompt
from slugdemo.config import Config
from slugdemo.cost import Peak, settle
from slugdemo.data import Pairs
from slugdemo.edit import Edit, apply, clip_name, qualified
from slugdemo.errors import SlugError
from slugdemo.evaluation.classify import ClassifyEvaluation
from slugdemo.evaluation.eval_set import around
from slugdemo.evaluation.prompt_set import JUDGED_DENOISING, JUDGED_GUIDANCE
from slugdemo.gradients import Batch, Gradients, forget_loss, gradients, retain_loss
from slugdemo.methods.slug import direction
from slugdemo.models.clip import Clip
from slugdemo.models.loading import Opened, opened
from slugdemo.models.zero_shot import Memory, ZeroShot
from slugdemo.search import Evaluator, Evaluators, Score, Search, Tuning
from slugdemo.task import Task

RUNGS = 16
METHODS = 8  # in a gallery
SHOWN = ("cat", "dog", "house", "tree")
VISITORS = 100
SIZE = 32  # pairs in a batch
OWN = 16  # pictures that a visitor brings
Found = TypeVar("Found")
PAPER = Tuning(rule="paper")
POCKET = {"zero-shot": "pocket-clip", "diffusion": "pocket-sd", "vlm": "pocket-llava"}


@dataclass(frozen=True)
class Plan:
    """What is measured: models by kind, pairs behind a gradient, rounds, and the full-size CLIP.

    `concepts` are erased by `method` in the diffusion model to see how many cells a minute takes;
    all cost alike, since every model here knows them.
    """

    models: tuple[tuple[str, str], ...] = tuple(POCKET.items())
    pairs: int = 256
    repeat: int = 3
    full: bool = False
    full_pairs: int = 512

    concepts: tuple[str, ...] = ("elephant", "zebra", "panda", "rabbit", "koala", "duck")
    method: str = "uce"

    def open(self, kind: str) -> Opened:
        """The model of a kind, in float32 throughout, as what it is measured against."""
        return opened(dict(self.models)[kind], dtype="float32")


def figures(plan: Plan) -> Iterator[Figure]:
    """Every figure as it is measured; one whose models are missing has no value."""
    parts: dict[str, Callable[[Plan], Figure | Iterator[Figure]]] = {}
    parts |= {"locate": locate, "own concept": own_concept, "search": search}
    parts |= {"every layer": every_layer, "ladder": ladder, "gallery": gallery}
    parts["two workers"] = two_workers
    parts |= {f"{kind}: Host.edited": partial(edited, kind=kind) for kind in POCKET}
    parts["visitors"] = visitors
    if plan.full:
        parts |= {"full-size time": full_time, "full-size memory": full_memory}
    for name, part in parts.items():
        try:
            found = part(plan)
            yield from [found] if isinstance(found, Figure) else found
        except SlugError as error:
            yield Figure(name, float("nan"), details={"skipped": str(error)})


def noise_batches(clip: Clip, pairs: int) -> list[Batch]:
    """Random pictures with captions, in batches; times do not depend on what they show.

    Raises SlugError unless they fill batches of `SIZE`, or are fewer than one holds.
    """
    size = min(pairs, SIZE)
    if pairs % size:
        raise SlugError(f"{pairs} pairs do not fill batches of {SIZE}: give a multiple of {SIZE}.")
    dice = torch.Generator().manual_seed(0)
    side = clip.model.visual.image_size
    shape = (3, *side) if isinstance(side, tuple) else (3, side, side)
    tokens = clip.tokenize([prompt(SHOWN[at % len(SHOWN)]) for at in range(size)])
    return [(torch.randn(size, *shape, generator=dice), tokens) for _ in range(pairs // size)]


def bare(clip: Clip, batches: list[Batch], names: list[str]) -> None:
    """The forward and backward passes that both gradients need, and nothing else."""
    leaves = {name: clip.named()[name].detach().requires_grad_() for name in names}
    model = clip.edited(leaves).model
    for loss in (forget_loss, partial(retain_loss, scale=clip.logit_scale)):
        for pixels, tokens in batches:
            image = model.encode_image(pixels, normalize=True)
            text = model.encode_text(tokens, normalize=True)
            torch.autograd.grad(loss(image, text), list(leaves.values()), allow_unused=True)


def located(clip: Clip, batches: list[Batch], names: list[str]) -> Gradients:
    """Both gradients, after all scores and the fronts were made of them."""
    slopes = gradients(clip, batches, retain=batches, names=names)
    layers.pareto_front(layers.scores(clip.named(), slopes))
    return slopes


def locate(plan: Plan) -> Figure:
    """Time of `locate` over that of the bare passes."""
    return _located("locate / bare passes", plan.open("zero-shot").clip, plan.pairs, plan.repeat)


def _located(name: str, clip: Clip, pairs: int, repeat: int) -> Figure:
    batches, names = noise_batches(clip, pairs), layers.candidates(clip)
    value, details = ratio(
        lambda: located(clip, batches, names), lambda: bare(clip, batches, names), repeat=repeat
    )
    return Figure(name, value, 0.8, unit="x", details=details | {"pairs": pairs})


def own_concept(plan: Plan) -> Figure:
    """Time from 16 pictures of one's own to the plot: both passes anew, over ours.

    Ours takes the gradient of the new pictures alone: that of what is kept is the same for all who
    bring pictures, and is remembered from when the page started.
    """
    model = plan.open("zero-shot")
    some = next(iter(_known(model).concept.forget))
    mine = [replace(some, caption="my own", labels={"concept": "my own"})] * OWN
    task = Task(model, catalog.own("my own", mine), Config())
    clip, names = model.clip, layers.candidates(model.clip)
    kept = task.retain_split[0]

    def plotted(cache: Path) -> None:
        forget = Pairs(task.concept.forget, clip, size=task.config.batch)
        retain = Pairs(kept, clip, size=min(task.config.batch, len(kept)), seed=task.config.seed)
        slopes = gradients(clip, forget, retain=retain, names=names, cache=cache)
        layers.pareto_front(layers.scores(clip.named(), slopes))

    with TemporaryDirectory() as folder:
        remembered = Path(folder)

        def anew() -> None:
            with TemporaryDirectory() as empty:
                plotted(Path(empty))

        def ours() -> None:
            for file in remembered.glob("forget-*"):
                file.unlink()
            plotted(remembered)

        value, details = ratio(anew, ours, repeat=min(plan.repeat, 3))
    name = f"own concept of {OWN} pictures: both gradients anew / plot"
    return Figure(name, value, 4.0, less=False, unit="x", details=details | {"kept": len(kept)})


def search(plan: Plan) -> Figure:
    """Time of the naive search over that of `tune`: all front layers, ten evaluations each.

    A naive evaluation costs the same at every step, so one is timed for each layer, at the step
    that was chosen there; `full` runs the whole naive search instead.
    """
    task = _known(plan.open("zero-shot"))
    candidates = [direction(task, score) for score in task.front]
    evaluation, target = _classified(task), task.concept.name
    times: list[float] = []
    found: list[Search] = []
    for _ in range(plan.repeat):
        new = _forgetful(evaluation)
        asked = Evaluators(new.evaluator(target), new.forget_only(target))
        tune = partial(searches.tune, candidates, asked, PAPER)
        times.append(seconds(partial(_kept, tune, found)))
    ours = found[-1]
    if plan.full:
        whole = Evaluators(naive(evaluation))
        slow = seconds(partial(_kept, partial(searches.tune, candidates, whole, PAPER), found))
        same = _agree(ours, found[-1])
    else:
        slow, same = _sampled(naive(evaluation), ours)
    details: dict[str, object] = {
        "seconds": median(times),
        "against": slow,
        "naive search": "whole"
        if plan.full
        else "one evaluation of each layer, times their number",
        "same answers": same,
        "layer": ours.edit.layer,
        "strength": ours.edit.strength,
        "layers": len(ours.attempts),
        "pictures": len(evaluation.host.labels),
        "classes": len(evaluation.host.classes),
    }
    value = slow / median(times)
    return Figure("naive search / tune()", value, 20.0, less=False, unit="x", details=details)


def every_layer(plan: Plan) -> Figure:
    """Time of the reference's way over that of ours: which layer is best, and at which step.

    Its way is a deep copy and a full evaluation for each of ten steps of every layer, of which
    one evaluation is timed for each of the first, the middle and the last; ours is `tune` on the
    front, with nothing remembered.
    """
    task = _known(plan.open("zero-shot"))
    evaluation, target = _classified(task), task.concept.name
    candidates = [direction(task, score) for score in task.front]

    def ours() -> None:
        new = _forgetful(evaluation)
        asked = Evaluators(new.evaluator(target), new.forget_only(target))
        searches.tune(candidates, asked, task.config.tuning)

    moving = [score for score in task.scores if score.importance > 0]
    slow = naive(evaluation)
    some = [moving[0], moving[len(moving) // 2], moving[-1]]
    times = [seconds(partial(slow(direction(task, score)), searches.START)) for score in some]
    against = 10 * len(moving) * median(times)
    quick = median([seconds(ours) for _ in range(plan.repeat)])
    details: dict[str, object] = {
        "seconds": quick, "against": against, "layers": len(moving), "front": len(candidates)
    }  # fmt: skip
    name = "deep copies and full evaluations of every layer / tune()"
    return Figure(name, against / quick, 100.0, less=False, unit="x", details=details)


def _sampled(evaluator: Evaluator, ours: Search) -> tuple[float, bool]:
    """The seconds of a whole naive search, and whether it sees what `tune` saw."""
    total, same = 0.0, True
    for attempt in ours.attempts:
        score = attempt.choice.score
        seen: list[Score] = []
        evaluate = partial(evaluator(attempt.edit), score.strength)
        total += 10 * seconds(partial(_kept, evaluate, seen))
        same &= seen[0].forget_acc == score.forget_acc and seen[0].retain_acc == score.retain_acc
    return total, same


def _kept(work: Callable[[], Found], found: list[Found]) -> None:
    found.append(work())


def _classified(task: Task) -> ClassifyEvaluation:
    """The evaluation of a zero-shot task, which is always this kind."""
    assert isinstance(task.evaluation, ClassifyEvaluation)
    return task.evaluation


def _known(model: Opened) -> Task:
    """A task for the first shipped concept that the model recognises at all."""
    for entry in catalog.listing():
        if entry.get("forgettable", True):
            with suppress(SlugError):
                concept = catalog.concept(entry["name"])
                task = Task(model, concept, Config(), replace(around(concept), test=()))
                if _classified(task).host.score(entry["name"], strength=0.0).forget_acc > 0:
                    return task
    raise SlugError("There is no concept with example pictures that this model knows.")


def _forgetful(evaluation: ClassifyEvaluation) -> ZeroShot:
    """The evaluation's classifier with nothing remembered from an earlier run."""
    host, clip = evaluation.host, evaluation.host.clip
    prompts = Memory(clip, "text", clip.tokenize(texts(evaluation)))
    return replace(host, prompts=prompts, pictures=Memory(clip, "vision", host.pictures.inputs))


def _agree(ours: Search, theirs: Search) -> bool:
    """Whether both searches saw the same at the same steps of each layer, and end alike."""
    seen = {
        attempt.edit.layer: {score.strength: score.forget_acc for score in attempt.trace}
        for attempt in theirs.attempts
    }
    same = all(
        seen[attempt.edit.layer].get(score.strength) == score.forget_acc
        for attempt in ours.attempts
        for score in attempt.trace
    )
    return same and (ours.edit.layer, ours.edit.strength) == (
        theirs.edit.layer,
        theirs.edit.strength,
    )


def an_edit(model: Opened, *, strength: float = 0.2) -> Edit:
    """Some edit of a layer that the model reads, along noise."""
    tower = "visual.transformer" if model.kind == "vlm" else "transformer"
    name = f"{tower}.resblocks.0.attn.in_proj_weight"
    weight = model.clip.named()[name].detach()
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    along, layer = {qualified(name): noise}, {qualified(name): weight}
    edit = Edit.along(along, layer, concept="cat", method="noise", layer=qualified(name))
    return edit.at(strength)


def ladder(plan: Plan) -> Figure:
    """Time of 16 steps x 4 prompts in one ladder over one plain pipeline call on 64 prompts."""
    model = plan.open("diffusion")
    host, edit = model.host, an_edit(model)
    prompts, seeds = [prompt(name) for name in SHOWN], list(range(len(SHOWN)))
    rungs = [[edit.at((at + 1) / RUNGS)] for at in range(RUNGS)]

    def ours() -> None:
        options = {"seeds": seeds, "steps": JUDGED_DENOISING, "guidance": JUDGED_GUIDANCE}
        host.ladder(prompts, rungs, **options)

    def theirs() -> None:
        host.pipeline()(
            prompt=prompts * RUNGS,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds * RUNGS],
            num_inference_steps=JUDGED_DENOISING,
            guidance_scale=JUDGED_GUIDANCE,
        )

    value, details = ratio(ours, theirs, repeat=min(plan.repeat, 3))
    name = f"ladder of {RUNGS} x {len(SHOWN)} / plain call on {RUNGS * len(SHOWN)} prompts"
    return Figure(name, value, 1.05, unit="x", details=details)


def gallery(plan: Plan) -> Figure:
    """Time of one picture by each of some edits, one by one, over that of them in one run."""
    model = plan.open("diffusion")
    host, edit = model.host, an_edit(model)
    edits = [[edit.at((at + 1) / METHODS)] for at in range(METHODS)]
    drawn: dict[str, Any] = {
        "seeds": [0], "steps": JUDGED_DENOISING, "guidance": JUDGED_GUIDANCE
    }  # fmt: skip
    asked = [prompt(SHOWN[0])]

    def together() -> None:
        host.ladder(asked, edits, **drawn)

    def apart() -> None:
        for each in edits:
            host.ladder(asked, [each], **drawn)

    value, details = ratio(apart, together, repeat=min(plan.repeat, 3))
    name = f"a gallery's column of {METHODS} methods, one by one / in one run"
    return Figure(name, value, 1.0, less=False, unit="x", details=details)


def two_workers(plan: Plan) -> Iterator[Figure]:
    """Cells a minute of two processes over those of one, and over those of two workers of a local
    Ray; each is counted once its workers have begun."""
    one, two = (_cells_a_minute(plan, "processes", workers) for workers in (1, 2))
    details: dict[str, object] = {"cells a minute": {1: one, 2: two}, "cells": len(plan.concepts)}
    name = "cells a minute with 2 processes / with 1"
    yield Figure(name, two / one, 1.6, less=False, unit="x", details=details)
    ray = _cells_a_minute(plan, "ray", 2)
    details = {"cells a minute": {"ray": ray, "processes": two}}
    name = "cells a minute with 2 processes / with 2 workers of Ray"
    yield Figure(name, two / ray, 1.2, unit="x", details=details)


def _cells_a_minute(plan: Plan, engine: str, workers: int) -> float:
    """Counted from when each worker has done its first cell, for which it opens the model."""
    model = dict(plan.models)["diffusion"]
    cells = [Cell(model, concept, plan.method) for concept in plan.concepts]
    with TemporaryDirectory() as folder:
        done = runner.run(cells, runner.Store(Path(folder)), engine=engine, workers=workers)
        times = [perf_counter() for _ in done]
    return 60 * (len(cells) - workers) / (times[-1] - times[workers - 1])


def edited(plan: Plan, *, kind: str) -> Figure:
    """Milliseconds of `Host.edited`; of the CLIP's twin, which the zero-shot host makes later."""
    model = plan.open(kind)
    edit, clip = an_edit(model), model.clip
    own = {qualified(name): weight for name, weight in clip.named().items()}

    def twin() -> None:
        if kind == "zero-shot":
            clip.edited({clip_name(name): weight for name, weight in apply(own, [edit]).items()})
        else:
            model.host.edited([edit])

    twin()
    times = [seconds(twin) for _ in range(200)]
    return Figure(f"{kind}: Host.edited", 1000 * median(times), 1.0, unit="ms")


def visitors(plan: Plan) -> Figure:
    """Memory of 100 edited hosts on one base over that of their edited layers."""
    model = plan.open("diffusion")
    edit, host = an_edit(model), model.host
    edits = [edit.at(0.1 + at / 1000) for at in range(VISITORS)]
    layer = sum(tensor.numel() * 4 for tensor in edit.delta.values())
    host.edited([edit])  # reads what it needs of the model for the first time
    settle()
    with Peak() as peak:
        hosts = [host.edited([each]) for each in edits]
    details = {"bytes": peak.bytes, "layers": VISITORS * layer, "hosts": len(hosts)}
    value = peak.bytes / (VISITORS * layer)
    return Figure("memory of 100 visitors / their layers", value, 1.2, unit="x", details=details)


def _full() -> Clip:
    """A ViT-B-32 with random weights."""
    model = open_clip.create_model("ViT-B-32", load_weights=False).eval().requires_grad_(False)
    return Clip(model, open_clip.get_tokenizer("ViT-B-32"), lambda picture: picture, "ViT-B-32")


def full_time(plan: Plan) -> Figure:
    """As `locate`, on a full-size architecture."""
    return _located("ViT-B-32: locate / bare passes", _full(), plan.full_pairs, 1)


def full_memory(plan: Plan) -> Figure:
    """Peak memory of `locate` over weights, two gradients, 15 % and one batch's activations."""
    clip = _full()
    batches, names = noise_batches(clip, min(plan.full_pairs, 2 * SIZE)), layers.candidates(clip)
    grads = 4 * sum(clip.named()[name].numel() for name in names)
    weights = 4 * sum(tensor.numel() for tensor in clip.named().values())
    settle()
    with Peak() as once:
        bare(clip, batches[:1], names)
    settle()
    with Peak() as peak:
        located(clip, batches, names)
    activations = max(0, once.bytes - grads)
    allowed = 1.15 * (weights + 2 * grads) + activations
    details = {"bytes": peak.bytes + weights, "allowed": allowed, "activations": activations}
    name = "ViT-B-32: peak memory / allowed"
    return Figure(name, (peak.bytes + weights) / allowed, 1.0, unit="x", details=details)
