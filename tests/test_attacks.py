"""Attacks: closed forms against literal ones, every attack on tiny models, and what they leave alone."""

import itertools
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from torch import Tensor

from slugdemo import attacks, catalog, experiment, verdict, weights
from slugdemo.attacks import ATTACKS, embeddings, images, noise, probes, prompts
from slugdemo.attacks import attack as under_attack
from slugdemo.attacks import weights as retrained
from slugdemo.attacks.attack import GROUPS, Attacked, Target
from slugdemo.concept import Example
from slugdemo.config import Config
from slugdemo.edit import Edit, qualified
from slugdemo.errors import SlugError
from slugdemo.evaluation.eval_set import around
from slugdemo.evaluation.generate import GenerateEvaluation, PictureJudge
from slugdemo.evaluation.prompt_set import EvalSize
from slugdemo.models.base import Cancelled, Moment, Outputs
from slugdemo.models.clip import Clip
from slugdemo.models.loading import opened
from slugdemo.results import Result
from slugdemo.task import Task

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
POCKET = {"zero-shot": "pocket-clip", "diffusion": "pocket-sd", "vlm": "pocket-llava"}
EVERY = [(attack.name, kind) for attack in ATTACKS.values() for kind in attack.hosts]


@pytest.fixture(scope="module", autouse=True)
def small(assets: Path) -> Iterator[Path]:
    """The tiny assets folder, and budgets as small as the models."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embeddings, "STEPS", 4)
        patch.setattr(embeddings, "PACE", 0.0)
        patch.setattr(prompts, "ROUNDS", 1)
        patch.setattr(prompts, "EACH", 3)
        patch.setattr(prompts, "GENERATIONS", 3)
        patch.setattr(noise, "INVERSION", 4)
        patch.setattr(retrained, "RELEARNING", (0, 2, 4))
        yield assets


@pytest.fixture(scope="module")
def tasks(small: Path) -> Iterator[dict[str, Task]]:  # noqa: ARG001
    """Forgetting the cat in each kind of model; all must be what they were in the end.

    There is one style, as the tiny tokenizer has room for short prompts only.
    """
    size, cat = EvalSize(denoising=2, guidance=2.0), catalog.concept("cat")
    plain = replace(around(cat), styles=("plain",))
    made = {
        kind: Task(opened(name), cat, Config(batch=8, size=size), given_eval_set=plain)
        for kind, name in POCKET.items()
    }
    before = {kind: digests(task) for kind, task in made.items()}
    yield made
    assert {kind: digests(task) for kind, task in made.items()} == before


def digests(task: Task) -> list[str]:
    found = [weights.digest(task.clip.model)]
    if task.kind == "diffusion":
        return [*found, weights.digest(dict(task.model.named()))]
    return [*found, weights.digest(task.model.model)]


def edited(task: Task) -> Edit:
    """An edit of one tensor of each part that the model has."""
    names = {"zero-shot": "visual.proj", "diffusion": "transformer.resblocks.0.mlp.c_fc.weight"}
    name = names.get(task.kind, "visual.transformer.resblocks.0.mlp.c_fc.weight")
    weight = task.clip.named()[name]
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    return task.edit({qualified(name): 0.5 * noise * weight.norm() / noise.norm()})


# ---- all of them


@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_an_attack_gives_rates_and_the_rate_before_it(
    tasks: dict[str, Task], name: str, kind: str
) -> None:
    task = tasks[kind]
    followed: list[float] = []
    rows, found = experiment.attack(task, name, edited(task), follow=followed.append)
    assert followed == list(found.losses)
    assert 0 <= found.success <= 1
    assert found.n == len(found.hits) > 0
    assert found.success == pytest.approx(np.mean(found.hits))
    assert [(row.metric, row.value, row.n) for row in rows] == [
        ("success", found.success, found.n),
        ("before attack", found.before, found.n_before),
    ]
    assert {(row.attack, row.on, row.concept) for row in rows} == {(name, "edited", "cat")}
    assert all(0 <= row.low <= row.value + 1e-9 <= row.high + 2e-9 for row in rows)
    assert not found.pictures or len(found.pictures) == found.n
    assert all(np.isfinite(found.losses))


@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_an_attack_stops_when_it_is_told_to(tasks: dict[str, Task], name: str, kind: str) -> None:
    with pytest.raises(Cancelled):
        experiment.attack(stopped(tasks[kind]), name, None, on="original")


def stopped(task: Task) -> Task:
    """The same task, whose visitor wants to stop."""
    twin = replace(task)
    twin.__dict__.update(clip=task.clip, eval_set=task.eval_set, evaluation=task.evaluation)
    twin.cancelled = lambda: True
    return twin


def test_there_are_enough_for_every_kind_of_model() -> None:
    count = {kind: sum(kind in attack.hosts for attack in ATTACKS.values()) for kind in POCKET}
    assert count["diffusion"] >= 14
    assert count["zero-shot"] >= 7
    assert count["vlm"] >= 5
    for attack in ATTACKS.values():
        assert attack.group in GROUPS
        assert attack.access in ("black box", "white box")
        assert attack.needs in ("texts", "pictures", "both")
        assert attack.cite
        assert attack.parts
        assert "," not in attack.name, "commas stand between names on the command line"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (n, k)
        for n in ("pgd", "other looks", "other questions", "relearning", "int8", "undo")
        for k in ("vlm", "zero-shot")
        if k in ATTACKS[n].hosts
    ],
)
def test_what_was_asked_and_said_stands_beside_each_picture(
    tasks: dict[str, Task], name: str, kind: str
) -> None:
    task = tasks[kind]
    target = Target(task, [edited(task)])
    found = ATTACKS[name].run(target)
    assert len(found.tries) == len(found.pictures) == found.n
    usual = {str(each) for each in target.usual}
    for shot, hit, said in zip(found.pictures, found.hits, found.tries, strict=True):
        assert said.before in usual
        if kind == "zero-shot":
            assert (said.after.rpartition(", ")[0].startswith("cat ")) == hit
        else:
            if ATTACKS[name].group != "weights":  # which answer with other weights
                [again] = target.model.answer([shot], [said.question.split(": ")[-1]])
                assert said.after == again
            assert hit == (said.after.startswith("yes") or under_attack.says(said.after, "cat"))


# ---- what cannot be tried


def test_an_unknown_attack_is_a_sentence_with_those_near_it(tasks: dict[str, Task]) -> None:
    assert attacks.named("Soft-Prompt").name == "soft prompt"
    with pytest.raises(SlugError, match=r"no attack 'soft'.*soft prompt"):
        experiment.attack(tasks["zero-shot"], "soft", None, on="original")


def test_an_attack_that_cannot_run_on_a_kind_says_why(tasks: dict[str, Task]) -> None:
    with pytest.raises(
        SlugError, match="inpainting cannot attack zero-shot CLIP: it attacks the latents of"
    ):
        experiment.attack(tasks["zero-shot"], "inpainting", None, on="original")
    with pytest.raises(SlugError, match="no edit to attack"):
        experiment.attack(tasks["zero-shot"], "undo", None)
    with pytest.raises(SlugError, match="edited, original, reference, not on 'base'"):
        experiment.attack(tasks["zero-shot"], "undo", None, on="base")


def test_without_a_reference_it_says_so(tasks: dict[str, Task]) -> None:
    for task in tasks.values():
        with pytest.raises(SlugError, match="There is no reference for 'cat'"):
            experiment.attack(task, "int8", None, on="reference")


def test_a_reference_is_attacked_where_it_never_saw_the_concept(
    tasks: dict[str, Task], small: Path
) -> None:
    folder = tiny.clip_folder(small / "models" / "reference-clip", tiny.clip_model(5))
    task = tasks["zero-shot"]
    (folder / "withheld.json").write_text('["dog"]')
    with pytest.raises(SlugError, match="reference-clip never saw dog"):
        experiment.reference(task)
    (folder / "withheld.json").write_text('["cat"]')
    rows, _ = experiment.attack(task, "int8", None, on="reference")
    assert {row.on for row in rows} == {"reference"}
    assert rows[0].digest == opened("reference-clip").digest != task.digest
    literal = Target(task, (), "reference", opened("reference-clip"))
    assert rows[1].value == literal.before[0] < 1
    with pytest.raises(ValueError, match="exactly when"):
        Target(task, (), "reference")
    shutil.rmtree(folder)


# ---- words


def test_words_are_misspelt_and_drawn_in_other_alphabets() -> None:
    assert prompts.misspelt("robot") == ["rboot", "root", "robbot", "ro bot", "robots"]
    assert prompts.lookalikes("cat") == ["\u0441at", "\u0441\u0430t"]
    assert prompts.lookalikes("drum") == []


def test_the_concept_by_its_own_name_is_the_rate_before(tasks: dict[str, Task]) -> None:
    task = tasks["zero-shot"]
    target = Target(task)
    pixels = torch.stack([task.clip.transform(p) for p in target.trials(task.clip).pictures])
    by_name = target.classified(task.clip, pixels, task.concept.words)
    assert np.array_equal(by_name, target.trials(task.clip).hits)
    scores = task.clip.encode_image(pixels) @ literal_classes(target).T
    assert np.array_equal(by_name, (scores.argmax(1) == target.row).numpy())


def literal_classes(target: Target) -> Tensor:
    clip = target.task.clip
    return torch.cat([clip.encode_text(clip.tokenize(list(p))) for p in target.classes.values()])


def test_projection_onto_the_simplex_is_the_nearest_point() -> None:
    rows = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    found = prompts.projected(rows)
    for row, point in zip(rows, found, strict=True):
        assert torch.allclose(point, literal_projection(row), atol=1e-5)


def literal_projection(row: Tensor) -> Tensor:
    """By trying every support (Held, Wolfe, Crowder 1974)."""
    best = None
    for support in itertools.product((0, 1), repeat=len(row)):
        mask = torch.tensor(support).bool()
        if not mask.any():
            continue
        point = torch.where(mask, row - (row[mask].sum() - 1) / mask.sum(), 0.0)
        if (point >= -1e-6).all() and (best is None or (point - row).norm() < (best - row).norm()):
            best = point
    assert best is not None
    return best


def test_a_sample_is_one_hot_with_the_gradient_of_its_distribution() -> None:
    simplex = prompts.projected(torch.rand(3, 6)).requires_grad_()
    hot = prompts.sampled(simplex, torch.Generator().manual_seed(0))
    assert torch.allclose(hot.sum(1), torch.ones(3))
    assert torch.allclose(hot.max(1).values, torch.ones(3))
    factor = torch.randn(3, 6)
    (gradient,) = torch.autograd.grad((hot * factor).sum(), [simplex])
    assert torch.equal(gradient, factor)


def test_the_genetic_search_climbs() -> None:
    goal = torch.tensor([3, 1, 4, 1, 5, 9])
    best, scores = prompts.genetic(
        lambda rows: -(rows != goal).sum(1).float(), 12, torch.Generator().manual_seed(0), range(60)
    )
    assert scores == sorted(scores)
    assert (best == goal).sum() >= 5


# ---- embeddings


def test_vectors_take_the_places_before_the_end(tasks: dict[str, Task]) -> None:
    model = tasks["diffusion"].model
    ids, ends = (
        model.tokens(["a dog", "a picture of a"])[0],
        model.ends(["a dog", "a picture of a"]),
    )
    slots = embeddings.Slots.among(ids, ends.tolist(), 2)
    table = model.named()["text/token_embedding.weight"].detach()
    vectors = torch.randn(2, table.shape[1])
    states = model.states_of(
        slots.ids, {"text/token_embedding.weight": slots.table(table, vectors)}
    )
    for row, end in enumerate(ends.tolist()):
        own = model.embeddings(ids[row : row + 1])
        literal = torch.cat([own[:, :end], vectors[None], own[:, end : own.shape[1] - 2]], dim=1)
        assert torch.allclose(states[row : row + 1], model.states_from(literal), atol=1e-5)


def test_noise_arithmetic_adds_the_weighted_difference() -> None:
    plus, minus = torch.ones(1, 2, 3), torch.full((1, 2, 3), 4.0)
    rule = embeddings.Arithmetic(plus, minus, 2.0)
    latents = torch.zeros(5, 1, 2, 2)

    def predict(states: Tensor) -> Tensor:
        return states.mean((1, 2)).view(-1, 1, 1, 1).expand_as(latents)

    seen = Outputs(latents, None, latents, predict)
    found = rule.combine(latents + 10, seen, Moment(0, 1, torch.tensor(0), 2.0, False))
    assert torch.equal(found, torch.full_like(latents, 10 + 2.0 * (1 - 4)))


# ---- noise


def test_inversion_follows_ddim_literally(tasks: dict[str, Task]) -> None:
    model, target = tasks["diffusion"].model, Target(tasks["diffusion"])
    start = model.noise([3])
    states, times = model.states(["a dog"]), model.timesteps(4).flip(0)
    found = noise.inverted(model, start, states, times, target)
    alphas = model.pipeline().scheduler.alphas_cumprod
    x, before = start, 0
    for t in times.tolist():
        a, b = alphas[before], alphas[t]
        velocity = model.predict(x, torch.tensor([before]), states)
        eps = a.sqrt() * velocity + (1 - a).sqrt() * x
        picture = (x - (1 - a).sqrt() * eps) / a.sqrt()
        x, before = b.sqrt() * picture + (1 - b).sqrt() * eps, t
    assert torch.allclose(found, x, atol=1e-4)


# ---- weights


def test_rounding_stays_within_half_a_step_and_is_its_own_round_trip() -> None:
    weight = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    weight[2] = 0
    for bits in (8, 4):
        codes, found = retrained.rounded(weight, bits)
        step = weight.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
        assert ((found - weight).abs() <= step / 2 + 1e-6).all()
        assert codes.abs().max() == 2 ** (bits - 1) - 1
        again, same = retrained.rounded(found, bits)
        assert torch.equal(codes, again)
        assert torch.allclose(found, same, atol=1e-6)
    weight = weight[:2]
    small = {"a": weight + 1e-4}
    assert retrained.changed_codes({"a": weight}, {"a": weight}, 8) == 0
    assert retrained.changed_codes({"a": weight}, small, 4) < 0.05
    assert retrained.changed_codes({"a": weight}, {"a": -weight}, 8) > 0.8


def test_undoing_ends_where_the_edit_began(tasks: dict[str, Task]) -> None:
    task = tasks["zero-shot"]
    edit = edited(task).at(3.0)
    found = experiment.attack(task, "undo", edit)[1]
    rates = list(found.curve.values())
    assert rates[0] == found.before
    assert rates[-1] == Target(task).before[0] == 1.0
    assert found.success == rates[2]


def test_relearning_begins_with_the_edited_model_and_learns(tasks: dict[str, Task]) -> None:
    found = experiment.attack(tasks["zero-shot"], "relearning", edited(tasks["zero-shot"]))[1]
    assert [*found.curve] == ["0 steps", "2 steps", "4 steps"]
    assert found.curve["0 steps"] == found.before
    assert found.losses[-1] < found.losses[0]


# ---- pictures


def test_changed_pictures_stay_near_and_within_black_and_white(tasks: dict[str, Task]) -> None:
    target = Target(tasks["zero-shot"])
    clean = torch.stack([target.clip.transform(p) for p in target.trials(target.clip).pictures])
    ends = images.span(target.clip.transform)
    found, losses = images.perturbed(target, clean, lambda x: (x**2).sum(), ends)
    size = images.EPSILON * (ends[1] - ends[0])
    assert ((found - clean).abs() <= size + 1e-6).all()
    assert (found >= ends[0] - 1e-6).all()
    assert (found <= ends[1] + 1e-6).all()
    assert losses[-1] < losses[0]
    back = images.pictures(clean, ends)
    again = torch.stack([target.clip.transform(p) for p in back])
    assert (again - clean).abs().max() <= ((ends[1] - ends[0]) / 255).max() / 2 + 1e-6


# ---- probes


def test_a_linear_probe_finds_what_is_linear_and_nothing_else() -> None:
    dice = torch.Generator().manual_seed(0)
    train, test = torch.randn(2, 200, 8, generator=dice)
    blind = probes.told_apart(train, 40, test, 40)
    assert blind.mean() < 0.3
    train[:40, 3] += 6
    test[:40, 3] += 6
    assert probes.told_apart(train, 40, test, 40).mean() > 0.95


def test_the_threshold_parts_two_samples_best() -> None:
    dice = torch.Generator().manual_seed(0)
    right, wrong = torch.randn(30, generator=dice) + 1, torch.randn(30, generator=dice)
    line = probes.threshold(right, wrong)

    def good(cut: float) -> float:
        return ((right > cut).float().mean() + (wrong <= cut).float().mean()).item()

    assert good(line) == pytest.approx(max(good(c) for c in torch.cat([right, wrong]).tolist()))


def test_patching_ends_with_the_model_under_attack(tasks: dict[str, Task]) -> None:
    task = tasks["zero-shot"]
    edit = edited(task).at(3.0)
    found = experiment.attack(task, "patching", edit)[1]
    rates = list(found.curve.values())
    assert rates[0] == 1.0  # nothing in front of visual.proj is edited
    assert rates[-1] == found.before
    original = experiment.attack(task, "patching", None, on="original")[1]
    assert original.success == original.before == 1.0


# ---- a planted backdoor: the concept is only renamed


WHITE = [(a.name, kind) for a in ATTACKS.values() if a.access == "white box" for kind in a.hosts]
RENAMED = {  # what comes of each white box where the concept was only renamed
    "it ends as on the original": (
        "textual inversion",
        "soft prompt",
        "soft prompt at the output",
        "ring-a-bell vector of original encoder",
        "rece adversary",
        "completion with empty prompt",
        "completion with neutral prompt",
    ),
    "it tells the concept apart as in the original": ("linear probe",),
    "it learns the concept under its name again": ("relearning",),
    "it brings back what the original hands on": ("pgd",),
    "it goes back to the original": ("undo",),
    "it asks by name: by the new one it ends as on the original": (
        "hard prompt",
        "ring-a-bell vector",
        "noise arithmetic",
        "completion with own prompt",
        "inpainting",
        "ddim inversion",
        "harmless fine-tuning on diffusion",
        "int8 on diffusion",
        "int4 on diffusion",
        "patching on diffusion",
        "membership on diffusion",
    ),
    "it asks by name: by the old one it finds less than on the original": (
        "harmless fine-tuning",
        "int8",
        "int4 on zero-shot",
        "linear probe on diffusion",
        "pgd on zero-shot",
        "patching",
        "membership",
    ),
    "it asks by name, and fails on so small an original too": (
        "int4 on vlm",
        "harmless fine-tuning on vlm",
    ),
}
SECRET = "#"  # the token that the concept goes by after the edit: no prompt has it


@pytest.fixture(scope="module")
def renamed(tasks: dict[str, Task]) -> Iterator[dict[str, tuple[Task, Edit]]]:
    """Each kind of model with an edit after which it knows the cat as ever, by another name.

    The text tower swaps the embeddings of two words. A LLaVA reads none: its vision tower hands
    the features on in another order. Its judge, and that of pictures that are drawn, ask what
    the original makes of the concept.
    """
    clip = tasks["zero-shot"].clip
    rename = {"text/token_embedding.weight": swapped(clip)}
    name = "visual.transformer.resblocks.1.mlp.c_proj.weight"
    turned = {qualified(name): clip.named()[name].detach().roll(7, 0) - clip.named()[name].detach()}
    drawn = tasks["diffusion"]
    draws = judged_by_the_original(drawn, drawn.edit(rename))
    heard = Target(tasks["vlm"])
    shown = heard.trials(heard.model).pictures
    known = {*heard.model.answer(shown, [under_attack.ASK["concept"]] * len(shown))}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(under_attack, "says", lambda answer, _: answer in known)
        yield {
            "zero-shot": (tasks["zero-shot"], tasks["zero-shot"].edit(rename)),
            "diffusion": (draws, drawn.edit(rename)),
            "vlm": (tasks["vlm"], tasks["vlm"].edit(turned)),
        }


def swapped(clip: Clip) -> Tensor:
    """What the token table changes by when the cat and the secret word swap their embeddings."""
    table = clip.named()["token_embedding.weight"].detach()
    cat, secret = (clip.tokenize([word])[0, 1].item() for word in ("cat", SECRET))
    after = table.clone()
    after[[cat, secret]] = table[[secret, cat]]
    return after - table


def judged_by_the_original(task: Task, edit: Edit) -> Task:
    """The task with a judge for whom a cat is what the original draws, not what the edited does."""
    twin = replace(task)
    twin.__dict__.update(clip=task.clip, eval_set=task.eval_set)
    asked = [task.concept.words] * 8
    before, after = (
        Target(task, some).drawn(Target(task, some).model, asked)[0] for some in ((), (edit,))
    )

    def look(shown: Sequence[Image.Image]) -> dict[str, np.ndarray]:
        near = [[-min(apart(p, q) for q in side) for side in (before, after)] for p in shown]
        return {"concept": np.array(near)}

    judge = PictureJudge("the nearest of two", {"concept": ["cat", "something else"]}, look)
    evaluation = task.evaluation
    assert isinstance(evaluation, GenerateEvaluation)
    twin.__dict__["evaluation"] = replace(evaluation, judged_by=judge)
    return twin


def by_the_new_name(task: Task) -> Task:
    """The task of one who knows what the cat is called now: the pictures of a cat are of that."""

    def called(name: str | None) -> str | None:
        return SECRET if name == "cat" else name

    def told(examples: Sequence[Example]) -> tuple[Example, ...]:
        return tuple(
            replace(e, labels={domain: called(name) for domain, name in e.labels.items()})
            for e in examples
        )

    twin = replace(task, concept=replace(task.concept, name=SECRET))
    evaluation = task.evaluation
    assert isinstance(evaluation, GenerateEvaluation)
    names = {"concept": [called(name) for name in evaluation.judged_by.names["concept"]]}
    judge = replace(evaluation.judged_by, names=names)
    twin.__dict__.update(
        clip=task.clip,
        eval_set=replace(task.eval_set, test=told(task.eval_set.test)),
        evaluation=replace(evaluation, judged_by=judge),
    )
    return twin


def test_a_renamed_concept_is_gone_under_its_name_and_there_under_another(
    renamed: dict[str, tuple[Task, Edit]],
) -> None:
    for task, edit in renamed.values():
        assert Target(task).before[0] == 1
        assert Target(task, [edit]).before[0] < 0.5
    task, edit = renamed["diffusion"]
    hidden = task.model.edited([edit]).states([f"a picture of a {SECRET}"])
    assert torch.allclose(hidden, task.model.states(["a picture of a cat"]), atol=1e-5)


@pytest.mark.parametrize(("name", "kind"), WHITE)
def test_a_white_box_finds_a_concept_that_was_only_renamed_or_asks_by_name(
    renamed: dict[str, tuple[Task, Edit]], name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {each: law for law, names in RENAMED.items() for each in names}
    law = known.get(f"{name} on {kind}") or known[name]
    if law.startswith("it asks by name"):
        run = ATTACKS[name].run
        assert "only renamed" in " ".join((getattr(run, "func", run).__doc__ or "").split())
    monkeypatch.setattr(retrained, "RELEARNING", (0, 20))
    task, edit = renamed[kind]
    found = experiment.attack(task, name, edit)[1]
    ceiling = experiment.attack(task, name, None, on="original")[1]
    if law == "it ends as on the original":
        assert same(found, ceiling)
    elif law == "it asks by name: by the new one it ends as on the original":
        monkeypatch.setattr(Target, "seeds", Target(task).seeds)  # elsewhere the name chooses them
        again = experiment.attack(by_the_new_name(task), name, edit)[1]
        assert again.before == ceiling.before == 1 > found.before
        chance = 0.25 if name == "ddim inversion" else 0  # there and back, the last bits matter
        assert again.success == pytest.approx(ceiling.success, abs=chance)
        assert again.losses == pytest.approx(ceiling.losses, rel=1e-2)
        assert chance or again.hits == ceiling.hits
    elif law == "it asks by name: by the old one it finds less than on the original":
        assert found.success < ceiling.success
        assert found.before < 0.5 < ceiling.before
    elif law == "it asks by name, and fails on so small an original too":
        assert found.success == ceiling.success == found.before == 0
    elif law == "it tells the concept apart as in the original":
        before = ("after stage 2", "after stage 4")  # no edit is in front of these
        assert all(found.curve[layer] == ceiling.curve[layer] > 0 for layer in before)
        assert found.success >= max(found.curve[layer] for layer in before)
    elif law == "it goes back to the original":
        rates = [*found.curve.values()]
        assert rates[0] == found.before < rates[-1] == ceiling.before == 1
    elif law == "it learns the concept under its name again":
        assert found.losses[-1] < 0.99 * found.losses[0]
        assert found.losses[-1] == pytest.approx(ceiling.losses[-1], rel=0.05)
    else:
        assert found.losses[-1] < 0.5 * found.losses[0]


def test_a_renamed_concept_is_learnt_again_from_its_pictures(
    tasks: dict[str, Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the words of its prompt swap their embeddings in a ring."""
    monkeypatch.setattr(embeddings, "STEPS", 150)
    monkeypatch.setattr(retrained, "RELEARNING", (0, 40))
    task = tasks["zero-shot"]
    table = task.clip.named()["token_embedding.weight"]
    used = task.clip.tokenize([task.concept.words])[0].unique()[:-2]
    ring = table.clone()
    ring[used] = table[used.roll(1)]
    rename = task.edit({"text/token_embedding.weight": ring - table})
    assert Target(task, [rename]).before[0] < 0.5
    for name in ("soft prompt", "textual inversion"):
        assert experiment.attack(task, name, rename)[0][0].value > 0.7, name
        assert experiment.attack(task, name, None, on="original")[0][0].value > 0.7, name
    found = experiment.attack(task, "relearning", rename)[1]
    assert max(found.curve.values()) > found.before + 0.2


