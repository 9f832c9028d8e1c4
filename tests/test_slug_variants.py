"""Variants of SLUG: the one thing that each changes, and that the rest is SLUG's."""

from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from slugdemo import catalog, data, experiment
from slugdemo.config import CONFIGS
from slugdemo.edit import LAYER_NORM, clip_name, qualified
from slugdemo.methods import METHODS
from slugdemo.models.loading import opened
from slugdemo.task import Task

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.usefixtures("assets"),
]

variants = import_module("slugdemo.methods.slug_variants")
NAMES = [name for name, method in METHODS.items() if method.group == "SLUG variants"]


@pytest.fixture(scope="module")
def robot(assets: Path) -> Task:  # noqa: ARG001
    return Task(opened("pocket-clip"), catalog.concept("robot"), CONFIGS["zero-shot"])


@pytest.mark.parametrize("name", NAMES)
def test_a_variant_is_stepped_and_searched_as_slug_is(robot: Task, name: str) -> None:
    found = experiment.erase(robot.by(name))
    assert found.search is not None
    assert found.edit.method == name
    assert found.edit.unit == LAYER_NORM
    assert found.edit.strength == found.search.score.strength
    assert len(found.edit.delta) == (2 if name == "slug two layers" else 1)


def test_an_orthogonal_direction_leaves_the_retain_loss_to_first_order(robot: Task) -> None:
    both = robot.gradients
    for score in robot.front:
        own = {name: both.forget[name] for name in score.tensors}
        freed = variants.without(own, both.retain)
        (name,) = score.tensors
        g, r = own[name].double().flatten(), both.retain[name].double().flatten()
        assert abs(float(freed[name].double().flatten() @ r)) < 1e-5 * float(g.norm() * r.norm())
        literal = g - (g @ r) / (r @ r) * r
        assert torch.allclose(freed[name].double().flatten(), literal, atol=1e-6)
        assert float(freed[name].double().flatten() @ g) > 0  # still uphill on the forget loss


def test_synonyms_are_in_the_forget_gradient(robot: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    pairs = variants.Pairs

    def watched(examples, *args, **options):  # noqa: ANN001, ANN002, ANN003, ANN202
        seen.extend(example.caption for example in examples)
        return pairs(examples, *args, **options)

    monkeypatch.setattr(variants, "Pairs", watched)
    variants.synonyms(robot.by("slug synonyms"))
    assert set(seen) == {"a picture of a robot", "a picture of a robots"}
    assert len(seen) == 2 * len(robot.concept.forget)
    monkeypatch.setattr(catalog, "other_words", lambda name: [])  # noqa: ARG005
    alone = variants.synonyms(robot.by("slug synonyms"))
    assert alone.layer in {qualified(score.layer) for score in robot.scores}


def test_two_layers_go_the_same_fraction_of_their_norms(robot: Task) -> None:
    edit = variants.two_layers(robot.by("slug two layers"))
    weights = robot.clip.named()
    for name, delta in edit.delta.items():
        assert float(delta.norm()) == pytest.approx(
            float(weights[clip_name(name)].norm()), rel=1e-4
        )
    assert edit.about["layers"] == ", ".join(edit.delta)


def test_causal_tracing_puts_back_what_a_layer_adds(robot: Task) -> None:
    """The same by hooks on the plain model."""
    shown = robot.concept.forget[: variants.TRACED]
    pixels = data.pixels(shown, robot.clip.transform)
    tokens = robot.clip.tokenize([example.caption for example in shown])
    with torch.no_grad():
        other = robot.clip.encode_text(tokens)
        able = [1, 2, 3, 4]
        found = variants.recovered(robot, "vision", pixels, other, able)
        visual = robot.clip.model.visual
        start = visual._embeds(pixels)
        noise = torch.randn(start.shape, generator=robot.generator())
        noisy = start + variants.NOISE * start.std() * noise
        noisy[:, :1] = start[:, :1]

        def run(x: torch.Tensor, put: dict[int, torch.Tensor]) -> tuple[torch.Tensor, dict]:
            gave: dict[int, torch.Tensor] = {}
            for at, block in enumerate(visual.transformer.resblocks):
                for half in (1, 2):
                    number = 2 * at + half
                    own = block.attention(block.ln_1(x)) if half == 1 else block.mlp(block.ln_2(x))
                    gave[number] = own
                    x = x + put.get(number, own)
            return visual.ln_post(x[:, 0]) @ visual.proj, gave

        clean = run(start, {})[1]
        for at, value in zip(able, found, strict=True):
            features = normalize(run(noisy, {at: clean[at]})[0], dim=-1)
            assert float((features * other).sum(-1).mean()) == pytest.approx(value, abs=1e-4)
    assert max(found) > min(found)


def test_a_tower_without_an_editable_layer_is_not_traced(robot: Task) -> None:
    bare = replace(robot)
    bare.__dict__["scores"] = [score for score in robot.scores if score.tower == "text"]
    assert variants.traced(bare, "vision") is None
    assert variants.traced(bare, "text") in bare.scores


def test_the_papers_rule_is_the_configs(robot: Task) -> None:
    task = robot.by("slug paper's rule")
    found = experiment.erase(task)
    assert found.search is not None
    assert all(len(attempt.trace) >= 10 for attempt in found.search.attempts)
    assert found.goal.min_retain_acc == 0
    tuning = replace(robot.config.tuning, rule="paper")
    by_config = experiment.erase(
        Task(robot.opened, robot.concept, replace(robot.config, tuning=tuning))
    )
    assert found.edit.layer == by_config.edit.layer
    assert found.edit.strength == by_config.edit.strength
    assert task.config.tuning.rule == "floor"
