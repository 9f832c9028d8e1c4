"""Methods that train or prune Stable Diffusion's U-Net: losses against literal ones, and limits."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from slugdemo import catalog, images, unet_training, weights
from slugdemo.config import Config
from slugdemo.edit import of_part
from slugdemo.models.base import Cancelled
from slugdemo.models.loading import opened
from slugdemo.recording import InputNorms
from slugdemo.task import Task

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

METHODS = {
    "esd-x": ("esd", "esd_x"),
    "esd-u": ("esd", "esd_u"),
    "ca": ("concept_ablation", "ca"),
    "fmn": ("fmn", "fmn"),
    "few-shot": ("few_shot", "few_shot"),
    "spm": ("spm", "spm"),
    "forget-it-all": ("forget_it_all", "forget_it_all"),
}


def module(name: str):  # noqa: ANN201
    return import_module(f"slugdemo.methods.{METHODS[name][0]}")


def run(name: str, task: Task):  # noqa: ANN201
    return getattr(module(name), METHODS[name][1])(task.by(name))


@pytest.fixture(scope="module", autouse=True)
def small(assets: Path) -> Iterator[None]:  # noqa: ARG001
    """The tiny models, whose pictures are on their way for two steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unet_training, "STEPS", 2)
        patch.setattr(unet_training, "SEEDS", 2)
        yield


@pytest.fixture(scope="module")
def robot(assets: Path) -> Iterator[Task]:  # noqa: ARG001
    """Forgetting the robot in the tiny Stable Diffusion, which must be what it was in the end."""
    task = Task(opened("pocket-sd"), catalog.concept("robot"), Config(batch=8))
    before = [weights.digest(task.model.unet), weights.digest(task.model.text)]
    yield task
    assert [weights.digest(task.model.unet), weights.digest(task.model.text)] == before
    assert all(tensor.grad is None for tensor in task.model.unet.parameters())


def one_step(monkeypatch: pytest.MonkeyPatch, name: str, seen: int) -> None:
    """One iteration, on all the latents at once, so that it can be done by hand."""
    once = {"concept": 1, "style": 1}
    steps = {"esd-x": ("STEPS_X", once), "esd-u": ("STEPS_U", once)}.get(name, ("STEPS", 1))
    monkeypatch.setattr(module(name), *steps)
    monkeypatch.setattr(module(name), "BATCH", seen)


def first_adam_step(task: Task, loss: Tensor, copied: torch.nn.Module, rate: float) -> dict:
    """-rate * sign of the gradient, by name, with NaN where the sign is a matter of rounding."""
    loss.backward()
    found = {}
    for name, parameter in copied.named_parameters():
        if parameter.grad is not None:
            step = -rate * parameter.grad.sign()
            sure = parameter.grad.abs() > 1e-5
            found[f"unet/{name}"] = torch.where(sure, step, torch.full_like(step, torch.nan))
    assert task.model.unet is not copied
    return found


def check_steps(delta: dict, wanted: dict, rate: float) -> None:
    judged = 0
    for name, moved in delta.items():
        sure = ~wanted[name].isnan()
        torch.testing.assert_close(moved[sure], wanted[name][sure], atol=2e-2 * rate, rtol=0)
        judged += int(sure.sum())
    assert judged > 100


def test_latents_on_their_way_begin_as_noise_and_follow_the_model(robot: Task) -> None:
    prompts = ["a robot", "a cat"]
    seen = unet_training.on_the_way(robot, prompts)
    assert seen.which.tolist() == [0, 0, 1, 1] * 2
    assert seen.t.tolist() == [t for t in robot.model.timesteps(2).tolist() for _ in range(4)]
    last = robot.model.denoise(
        robot.model.states(prompts).repeat_interleave(2, 0),
        robot.model.states([""]),
        latents=seen.latents[:4],
        steps=2,
        guidance=unet_training.GUIDANCE,
        stop=1,
    )
    torch.testing.assert_close(seen.latents[4:], last)


def test_text_readers_and_the_rest_part_the_unet(robot: Task) -> None:
    reading, rest = unet_training.text_readers(robot), unet_training.beside_text(robot)
    assert not {*reading} & {*rest}
    assert len(reading) + len(rest) == len(of_part(robot.model.named(), "unet"))
    assert all(".attn2." in name for name in reading)


