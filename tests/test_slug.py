"""Laws of SLUG itself: which layer and step come back, and with what reason."""

import pytest
import torch
from conftest import WORDS, noise
from torch import Tensor

from slugdemo import edit as edits
from slugdemo.edit import Edit
from slugdemo.errors import SlugError
from slugdemo.gradients import Gradients, batches, gradients
from slugdemo.layers import LayerScore, candidates
from slugdemo.methods import METHODS
from slugdemo.methods.slug import front, slug
from slugdemo.models.clip import Clip
from slugdemo.models.zero_shot import ZeroShot
from slugdemo.search import EVALUATIONS, Evaluate, Point

PROMPTS = {word: [f"a {word}"] for word in WORDS}


@pytest.fixture(scope="module")
def host(clip: Clip) -> ZeroShot:
    pixels = noise(60, 3, 32, 32, seed=1)
    blind = ZeroShot.of(clip, PROMPTS, pixels=pixels, labels=[""] * len(pixels))
    says = [WORDS[i] for i in blind.scores.argmax(1)]
    return ZeroShot.of(clip, PROMPTS, pixels=pixels, labels=says)


@pytest.fixture(scope="module")
def target(host: ZeroShot) -> str:
    """The second most frequent answer, so that something else is left to keep."""
    counts = {word: int((host.labels == i).sum()) for i, word in enumerate(WORDS)}
    return sorted(counts, key=counts.__getitem__)[-2]


@pytest.fixture(scope="module")
def grads(clip: Clip, host: ZeroShot, target: str) -> Gradients:
    own = host.labels == WORDS.index(target)
    texts = clip.tokenize([PROMPTS[WORDS[i]][0] for i in host.labels])
    inputs = host.pictures.inputs
    return gradients(
        clip,
        batches(inputs[own], texts[own], size=8),
        retain=batches(inputs[~own], texts[~own], size=8, seed=0),
        names=candidates(clip),
    )


def test_the_outcome_says_what_the_edited_host_does(
    clip: Clip, host: ZeroShot, target: str, grads: Gradients
) -> None:
    seen: list[tuple[str, Point]] = []

    def watch(score: LayerScore, point: Point) -> None:
        seen.append((score.layer, point))

    found = slug(clip, target, gradients=grads, exam=host.exam(target), loss=0.3, watch=watch)
    again = host.edited([found.edit]).point(target, step=found.edit.step)
    assert again == found.point
    assert found.before == host.point(target, step=0.0)
    assert {one.score for one in found.attempts} == set(front(clip, grads))
    assert seen == sorted(
        [(one.score.layer, point) for one in found.attempts for point in one.trace],
        key=seen.index,
    )
    assert all(len(one.trace) <= EVALUATIONS for one in found.attempts)
    assert found.edit.about["weights"] == clip.digest
    assert float(found.edit.about["forget_after"]) == found.point.forget
    assert found.attempts[0].score.layer in found.reason


def test_the_best_passing_layer_wins(
    clip: Clip, host: ZeroShot, target: str, grads: Gradients
) -> None:
    found = slug(clip, target, gradients=grads, exam=host.exam(target), loss=1.0)
    everything = [point for one in found.attempts for point in one.trace if found.goal.met(point)]
    assert found.feasible
    assert found.point.forget == 0
    assert found.point.retain == max(point.retain for point in everything)
    kept = [one.choice.point.retain for one in found.attempts if one.choice.feasible]
    assert kept == sorted(kept, reverse=True)


def test_when_nothing_passes_it_says_so_and_gives_the_least_bad(
    clip: Clip, target: str, grads: Gradients
) -> None:
    def stubborn(edit: Edit) -> Evaluate:
        return lambda step: Point(step, 0.4 + len(edit.layer) / 1000, 1.0, 5, 5)

    found = slug(clip, target, gradients=grads, exam=stubborn)
    assert not found.feasible
    assert found.reason.startswith("None of the")
    assert len(found.edit.layer) == min(len(one.edit.layer) for one in found.attempts)


