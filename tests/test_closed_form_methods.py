"""Closed forms on a tiny Stable Diffusion and a tiny CLIP: what they read, change and leave alone."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from diffusers.models.embeddings import TextTimeEmbedding
from torch import Tensor

from slugdemo import catalog, clip_projections, data, text_projections, weights
from slugdemo.config import Config
from slugdemo.edit import of_part
from slugdemo.errors import SlugError
from slugdemo.methods import METHODS
from slugdemo.models.diffusion import Diffusion
from slugdemo.models.loading import opened
from slugdemo.task import Task

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.usefixtures("assets"),
]

TEXTS = (
    "uce",
    "rece",
    "speed",
    "locoedit",
    "mace",
    "cure",
    "double projections",
    "trce",
)
FEATURES = ("leace", "ccup", "inlp")


@pytest.fixture(scope="module")
def robot(assets: Path) -> Iterator[Task]:  # noqa: ARG001
    """Forgetting the robot in the tiny Stable Diffusion, which must be what it was in the end."""
    task = Task(opened("pocket-sd"), catalog.concept("robot"), Config(batch=8))
    before = [weights.digest(task.model.unet), weights.digest(task.model.text)]
    yield task
    assert [weights.digest(task.model.unet), weights.digest(task.model.text)] == before


@pytest.fixture(scope="module")
def zero_shot(assets: Path) -> Task:  # noqa: ARG001
    return Task(opened("pocket-clip"), catalog.concept("robot"), Config(batch=8))


def run(task: Task, name: str):  # noqa: ANN201
    return METHODS[name].run(task.by(name))


def pooling(model: Diffusion) -> Diffusion:
    """The model with a U-Net that also pools its text, as pocket-sd's does."""
    twin = copy.copy(model)
    twin.__dict__.pop("_named", None)
    twin.__dict__.pop("_unet_weights", None)
    twin.unet = copy.deepcopy(model.unet)
    twin.unet.add_embedding = TextTimeEmbedding(24, 64, num_heads=2)
    return twin


# ---- what reads the text


def test_projections_are_all_that_reads_the_text_in_order(robot: Task) -> None:
    found = text_projections.projections(robot.model)
    modules = dict(robot.model.unet.named_modules())
    attention = [name for name in modules if name.endswith("attn2")]
    assert len(found) == 2 * len(attention)
    assert {one.role for one in found} == {"key", "value"}
    for one in found:
        assert torch.equal(one.weight, robot.model.named()[one.name])
        assert one.view(one.weight) is one.weight
    places = [one.block.split("/")[1].split("_")[0] for one in found]
    assert places == sorted(places, key=["down", "mid", "up"].index)
    assert text_projections.cross_attention(found) == found


def test_a_pooled_text_embedding_is_read_behind_its_norm(robot: Task) -> None:
    model = pooling(robot.model)
    found = text_projections.projections(model)
    pooled = [one for one in found if one not in text_projections.cross_attention(found)]
    assert [one.name for one in pooled] == [
        f"unet/add_embedding.pool.{kind}_proj.weight" for kind in "kv"
    ]
    states = model.states(["a robot"])
    assert torch.allclose(pooled[0].view(states), model.unet.add_embedding.norm1(states))
    assert len(text_projections.by_view(found)) == 2


def test_each_view_is_moved_by_its_own(robot: Task) -> None:
    found = text_projections.projections(pooling(robot.model))
    asked: list[float] = []

    def move(view: text_projections.View) -> Tensor:
        asked.append(float(view(torch.arange(24.0)).sum()))
        return torch.eye(24).double() * len(asked)

    delta = text_projections.moved(found, move)
    assert len(asked) == 2
    for one in found:
        factor = 1 if ".pool" in one.block else 2  # the pooled embedding comes first
        assert torch.allclose(delta[one.name], factor * one.weight, atol=1e-6)


def test_tokens_begin_with_the_last_word_and_stand_beside_the_anchors(robot: Task) -> None:
    pairs = text_projections.tokens(robot, "elf", many=False)
    old, new = (robot.model.states([f"a picture of {name}"])[0] for name in ("a robot", "an elf"))
    ids = robot.model.tokens(["a picture of a robot", "a picture of an elf"])[0].tolist()
    ends = robot.model.ends(["a picture of a robot", "a picture of an elf"]).tolist()
    at, to = ends[0] - 1, ends[1] - 1  # each name's last token stands before the end
    assert ids[0][at] == robot.model.tokens(["robot"])[0][0][robot.model.ends(["robot"])[0] - 1]
    length = len(old) - max(at, to)
    assert torch.allclose(pairs.sources, old[at : at + length], atol=1e-5)
    assert torch.allclose(pairs.targets, new[to : to + length], atol=1e-5)
    whole = text_projections.tokens(robot, "elf", many=False, whole=True)
    assert len(whole.sources) == length + min(at, to)


