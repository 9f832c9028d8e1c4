"""Attacks: closed forms against literal ones, every attack on tiny models, and what they leave alone."""

import itertools
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import house
import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from torch import Tensor

from slugdemo import attacks, catalog, experiment, weights
from slugdemo.attacks import ATTACKS, embeddings, images, noise, probes, prompts
from slugdemo.attacks import weights as retrained
from slugdemo.attacks.attack import GROUPS, Target
from slugdemo.config import Config
from slugdemo.edit import Edit, qualified
from slugdemo.errors import SlugError
from slugdemo.evaluation.eval_set import around
from slugdemo.evaluation.generate import PictureJudge
from slugdemo.evaluation.prompt_set import EvalSize
from slugdemo.models.base import Cancelled, Moment, Outputs
from slugdemo.models.loading import opened
from slugdemo.results import Result
from slugdemo.task import Task

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
POCKET = {"zero-shot": "pocket-clip", "diffusion": "pocket-sd", "vlm": "pocket-llava"}
EVERY = [(attack.name, kind) for attack in ATTACKS.values() for kind in attack.hosts]


@pytest.fixture(scope="module", autouse=True)
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The tiny assets folder, and budgets as small as the models."""
    folder = house.build(tmp_path_factory.mktemp("assets"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLUGDEMO_ASSETS", str(folder))
        patch.setenv("SLUGDEMO_CACHE", str(folder / "cache"))
        patch.setattr(embeddings, "STEPS", 4)
        patch.setattr(embeddings, "PACE", 0.0)
        patch.setattr(prompts, "ROUNDS", 1)
        patch.setattr(prompts, "EACH", 3)
        patch.setattr(prompts, "GENERATIONS", 3)
        patch.setattr(noise, "INVERSION", 4)
        patch.setattr(retrained, "RELEARNING", (0, 2, 4))
        yield folder


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


# ---- what cannot be tried


def test_an_unknown_attack_is_a_sentence_with_those_near_it(tasks: dict[str, Task]) -> None:
    assert attacks.named("Soft-Prompt").name == "soft prompt"
    with pytest.raises(SlugError, match=r"no attack 'soft'.*soft prompt"):
        experiment.attack(tasks["zero-shot"], "soft", None, on="original")


def test_an_attack_that_cannot_run_on_a_kind_says_why(tasks: dict[str, Task]) -> None:
    with pytest.raises(SlugError, match="inpainting cannot attack a zero-shot CLIP: it works thr"):
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
    assert rows[0].digest == opened("reference-clip").clip.digest != task.clip.digest
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
    pixels = torch.stack([task.clip.transform(p) for p in target.trials(task.clip)[0]])
    by_name = target.classified(task.clip, pixels, task.concept.words)
    assert np.array_equal(by_name, target.trials(task.clip)[1])
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
    clean = torch.stack([target.clip.transform(p) for p in target.trials(target.clip)[0]])
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


def test_white_boxes_find_a_concept_that_was_only_renamed(
    tasks: dict[str, Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tokens of the name swap their embeddings with others: its pictures are still known."""
    monkeypatch.setattr(embeddings, "STEPS", 150)
    task = tasks["zero-shot"]
    table = task.clip.named()["token_embedding.weight"]
    used = task.clip.tokenize([task.concept.words])[0].unique()[:-2]
    swapped = table.clone()
    swapped[used] = table[used.roll(1)]
    rename = task.edit({"text/token_embedding.weight": swapped - table})
    assert Target(task, [rename]).before[0] < 0.5
    monkeypatch.setattr(retrained, "RELEARNING", (0, 40))
    for name in ("soft prompt", "textual inversion"):
        assert experiment.attack(task, name, rename)[0][0].value > 0.7, name
        assert experiment.attack(task, name, None, on="original")[0][0].value > 0.7, name
    inside = [
        experiment.attack(task, "linear probe", edit, on=on)[1].curve
        for edit, on in ((rename, "edited"), (None, "original"))
    ]
    assert inside[0] == inside[1]  # pictures are seen as ever
    for name in ("relearning", "undo"):
        found = experiment.attack(task, name, rename)[1]
        assert max(found.curve.values()) > found.before + 0.2, name


def test_the_adversary_draws_what_a_renamed_concept_was(tasks: dict[str, Task]) -> None:
    """States of another tower bring the very pictures back, as the U-Net is the same."""
    task = replace(tasks["diffusion"])
    task.__dict__.update(clip=tasks["diffusion"].clip, evaluation=tasks["diffusion"].evaluation)
    rename = edited(task).at(3.0)
    before = Target(task).drawn(task.model, [task.concept.words] * 8)[0]
    after = Target(task, [rename]).drawn(Target(task, [rename]).model, [task.concept.words] * 8)[0]

    def look(shown: Sequence[Image.Image]) -> dict[str, np.ndarray]:
        near = [[-apart(a, b), -apart(a, c)] for a, b, c in zip(shown, before, after, strict=True)]
        return {"concept": np.array(near)}

    nearest = PictureJudge("the nearest of two", {"concept": ["cat", "something else"]}, look)
    task.__dict__["evaluation"] = replace(task.evaluation, judged_by=nearest)
    assert Target(task, [rename]).before[0] == 0
    assert Target(task).before[0] == 1
    rows, found = experiment.attack(task, "rece adversary", rename)
    assert rows[0].value == 1
    assert "lies" in found.note


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
    assert experiment.summary(rows) == (
        "Gone for words; a soft prompt brings it back in 9 of 12 tries, "
        "on the model that never saw it in 2 of 12."
    )
    before = [row("synonyms", "edited", 3, metric="before attack")]
    assert experiment.summary([*rows, *before]).startswith("Before any attack it is there in 3 of")
    weak = [row("typos", "edited", 0), row("typos", "original", 1)]
    assert experiment.summary(weak) == "Typos say nothing: 1 of 12 tries on the original."
    inside = [row("linear probe", "edited", 6), row("linear probe", "original", 11)]
    assert experiment.summary(inside) == (
        "A linear probe still finds it in 6 of 12 tries, on the original in 11 of 12."
    )
    assert experiment.summary([]) == ""


def test_each_attack_is_tried_on_each_model_and_a_missing_reference_says_why(
    tasks: dict[str, Task],
) -> None:
    task = tasks["zero-shot"]
    parts = list(experiment.attack_each(task, ["undo", "int8"], edited(task)))
    assert [part[0].on for part in parts] == ["edited", "original", "reference"] * 2
    assert "no reference" in parts[2][0].note
    assert parts[0] != parts[3]
    told = experiment.summary([each for part in parts for each in part])
    assert told.count("There is no reference") == 1
    with pytest.raises(SlugError, match="not on 'base'"):
        list(experiment.attack_each(task, ["undo"], edited(task), on=["base"]))