def test_glances_lead_to_the_smallest_passing_step_of_each_layer(
    clip: Clip, host: ZeroShot, target: str, grads: Gradients
) -> None:
    options = {"gradients": grads, "exam": host.exam(target), "loss": 1.0}
    full = slug(clip, target, **options)
    quick = slug(clip, target, glance=host.glance(target), **options)
    passing = {
        one.score.layer: [point.step for point in one.trace if full.goal.met(point)]
        for one in full.attempts
    }
    assert any(passing.values())
    for one in quick.attempts:
        steps = passing[one.score.layer]
        assert one.choice.point.n_retain == full.before.n_retain
        assert one.choice.feasible == bool(steps)
        assert not steps or one.edit.step == min(steps)


def test_the_papers_rule_takes_ten_evaluations_a_layer(
    clip: Clip, host: ZeroShot, target: str, grads: Gradients
) -> None:
    exam = host.exam(target, top=5)
    found = slug(clip, target, gradients=grads, exam=exam, rule="paper")
    assert {len(one.trace) for one in found.attempts} == {10}
    assert found.goal.retain == 0


def test_only_layers_that_the_host_reads_are_tried(
    clip: Clip, host: ZeroShot, target: str, grads: Gradients
) -> None:
    text = [name for name in candidates(clip) if not name.startswith("visual.")]
    found = slug(clip, target, gradients=grads, exam=host.exam(target), editable=text)
    assert {one.score.tower for one in found.attempts} == {"text"}
    with pytest.raises(SlugError, match="No layer"):
        slug(clip, target, gradients=grads, exam=host.exam(target), editable=[])


def test_a_group_moves_together(clip: Clip, host: ZeroShot, target: str, grads: Gradients) -> None:
    mlp = [name for name in candidates(clip) if ".0.mlp." in name]
    found = slug(clip, target, gradients=grads, exam=host.exam(target), editable=mlp, unit="group")
    assert all(len(one.edit.direction) == 2 for one in found.attempts)


def test_a_concept_that_the_model_does_not_know_is_a_sentence(
    clip: Clip, target: str, grads: Gradients
) -> None:
    def ignorant(edit: Edit) -> Evaluate:  # noqa: ARG001
        return lambda step: Point(step, 0.0, 1.0, 12, 5)

    with pytest.raises(SlugError, match=r"nothing to forget.*0% of the 12 pictures"):
        slug(clip, target, gradients=grads, exam=ignorant)


def test_a_zero_gradient_is_a_sentence(clip: Clip, host: ZeroShot, target: str) -> None:
    zero = {name: torch.zeros_like(clip.named()[name]) for name in candidates(clip)}
    with pytest.raises(SlugError, match="No layer of this model has a gradient"):
        slug(clip, target, gradients=Gradients(zero, zero), exam=host.exam(target))


def test_a_watch_that_raises_cancels(
    clip: Clip, host: ZeroShot, target: str, grads: Gradients
) -> None:
    def stop(score: LayerScore, point: Point) -> None:  # noqa: ARG001
        raise SlugError("Cancelled.")

    with pytest.raises(SlugError, match="Cancelled"):
        slug(clip, target, gradients=grads, exam=host.exam(target), watch=stop)


def test_forgetting_two_things_adds_two_edits_from_the_original_weights(
    clip: Clip, host: ZeroShot, target: str, grads: Gradients
) -> None:
    one = slug(clip, target, gradients=grads, exam=host.exam(target), loss=1.0).edit
    other = one.at(one.step / 2).noted(second="yes")
    both = edits.apply(clip.named(), [one, other])
    for name, tensor in both.items():
        expected: Tensor = clip.named()[name] + 1.5 * one.step * one.direction[name]
        assert torch.allclose(tensor, expected, atol=1e-6)


def test_every_method_is_named_in_the_dict() -> None:
    assert METHODS["slug"] is slug
