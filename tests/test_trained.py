"""Trained methods: their losses against literal ones, what they leave alone, and stopping."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import Tensor

from slugdemo import catalog, data, weights
from slugdemo.config import Config
from slugdemo.edit import Edit, clip_name, qualified
from slugdemo.errors import SlugError
from slugdemo.methods.ga import ga
from slugdemo.models.base import Cancelled
from slugdemo.models.loading import opened
from slugdemo.task import Task
from slugdemo.training import TowerPairs, adamw, shuffled, tower_weights, trained

ga_module = import_module("slugdemo.methods.ga")  # the package's `ga` is the function

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.usefixtures("assets"),
]


@pytest.fixture(scope="module")
def robot(assets: Path) -> Iterator[Task]:  # noqa: ARG001
    """Forgetting the robot in the tiny CLIP, which must be what it was in the end."""
    task = Task(opened("pocket-clip"), catalog.concept("robot"), Config(batch=8))
    before = weights.digest(task.clip.model)
    yield task
    assert weights.digest(task.clip.model) == before
    assert all(tensor.grad is None for tensor in task.clip.model.parameters())


def literal_cosines(task: Task) -> Tensor:
    """cos(picture, its caption) of every pair to forget, one by one."""
    found = []
    for example in task.concept.forget:
        pixels = data.pixels([example], task.clip.transform)
        tokens = task.clip.tokenize([example.caption])
        image, text = task.clip.model.encode_image(pixels), task.clip.model.encode_text(tokens)
        found.append(torch.cosine_similarity(image, text))
    return torch.cat(found)


def test_training_is_the_optimisers_own_and_leaves_the_weights_alone(robot: Task) -> None:
    start = {"a": torch.tensor([1.0, -2.0]), "b": torch.ones(3)}
    told: list[tuple[int, int]] = []
    watched = replace(robot, progress=lambda _, done, total: told.append((done, total)))
    delta = trained(
        watched, start, lambda now, _: (now["a"] ** 2).sum(), steps=3, optimiser=adamw(0.1, 0.5)
    )
    twin = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    literal = torch.optim.AdamW([twin], lr=0.1, weight_decay=0.5)
    for _ in range(3):
        literal.zero_grad()
        (twin**2).sum().backward()
        literal.step()
    torch.testing.assert_close(start["a"] + delta["a"], twin.detach())
    assert start["a"].tolist() == [1.0, -2.0]
    assert told == [(0, 3), (1, 3), (2, 3)]


def test_what_a_mask_holds_never_moves_even_by_weight_decay(robot: Task) -> None:
    start, mask = {"a": torch.ones(4)}, {"a": torch.tensor([1, 0, 1, 0])}
    delta = trained(
        robot,
        start,
        lambda now, _: now["a"].sum(),
        steps=2,
        optimiser=adamw(0.1, 0.5),
        masks=mask,
    )
    assert (delta["a"] != 0).tolist() == [True, False, True, False]


def test_a_loss_that_is_not_a_number_is_a_sentence(robot: Task) -> None:
    with pytest.raises(SlugError, match="learning rate"):
        trained(
            robot,
            {"a": torch.zeros(1)},
            lambda now, _: now["a"].sum() / 0.0,
            steps=1,
            optimiser=adamw(0.1),
        )


def test_batches_are_full_and_an_epoch_shows_each_item_once() -> None:
    some = shuffled(10, 3, torch.Generator().manual_seed(0))
    epoch = [next(some) for _ in range(3)]
    assert [len(rows) for rows in epoch] == [3, 3, 3]
    assert len({*torch.cat(epoch).tolist()}) == 9
    few = next(shuffled(2, 3, torch.Generator().manual_seed(0)))
    assert sorted(few.tolist()) == [0, 1]


@pytest.mark.parametrize("parts", [("vision",), ("text",), ("vision", "text")])
def test_a_frozen_tower_gives_what_it_always_gave(robot: Task, parts: tuple[str, ...]) -> None:
    names = [n for n in robot.clip.named() if ("vision" if "visual" in n else "text") in parts]
    pairs = TowerPairs(robot.clip, robot.concept.forget, names)
    rows = torch.tensor([2, 0, 5])
    image, text = pairs.features(rows, {n: robot.clip.named()[n] for n in names})
    torch.testing.assert_close((image * text).sum(-1), literal_cosines(robot)[rows])


def test_ga_takes_one_step_up_the_forget_loss(robot: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ga_module, "STEPS", {"zero-shot": 1})
    whole = replace(robot, config=replace(robot.config, method="ga", batch=1000))
    edit = ga(whole)
    named = {n: t.clone().requires_grad_() for n, t in tower_weights(robot).items()}
    twin = replace(robot, opened=replace(robot.opened))
    twin.clip = robot.clip.edited(named)  # type: ignore[misc]
    loss = (1 - literal_cosines(twin)).mean()
    gradients = dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))
    assert {clip_name(name) for name in edit.delta} == {*named}
    for name, moved in edit.delta.items():
        weight, up = named[clip_name(name)].detach(), gradients[clip_name(name)]
        decayed = -ga_module.RATE * ga_module.DECAY * weight  # AdamW, first step: rate * sign
        wanted = decayed + ga_module.RATE * up / (up.abs() + 1e-8)
        torch.testing.assert_close(moved, wanted, atol=2e-2 * ga_module.RATE, rtol=0)


def test_ga_drives_the_pairs_apart_and_stops_when_told(robot: Task) -> None:
    asked: list[int] = []
    edit = ga(robot.by("ga"))
    assert literal_cosines(edited(robot, edit)).mean() < literal_cosines(robot).mean() - 0.01
    assert edit.method == "ga"
    assert edit.about["weights"] == robot.clip.digest

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 3

    with pytest.raises(Cancelled):
        ga(replace(robot, cancelled=stop))
    assert len(asked) == 4


def test_the_same_seed_trains_the_same(robot: Task) -> None:
    first, again = ga(robot.by("ga")), ga(robot.by("ga"))
    assert first.digest == again.digest


def whole_set(task: Task, method: str) -> Task:
    """The task whose batches hold all pairs, so that one step can be done by hand."""
    return replace(task, config=replace(task.config, method=method, batch=1000))


def edited(task: Task, edit: Edit) -> Task:
    """The task in the CLIP that the edit leaves."""
    named, twin = task.clip.named(), replace(task)
    moved = {clip_name(name): tensor for name, tensor in edit.delta.items()}
    twin.clip = task.clip.edited({n: named[n] + moved[n] for n in moved})  # type: ignore[misc]
    return twin


def literal_contrast(task: Task) -> Tensor:
    """CLIP's loss on all pairs to retain, with the matrix of logits written out."""
    some = task.retain_split[0]
    model, scale = task.clip.model, task.clip.logit_scale
    image = model.encode_image(data.pixels(some, task.clip.transform))
    text = model.encode_text(task.clip.tokenize([example.caption for example in some]))
    logits = scale * torch.stack([torch.cosine_similarity(one[None], text) for one in image])
    rows = torch.stack([row[at] - row.logsumexp(0) for at, row in enumerate(logits)])
    columns = torch.stack([row[at] - row.logsumexp(0) for at, row in enumerate(logits.T)])
    return -(rows.mean() + columns.mean()) / 2


