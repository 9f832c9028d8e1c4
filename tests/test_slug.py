"""Laws of SLUG: which layer and strength come back, and what the search may try."""

from dataclasses import replace

import pytest

from slugdemo import catalog, edit, layers, weights
from slugdemo.config import Config
from slugdemo.edit import Edit, qualified
from slugdemo.errors import SlugError
from slugdemo.methods.slug import direction, slug
from slugdemo.models.loading import opened
from slugdemo.search import EVALUATIONS, Evaluate, Evaluators, Score, Tuning
from slugdemo.task import Task

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.usefixtures("assets"),
]


def a_task(tuning: Tuning | None = None, name: str = "robot", **config: str) -> Task:
    tuning = tuning or Tuning(max_retain_drop=1.0)
    return Task(opened("pocket-clip"), catalog.concept(name), Config(tuning=tuning, **config))


def asked_instead(task: Task, evaluator: object) -> Task:
    """The task with another evaluator in the place of its own."""
    task.__dict__["evaluators"] = Evaluators(evaluator)
    return task


@pytest.fixture(scope="module")
def task() -> Task:
    found = a_task()
    slug(found)
    return found


def test_the_direction_is_the_forget_gradient_as_long_as_the_layer(task: Task) -> None:
    for score in task.front:
        made = direction(task, score)
        gradient = {qualified(n): task.gradients.forget[n] for n in score.tensors}
        layer = {qualified(n): task.clip.named()[n] for n in score.tensors}
        assert weights.cosine(made.delta, gradient) == pytest.approx(1)
        assert weights.norm(made.delta) == pytest.approx(weights.norm(layer), rel=1e-5)
        assert made.strength == 0.0
        assert made.about["weights"] == task.clip.digest


def test_the_search_says_what_the_edited_model_does(task: Task) -> None:
    found = task.searches[0]
    evaluate = task.evaluators.full
    assert evaluate(found.edit)(found.edit.strength) == found.score
    assert evaluate(found.edit)(0.0) == found.before
    assert {attempt.edit.layer for attempt in found.attempts} == {
        qualified(score.layer) for score in task.front
    }
    assert all(len(attempt.trace) <= EVALUATIONS + 1 for attempt in found.attempts)


def test_the_best_passing_layer_wins(task: Task) -> None:
    found = task.searches[0]
    assert found.feasible
    assert found.score.forget_acc == 0
    kept = [a.choice.score.retain_acc for a in found.attempts if a.choice.feasible]
    assert kept == sorted(kept, reverse=True)
    everything = [s for a in found.attempts for s in a.trace if found.goal.met(s)]
    assert found.score.retain_acc == max(score.retain_acc for score in everything)


def test_when_nothing_passes_it_says_so_and_gives_the_nearest() -> None:
    def stubborn(made: Edit) -> Evaluate:
        return lambda step: Score(step, 0.4 + len(made.layer) / 1000, 1.0, 500, 5)

    task = asked_instead(a_task(), stubborn)
    made = slug(task)
    found = task.searches[0]
    assert not found.feasible
    assert "None of the" in found.reason
    assert "these and the next fronts" in found.reason
    assert len(made.layer) == min(len(a.edit.layer) for a in found.attempts)


def test_the_papers_rule_takes_ten_evaluations_of_every_front_layer_and_no_floor() -> None:
    task = a_task(Tuning(rule="paper", evaluations=3, margin=0.5, shortlist=1, max_retain_drop=0.0))
    task.__dict__["evaluators"] = Evaluators(task.evaluation.evaluator())
    slug(task)
    found = task.searches[0]
    assert {len(attempt.trace) for attempt in found.attempts} == {10}
    assert len(found.attempts) == len(task.front)
    assert found.goal.min_retain_acc == 0.0
    assert task.config.evaluation_size.best(6) == 5


def test_the_papers_rule_ends_with_the_first_fronts() -> None:
    def stubborn(made: Edit) -> Evaluate:  # noqa: ARG001
        return lambda step: Score(step, 0.5, 1.0, 10, 10)

    for rule, more in (("paper", False), ("floor", True)):
        task = asked_instead(a_task(Tuning(rule=rule)), stubborn)
        slug(task)
        tried = {attempt.edit.layer for attempt in task.searches[0].attempts}
        fronts = {qualified(score.layer) for score in task.front}
        further = {qualified(score.layer) for score in task.next_front}
        assert further
        assert tried == (fronts | further if more else fronts)


def test_a_group_moves_together() -> None:
    task = a_task(granularity="group")
    mlp = next(score for score in task.scores if score.layer.endswith(".mlp"))
    assert len(direction(task, mlp).delta) == 2


def test_a_concept_that_the_model_does_not_know_is_a_sentence() -> None:
    def ignorant(made: Edit) -> Evaluate:  # noqa: ARG001
        return lambda step: Score(step, 0.0, 1.0, 12, 5)

    with pytest.raises(SlugError, match=r"nothing to forget.*0 of 12"):
        slug(asked_instead(a_task(), ignorant))


def test_a_zero_gradient_is_a_sentence() -> None:
    task = a_task()
    names = layers.candidates(task.clip)
    zero = {name: 0 * task.clip.named()[name] for name in names}
    task.__dict__ |= {"forget_gradient": zero, "retain_gradient": zero}
    with pytest.raises(SlugError, match="No layer of this model has a gradient"):
        slug(task)


def test_stop_ends_a_search_at_its_next_evaluation() -> None:
    task, counts = a_task(), []

    def stopped() -> bool:
        counts.append(1)
        return len(counts) > 4

    task.cancelled = stopped
    with pytest.raises(SlugError, match="Stopped"):
        slug(task)
    assert task.searches == []


def test_forgetting_two_things_adds_two_edits_from_the_original_weights(task: Task) -> None:
    made = task.searches[0].edit
    half = made.at(made.strength / 2).noted(second="yes")
    base = {qualified(name): tensor for name, tensor in task.clip.named().items()}
    both = edit.apply(base, [made, half])
    for name, tensor in both.items():
        expected = base[name] + 1.5 * made.strength * made.delta[name]
        assert (tensor - expected).abs().max() < 1e-6


def test_a_signed_alignment_is_another_front() -> None:
    task = a_task()
    signed = replace(task.config, alignment="signed")
    other = Task(task.opened, task.concept, signed)
    harm = {score.layer: score.alignment for score in other.scores}
    worst = max(other.front, key=lambda score: score.alignment)
    assert all(harm[score.layer] <= worst.alignment for score in other.front)