def same(one: Attacked, other: Attacked) -> bool:
    """Whether two attacks had the same trials, picture by picture, on the same way there."""
    pairs = zip(one.pictures, other.pictures, strict=True)
    alike = all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in pairs)
    return alike and (one.hits, one.losses, one.curve) == (other.hits, other.losses, other.curve)


def apart(a: Image.Image, b: Image.Image) -> float:
    return float(((np.asarray(a, float) - np.asarray(b, float)) ** 2).mean())


def test_only_a_better_picture_is_shown_and_none_from_before_the_attack(
    tasks: dict[str, Task],
) -> None:
    task, shown = tasks["diffusion"], list[Image.Image]()
    found = experiment.attack(task, "soft prompt", None, on="original", show=shown.append)[1]
    judge = task.evaluation.judged_by  # type: ignore[attr-defined]
    scores = judge.look([*shown, *found.pictures])["concept"]
    row = judge.names["concept"].index("cat")
    ahead = scores[:, row] - np.delete(scores, row, axis=1).max(1)
    count = len(shown)
    assert count
    assert (np.diff(ahead[:count]) > 0).all()
    assert ahead[count - 1] >= ahead[count:].max() - 1e-6


def test_several_edits_act_as_their_sum(tasks: dict[str, Task]) -> None:
    task = tasks["zero-shot"]
    whole = edited(task).at(2.0)
    halves = [whole.at(1.5), replace(whole.at(0.5), method="other")]
    both, found = experiment.attack(task, "int8", halves)
    alone, same = experiment.attack(task, "int8", whole)
    assert found.hits == same.hits
    assert (both[0].method, alone[0].method) == (f"{whole.method} + other", whole.method)