def test_what_is_kept_holds_the_empty_prompt_and_no_token_of_the_concept(robot: Task) -> None:
    rest = text_projections.kept(robot)
    blank = robot.model.states([""])[0]
    assert torch.allclose(rest[: len(blank)], blank, atol=1e-5)
    own = text_projections.tokens(robot, "elf", many=False).sources
    assert torch.cdist(own[:1], rest).min() > 1e-3


def test_the_kin_is_the_nearest_other_name_of_the_group(robot: Task) -> None:
    found = text_projections.kin(robot)
    names = ["robot", *robot.eval_set.neighbours]
    texts = [text_projections.prompts(robot, name)[0] for name in names]
    states = torch.stack(
        [robot.model.states([text])[0, robot.model.ends([text])[0]] for text in texts]
    )
    states = states - states.mean(0)
    cosines = [float(torch.cosine_similarity(states[0], other, dim=0)) for other in states[1:]]
    assert found == names[1:][cosines.index(max(cosines))]
    assert text_projections.guide(replace(robot, anchor="elf")) == "elf"


# ---- methods


@pytest.mark.parametrize("name", TEXTS)
def test_a_closed_form_changes_only_what_reads_the_text(robot: Task, name: str) -> None:
    edit = run(robot, name)
    known = {one.name for one in text_projections.projections(robot.model)}
    assert set(edit.delta) <= known
    assert set(edit.delta) == known or name == "locoedit"
    assert edit.parts == METHODS[name].parts
    assert edit.strength == 1
    assert edit.about["unet"] == robot.model.unet_digest
    assert all(tensor.dtype == torch.float32 for tensor in edit.delta.values())
    assert weights.norm(edit.delta) > 1e-3
    assert robot.model.edited([edit]) is not robot.model


@pytest.mark.parametrize("name", [name for name in TEXTS if METHODS[name].replaces])
def test_what_replaces_goes_towards_its_anchor(robot: Task, name: str) -> None:
    task = replace(robot.by(name), anchor="elf")
    edited = robot.model.edited([METHODS[name].run(task)])
    pairs = text_projections.tokens(robot, "elf")
    assert closeness(edited, robot.model, pairs) < closeness(robot.model, robot.model, pairs)


def closeness(edited: Diffusion, base: Diffusion, pairs: text_projections.Tokens) -> float:
    """How far the edited projections of the concept are from the original ones of its anchor."""
    now, old = edited.named(), base.named()
    return sum(
        float((pairs.sources @ now[one.name].T - pairs.targets @ old[one.name].T).norm())
        for one in text_projections.projections(base)
    )


def test_uce_keeps_the_others_better_than_it_keeps_the_concept(robot: Task) -> None:
    edit, rest = run(robot, "uce"), text_projections.kept(robot)
    pairs = text_projections.tokens(robot, text_projections.guide(robot))
    for delta in edit.delta.values():
        moved = (pairs.sources @ delta.T).norm(dim=1).mean()
        assert (rest @ delta.T).norm(dim=1).mean() < moved


def test_diffquickfix_reads_what_the_first_attention_gives_to_its_output(robot: Task) -> None:
    diffquickfix = import_module("slugdemo.methods.diffquickfix")
    ids = robot.model.tokens(["a picture of a robot", "an elf"])[0]
    seen: list[Tensor] = []
    tower = copy.deepcopy(robot.model.text)
    tower.encoder.layers[0].self_attn.out_proj.register_forward_pre_hook(
        lambda _, given: seen.append(given[0])
    )
    tower(ids)
    text = of_part(robot.model.named(), "text")
    found = diffquickfix.attended(text, ids, heads=tower.config.num_attention_heads)
    assert torch.allclose(found, seen[0], atol=1e-5)


def test_diffquickfix_is_its_formula_token_by_token(robot: Task) -> None:
    diffquickfix = import_module("slugdemo.methods.diffquickfix")
    edit = METHODS["diffquickfix"].run(replace(robot.by("diffquickfix"), anchor="elf"))
    text = of_part(robot.model.named(), "text")
    weight = text[diffquickfix.LAYER].double()
    upper = diffquickfix.RIDGE * weight
    lower = diffquickfix.RIDGE * torch.eye(weight.shape[1]).double()
    for old, new in zip(
        text_projections.prompts(robot, "robot"),
        text_projections.prompts(robot, "elf"),
        strict=True,
    ):
        starts = [
            text_projections.last_of(robot.model, [prompt], name)[0]
            for prompt, name in ((old, "robot"), (new, "elf"))
        ]
        k, v = (
            diffquickfix.attended(text, robot.model.tokens([prompt])[0], heads=2)[0].double()
            for prompt in (old, new)
        )
        for source, target in zip(k[starts[0] :], v[starts[1] :], strict=False):
            upper = upper + torch.outer(weight @ target, source)
            lower = lower + torch.outer(source, source)
    assert list(edit.delta) == [f"text/{diffquickfix.LAYER}"]
    found = weight + edit.delta[f"text/{diffquickfix.LAYER}"].double()
    assert torch.allclose(found, upper @ torch.linalg.inv(lower), atol=1e-5)