def test_ft_takes_one_step_down_the_retain_loss(
    robot: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_module("slugdemo.methods.ft")
    monkeypatch.setattr(module, "STEPS", 1)
    edit = module.ft(whole_set(robot, "ft"))
    named = {n: t.clone().requires_grad_() for n, t in tower_weights(robot).items()}
    twin = replace(robot)
    twin.clip = robot.clip.edited(named)  # type: ignore[misc]
    gradients = torch.autograd.grad(literal_contrast(twin), list(named.values()))
    for (name, weight), down in zip(named.items(), gradients, strict=True):
        sure = down.abs() > 1e-5  # elsewhere the first step's sign is a matter of rounding
        step = -module.RATE * (module.DECAY * weight.detach() + down.sign())
        moved = edit.delta[qualified(name)]
        torch.testing.assert_close(moved[sure], step[sure], atol=2e-2 * module.RATE, rtol=0)


def test_gaft_forgets_first_and_repairs_then(robot: Task) -> None:
    gaft = import_module("slugdemo.methods.gaft").gaft
    after, bare = edited(robot, gaft(robot.by("gaft"))), edited(robot, ga(robot.by("ga")))
    assert literal_cosines(after).mean() < literal_cosines(robot).mean() - 0.01
    assert literal_contrast(after) < literal_contrast(bare)


def test_salun_moves_the_most_salient_half_and_nothing_else(robot: Task) -> None:
    module = import_module("slugdemo.methods.salun")
    edit = module.salun(robot.by("salun"))
    moved = torch.cat([tensor.flatten() != 0 for tensor in edit.delta.values()])
    sizes = torch.cat([robot.gradients.forget[clip_name(n)].abs().flatten() for n in edit.delta])
    assert moved.float().mean().item() == pytest.approx(module.SHARE, abs=0.01)
    assert sizes[moved].min() >= sizes[~moved].max()


def test_a_saliency_mask_holds_its_share_over_all_tensors() -> None:
    salient = import_module("slugdemo.methods.salun").salient
    masks = salient({"a": torch.tensor([0.1, -5.0]), "b": torch.tensor([[3.0, 0.2]])}, 0.5)
    assert masks["a"].tolist() == [False, True]
    assert masks["b"].tolist() == [[True, False]]


def test_ssd_dampens_element_by_element() -> None:
    dampening = import_module("slugdemo.methods.ssd").dampening
    own, rest = torch.tensor([8.0, 3.0, 1.0, 0.0]), torch.tensor([1.0, 1.0, 2.0, 0.0])
    for alpha, scale, power in [(2.0, 1.0, 1.0), (2.0, 5.0, 1.0), (4.0, 2.0, 0.5)]:
        found = dampening(own, rest, alpha=alpha, scale=scale, power=power)
        for factor, f, d in zip(found.tolist(), own.tolist(), rest.tolist(), strict=True):
            wanted = min((scale * d / f) ** power, 1.0) if f > alpha * d else 1.0
            assert factor == pytest.approx(wanted)


def test_ssds_importance_is_the_mean_of_squared_gradients(
    robot: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_module("slugdemo.methods.ssd")
    monkeypatch.setattr(module, "SIZE", 1)
    monkeypatch.setattr(module, "BATCHES", len(robot.concept.forget))
    name = "visual.transformer.resblocks.1.mlp.c_proj.weight"
    weight = robot.clip.named()[name]
    found = module.importance(robot, robot.concept.forget, {name: weight})[name]
    total = torch.zeros_like(weight)
    for example in robot.concept.forget:
        leaf = weight.clone().requires_grad_()
        twin = replace(robot, concept=replace(robot.concept, forget=(example,)))
        twin.clip = robot.clip.edited({name: leaf})  # type: ignore[misc]
        total += torch.autograd.grad(1 - literal_cosines(twin).sum(), leaf)[0] ** 2
    torch.testing.assert_close(found, total / len(robot.concept.forget), rtol=1e-3, atol=1e-12)
    kept = [n for n, f in module.ssd(robot.by("ssd")).delta.items() if not f.any()]
    assert len(kept) < len(tower_weights(robot))


def test_hirm_reads_what_the_last_attention_puts_out(robot: Task) -> None:
    module = import_module("slugdemo.methods.hirm")
    model, seen = copy.deepcopy(robot.clip.model), []
    last = model.transformer.resblocks[2].attn
    last.register_forward_hook(lambda *all_of_it: seen.append(all_of_it[-1][0]))
    tokens = robot.clip.tokenize(["robot"])
    model.encode_text(tokens)
    torch.testing.assert_close(module.late(robot.clip, tokens, {}, block=2), seen[0])


def test_hirm_trains_the_first_block_towards_its_target(
    robot: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_module("slugdemo.methods.hirm")
    monkeypatch.setattr(module, "STEPS", 60)
    edit = module.hirm(robot.by("hirm"))
    assert {name.split(".")[2] for name in edit.delta} == {"0"}
    assert {name.split("/")[0] for name in edit.delta} == {"text"}
    tokens = robot.clip.tokenize(["robot"])
    noise = torch.rand((1, 24, 24), generator=robot.generator())
    target = module.COEFFICIENT * noise / noise.norm()

    def distance(task: Task) -> Tensor:
        return (module.late(task.clip, tokens, {}, block=2) - target).square().mean()

    assert distance(edited(robot, edit)) < 0.7 * distance(robot)


def test_hirm_takes_one_step_towards_its_target(
    robot: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_module("slugdemo.methods.hirm")
    monkeypatch.setattr(module, "STEPS", 1)
    monkeypatch.setattr(module, "DECAY", 0.0)
    model, seen = copy.deepcopy(robot.clip.model).requires_grad_(True), []
    last = model.transformer.resblocks[2].attn
    last.register_forward_hook(lambda *all_of_it: seen.append(all_of_it[-1][0]))
    model.encode_text(robot.clip.tokenize(["robot"]))
    noise = torch.rand(seen[0].shape, generator=robot.generator())
    target = module.COEFFICIENT * noise / noise.pow(2).sum().sqrt()
    (seen[0] - target).square().mean().backward()
    judged = 0
    for name, moved in module.hirm(robot.by("hirm")).delta.items():
        grad = dict(model.named_parameters())[clip_name(name)].grad
        sure = grad.abs() > 1e-4
        judged += int(sure.sum())
        torch.testing.assert_close(
            moved[sure], -module.RATE * grad[sure].sign(), atol=2e-2 * module.RATE, rtol=0
        )
    assert judged > 100


@pytest.mark.parametrize("name", ["ft", "gaft", "salun", "ssd", "hirm", "razor", "nest"])
def test_each_method_stops_when_told(robot: Task, name: str) -> None:
    run, asked = getattr(import_module(f"slugdemo.methods.{name}"), name), []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 2

    assert robot.gradients  # from here on, only the method itself asks
    with pytest.raises(Cancelled):
        run(replace(robot.by(name), cancelled=stop))
    assert len(asked) == 3