@pytest.mark.parametrize("name", ["esd-x", "esd-u"])
def test_esd_takes_one_step_towards_guidance_away(
    robot: Task, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    esd = module(name)
    prompts = unet_training.asked(robot, esd.CONTEXTS)
    seen = unet_training.on_the_way(robot, prompts)
    one_step(monkeypatch, name, len(seen))
    rate = esd.RATE_X if name == "esd-x" else esd.RATE_U
    base, copied = robot.model.unet, copy.deepcopy(robot.model.unet).requires_grad_(True)
    loss = torch.zeros(())
    for x, t, at in zip(seen.latents, seen.t, seen.which.tolist(), strict=True):
        c, empty = robot.model.states([prompts[at]]), robot.model.states([""])
        with torch.no_grad():
            own = base(x[None], t, c).sample
            away = own - esd.ETA * (own - base(x[None], t, empty).sample)
        loss = loss + (copied(x[None], t, c).sample - away).square().mean() / len(seen)
    wanted = first_adam_step(robot, loss, copied, rate)
    delta = run(name, robot).delta
    assert {*delta} == {
        *getattr(unet_training, "text_readers" if rate == esd.RATE_X else "beside_text")(robot)
    }
    check_steps(delta, wanted, rate)


def test_ca_takes_one_step_towards_the_anchor(robot: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    ca, task = module("ca"), replace(robot, anchor="cat")
    prompts = unet_training.asked(task, ca.CONTEXTS)
    anchors = [text.replace("robot", "cat") for text in prompts]
    assert "robot" in prompts[0]
    assert unet_training.asked(task, ca.CONTEXTS, instead="cat") == anchors
    seen = unet_training.on_the_way(task, anchors)
    one_step(monkeypatch, "ca", len(seen))
    base, copied = task.model.unet, copy.deepcopy(task.model.unet).requires_grad_(True)
    loss = torch.zeros(())
    for x, t, at in zip(seen.latents, seen.t, seen.which.tolist(), strict=True):
        with torch.no_grad():
            goal = base(x[None], t, task.model.states([anchors[at]])).sample
        found = copied(x[None], t, task.model.states([prompts[at]])).sample
        loss = loss + (found - goal).square().mean() / len(seen)
    check_steps(run("ca", task).delta, first_adam_step(task, loss, copied, ca.RATE), ca.RATE)


def test_a_style_comes_to_mean_no_style() -> None:
    neon = Task(opened("pocket-sd"), catalog.concept("neon"), Config(batch=8))
    assert unet_training.anchor(neon) == "plain"
    texts = unet_training.asked(neon, 1)
    plain = unet_training.asked(neon, 1, instead="plain")
    assert texts[0] == "a neon picture"
    assert plain[0] == "a picture"
    assert texts[1].replace("neon ", "") == plain[1]


def test_fmns_attention_is_that_of_a_plain_processor(robot: Task) -> None:
    fmn, found = module("fmn"), []
    captions = ["a picture of a robot", "a robot"]
    ids, states = robot.model.tokens(captions)[0], robot.model.states(captions)
    places = torch.stack([fmn.name_places(robot, row) for row in ids])
    bare = robot.model.tokens(["robot"])[0][0, 1:6]
    for row, held in zip(ids, places, strict=True):
        first = int(held.nonzero()[0])
        assert torch.equal(row[first : first + 5], bare)  # r o b o t, in the tiny tokenizer
        assert bool(held[first:].all())
    latents, t = torch.randn((2, 4, 8, 8), generator=robot.generator()), torch.tensor([900, 300])
    with fmn.Attention(places) as seen:
        robot.model.predict(latents, t, states)
    copied = copy.deepcopy(robot.model.unet)
    copied.set_attn_processor(AttnProcessor())
    for name, part in copied.named_modules():
        if name.endswith("attn2"):
            plain = part.get_attention_scores

            def scores(*inputs: Tensor, plain=plain, heads=part.heads) -> Tensor:  # noqa: ANN001
                chances = plain(*inputs)  # (N * heads, P, T)
                found.append(chances.view(2, heads, *chances.shape[1:]))
                return chances

            part.get_attention_scores = scores
    copied(latents, t, states)
    literal = []
    for chances in found:
        paid = [chances[n, :, :, places[n]].square() for n in range(2)]
        literal.append(torch.cat([one.flatten() for one in paid]).mean())
    torch.testing.assert_close(seen.loss(), torch.stack(literal).mean())


def test_fmn_lowers_the_attention_to_the_name(robot: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    fmn = module("fmn")
    monkeypatch.setattr(fmn, "STEPS", 8)
    monkeypatch.setattr(fmn, "RATE", 1e-2)
    edit = run("fmn", robot)
    shown = robot.concept.forget[:4]
    latents = robot.model.encode([images.read(example.image) for example in shown])
    captions = [example.caption for example in shown]
    states = robot.model.states(captions)
    places = torch.stack([fmn.name_places(robot, row) for row in robot.model.tokens(captions)[0]])
    paid = []
    for model in (robot.model, robot.model.edited([edit])):
        with fmn.Attention(places) as seen:
            model.predict(latents, torch.full((4,), 500), states)
        paid.append(seen.loss().item())
    assert paid[1] < 0.9 * paid[0]


def test_few_shot_takes_one_step_up_the_denoising_error(
    robot: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = module("few-shot")
    one_step(monkeypatch, "few-shot", few.PICTURES)
    shown = robot.concept.forget[: few.PICTURES]
    latents = robot.model.encode([images.read(example.image) for example in shown])
    order = torch.randperm(few.PICTURES, generator=robot.generator())
    noise, times = robot.generator(1), robot.model.timesteps(few.TIMES)
    t = times[torch.randint(few.TIMES, (few.PICTURES,), generator=noise)]
    drawn = torch.randn(latents.shape, generator=noise)
    text = copy.deepcopy(robot.model.text).requires_grad_(True)
    alphas = robot.model.pipeline().scheduler.alphas_cumprod
    error = torch.zeros(())
    for at, row in enumerate(order.tolist()):
        alpha, x0 = alphas[int(t[at])], latents[row][None]
        x = alpha.sqrt() * x0 + (1 - alpha).sqrt() * drawn[at]
        velocity = alpha.sqrt() * drawn[at] - (1 - alpha).sqrt() * x0
        ids = robot.model.tokens([shown[row].caption])[0]
        found = robot.model.unet(x, t[at], text(ids).last_hidden_state).sample
        error = error + (found - velocity).square().mean() / few.PICTURES
    error.backward()
    delta = run("few-shot", robot).delta
    assert {name.split(".")[2] for name in delta if ".attn." in name} == {"2"}
    up = {name: p.grad for name, p in text.named_parameters() if p.grad is not None}
    judged = 0
    for block in range(3):
        for ours, theirs in (("c_fc", "fc1"), ("c_proj", "fc2")):
            grad = up[f"encoder.layers.{block}.mlp.{theirs}.weight"]
            moved = delta[f"text/transformer.resblocks.{block}.mlp.{ours}.weight"]
            sure = grad.abs() > 1e-4
            judged += int(sure.sum())
            assert torch.equal(moved[sure].sign(), grad[sure].sign())
    assert judged > 100


def test_an_adapter_begins_as_nothing_and_stays_thin(
    robot: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    spm = module("spm")
    monkeypatch.setattr(spm, "STEPS", 3)
    start = spm.adapters({"a": torch.ones(3, 4)}, robot.generator())
    assert not spm.folded(start)["a"].any()
    thin = {"up a": torch.tensor([[1.0], [2.0]]), "down a": torch.tensor([[3.0, 4.0, 5.0]])}
    assert spm.folded(thin)["a"].tolist() == [[3.0, 4.0, 5.0], [6.0, 8.0, 10.0]]
    for tensor in run("spm", robot).delta.values():
        sizes = torch.linalg.svdvals(tensor)
        assert sizes[0] > 0
        assert sizes[1] < 1e-5 * sizes[0]


def test_spm_takes_one_step_away_from_the_concept_and_holds_its_anchors(
    robot: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    spm = module("spm")
    monkeypatch.setattr(spm, "ANCHORS", spm.CONTEXTS + 1)  # as many as prompts of the concept
    words, anchors = unet_training.asked(robot, spm.CONTEXTS), spm.kept(robot)
    seen = unet_training.on_the_way(robot, [*words, *anchors])
    one_step(monkeypatch, "spm", len(seen) // 2)
    base, copied = robot.model.unet, copy.deepcopy(robot.model.unet).requires_grad_(True)
    loss = torch.zeros(())
    for x, t, at in zip(seen.latents, seen.t, seen.which.tolist(), strict=True):
        c, empty = robot.model.states([[*words, *anchors][at]]), robot.model.states([""])
        with torch.no_grad():
            goal = base(x[None], t, c).sample
            if at < len(words):
                without = base(x[None], t, empty).sample
                goal = without - spm.ETA * (goal - without)
        loss = loss + (copied(x[None], t, c).sample - goal).square().mean() / (len(seen) / 2)
    loss.backward()
    matrices = {n: w for n, w in unet_training.text_readers(robot).items() if w.dim() == 2}
    down = spm.adapters(matrices, robot.generator(2))
    for name, moved in run("spm", robot).delta.items():
        thin, grad = down[f"down {name}"], copied.get_parameter(name[5:]).grad
        slope = grad @ thin.T
        sure = (slope.abs() > 1e-4).squeeze(1)
        step = -spm.RATE * slope.sign() @ thin
        torch.testing.assert_close(moved[sure], step[sure], atol=2e-2 * spm.RATE, rtol=2e-2)


def test_spm_keeps_neighbours_first_and_never_the_concept(robot: Task) -> None:
    texts = module("spm").kept(robot)
    assert "wizard" in texts[0]  # the other character
    assert not any("robot" in text for text in texts)


def test_input_norms_are_what_hooks_would_see(robot: Task) -> None:
    name = "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.2"
    latents = torch.randn((3, 4, 8, 8), generator=robot.generator())
    t, states = torch.full((3,), 500), robot.model.states(["a cat", "a dog", ""])
    leaves = {f"unet/{name}.weight": robot.model.named()[f"unet/{name}.weight"]}
    with InputNorms(leaves, items=3) as seen:
        robot.model.predict(latents, t, states)
    copied, given = copy.deepcopy(robot.model.unet), []
    copied.get_submodule(name).register_forward_hook(lambda _, x, __: given.append(x[0]))
    copied(latents, t, states)
    torch.testing.assert_close(seen.of(f"unet/{name}.weight"), given[0].norm(dim=1))


def test_forget_it_alls_scores_by_hand() -> None:
    fia = module("forget-it-all")
    weight = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    own = torch.tensor([[4.0, 1.0], [6.0, 1.0]])
    rest = torch.tensor([[1.0, 2.0], [3.0, 2.0]])  # means 2 and 2, deviations sqrt(2) and 0
    column = 5.0 - 2.0 - 2**0.5
    found = fia.standing_out(weight, own, rest)
    torch.testing.assert_close(found, torch.tensor([[column, 0.0], [0.5 * column, 0.0]]))


def test_forget_it_all_prunes_what_lasts_in_its_channel_and_its_layer() -> None:
    fia = module("forget-it-all")
    scores = torch.zeros(2, 4, 50)
    scores[:, 0, :3] = torch.tensor([9.0, 8.0, 7.0])
    scores[:, 1, 0] = 1.0
    scores[0, 2, 5] = 8.5  # at one step only
    lasting = fia.lasting(scores)
    assert lasting[0, 0] == pytest.approx(0.5 + 0.5)
    assert lasting[2, 5] == pytest.approx(0.5 * 4.25 / 9 + 0.25)
    mask = fia.pruned(lasting, 0.02)  # one a channel, four a layer
    assert mask.nonzero().tolist() == [[0, 0], [1, 0]]  # 0.49 is fifth of the layer


def test_forget_it_all_only_zeroes_few_weights(robot: Task) -> None:
    edit, named = run("forget-it-all", robot), robot.model.named()
    assert all(name.endswith("ff.net.2.weight") for name in edit.delta)
    zeroed = 0
    for name, moved in edit.delta.items():
        touched = moved != 0
        assert torch.equal(moved[touched], -named[name][touched])
        zeroed += int(touched.sum())
    assert 0 < zeroed < 0.11 * sum(t.numel() for t in edit.delta.values())


@pytest.mark.parametrize("name", METHODS)
def test_each_method_stops_when_told_and_names_the_unet(robot: Task, name: str) -> None:
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 2

    assert robot.editable
    with pytest.raises(Cancelled):
        run(name, replace(robot, cancelled=stop))
    assert len(asked) == 3