def test_trce_moves_the_first_end_token_to_that_of_the_anchor(robot: Task) -> None:
    trce = import_module("slugdemo.methods.trce")
    pairs, shares = trce.places(replace(robot, anchor="elf"))
    chosen = shares > 0
    old = text_projections.prompts(robot, "robot")
    states, ends = robot.model.states(old), robot.model.ends(old)
    assert chosen.sum() == len(old)
    assert torch.equal(pairs.sources[chosen], states[torch.arange(len(old)), ends])
    assert shares.sum() == pytest.approx(1)


# ---- CLIP's projections


@pytest.mark.parametrize("name", FEATURES)
def test_a_projection_of_features_is_folded_into_clip(zero_shot: Task, name: str) -> None:
    edit = run(zero_shot, name)
    parts = {"vision": "vision/proj", "text": "text/text_projection"}
    assert set(edit.delta) == {parts[part] for part in METHODS[name].parts}
    assert weights.norm(edit.delta) > 1e-3


def test_folding_gives_the_projected_features(zero_shot: Task) -> None:
    p = torch.randn(16, 16, generator=torch.Generator().manual_seed(3)).double()
    delta = clip_projections.folded(zero_shot, {"text": p, "vision": p})
    clip = zero_shot.clip
    twin = clip.edited(
        {
            "text_projection": clip.named()["text_projection"] + delta["text/text_projection"],
            "visual.proj": clip.named()["visual.proj"] + delta["vision/proj"],
        }
    )
    tokens = clip.tokenize(["a robot", "an elf"])
    before, after = clip.model.encode_text(tokens), twin.model.encode_text(tokens)
    assert torch.allclose(after, before @ p.float().T, atol=1e-3)


def test_features_are_those_before_the_unit_norm_the_concept_first(zero_shot: Task) -> None:
    found = clip_projections.pictures(zero_shot)
    shown = zero_shot.concept.forget
    pixels = data.pixels(shown, zero_shot.clip.transform)
    assert torch.allclose(found.forget, zero_shot.clip.model.encode_image(pixels), atol=1e-5)
    assert found.labels.tolist() == [1.0] * len(shown) + [0.0] * len(zero_shot.retain_split[0])


def test_a_clip_without_a_projection_says_so(zero_shot: Task) -> None:
    with pytest.raises(KeyError):
        clip_projections.folded(zero_shot, {"audio": torch.eye(2)})
    hidden = replace(zero_shot)
    hidden.__dict__["clip"] = type("Bare", (), {"named": lambda self: {}})()  # noqa: ARG005
    with pytest.raises(SlugError, match="no projection behind its vision tower"):
        clip_projections.folded(hidden, {"vision": torch.eye(16)})


def literal(weight: Tensor, asked: list, rest: Tensor, *, ridge: float, preserve: float) -> Tensor:
    """W' by the formula of UCE, MACE, TRCE and LocoEdit, one outer product at a time.

    `asked` holds (source, target, weight), one for each token.
    """
    upper, lower = ridge * weight, ridge * torch.eye(weight.shape[1]).double()
    for source, target, share in asked:
        upper = upper + share * torch.outer(weight @ target, source)
        lower = lower + share * torch.outer(source, source)
    for state in rest.double():
        upper = upper + preserve * torch.outer(weight @ state, state)
        lower = lower + preserve * torch.outer(state, state)
    return upper @ torch.linalg.inv(lower)


@pytest.mark.parametrize("name", ["uce", "locoedit", "trce"])
def test_the_edit_is_the_formula_with_the_constants_that_are_printed(
    robot: Task, name: str
) -> None:
    module, task = import_module(f"slugdemo.methods.{name}"), replace(robot.by(name), anchor="elf")
    ridge, preserve, erase = {
        "uce": (10.0, 1.0, 1.0),
        "locoedit": (10.0, 0.0, 1.0),
        "trce": (0.1, 0.003, 1.0),
    }[name]
    if name == "trce":
        pairs, shares = module.places(task)
    else:
        pairs = text_projections.tokens(task, "elf", many=name == "uce")
        shares = torch.full((len(pairs.sources),), erase)
    asked = [(s.double(), t.double(), float(w)) for s, t, w in zip(*pairs, shares, strict=True)]
    rest = text_projections.kept(task)
    for key, delta in METHODS[name].run(task).delta.items():
        weight = robot.model.named()[key].double()
        wanted = literal(weight, asked, rest, ridge=ridge, preserve=preserve)
        assert torch.allclose(weight + delta, wanted, atol=1e-5)