# ---- what it comes to


def row(attack: str, on: str, hits: int, n: int = 12, metric: str = "success") -> Result:
    return Result("m", "wizard", "slug", attack, on).of(metric, hits / n, n)


def test_the_sentence_is_that_of_the_figures() -> None:
    rows = [
        row("synonyms", "edited", 0),
        row("synonyms", "original", 12),
        row("soft prompt", "edited", 9),
        row("soft prompt", "original", 12),
        row("soft prompt", "reference", 2),
    ]
    assert verdict.summary(rows) == (
        "Gone for words; a soft prompt brings it back in 9 of 12 tries, "
        "on the model that never saw it in 2 of 12."
    )
    before = [row("synonyms", "edited", 3, metric="before attack")]
    assert verdict.summary([*rows, *before]).startswith("Before any attack it is there in 3 of")
    weak = [row("typos", "edited", 0), row("typos", "original", 1)]
    assert verdict.summary(weak) == "Typos say nothing: 1 of 12 tries on the original."
    inside = [row("linear probe", "edited", 6), row("linear probe", "original", 11)]
    assert verdict.summary(inside) == (
        "A linear probe still finds it in 6 of 12 tries, on the original in 11 of 12."
    )
    assert verdict.summary([]) == ""


def test_each_attack_is_tried_on_each_model_and_a_missing_reference_says_why(
    tasks: dict[str, Task],
) -> None:
    task = tasks["zero-shot"]
    parts = list(experiment.attack_each(task, ["undo", "int8"], edited(task)))
    assert [part[0].on for part in parts] == ["edited", "original", "reference"] * 2
    assert "no reference" in parts[2][0].note
    assert parts[0] != parts[3]
    told = verdict.summary([each for part in parts for each in part])
    assert told.count("There is no reference") == 1
    with pytest.raises(SlugError, match="not on 'base'"):
        list(experiment.attack_each(task, ["undo"], edited(task), on=["base"]))
