"""Laws of layer scores and of the Pareto front."""

import random

import pytest
import torch
from conftest import noise
from torch import Tensor

from slugdemo import layers
from slugdemo.errors import SlugError
from slugdemo.gradients import Gradients
from slugdemo.layers import LayerScore
from slugdemo.models.clip import Clip
from slugdemo.weights import cosine, norm

MLP = "visual.transformer.resblocks.1.mlp"
PAIR = (f"{MLP}.c_fc.weight", f"{MLP}.c_proj.weight")


def random_gradients(clip: Clip, names: list[str]) -> Gradients:
    shapes = {name: clip.named()[name].shape for name in names}
    both = [{name: noise(*shapes[name], seed=seed) for name in names} for seed in (1, 2)]
    return Gradients(*both)


def test_candidates_are_the_matrices_and_gains(clip: Clip) -> None:
    names = layers.candidates(clip)
    assert "visual.conv1.weight" in names
    assert "visual.proj" in names
    assert "text_projection" in names
    assert "transformer.resblocks.0.attn.in_proj_weight" in names
    assert "visual.ln_post.weight" in names
    left_out = set(clip.named()) - set(names)
    words = ("bias", "position", "embedding", "logit_scale")
    assert all(any(word in name for word in words) for name in left_out)
    assert not any("ln_" in name for name in layers.candidates(clip, rule="no norms"))


def test_a_group_is_the_two_matrices_of_an_mlp(clip: Clip) -> None:
    names = layers.candidates(clip)
    tensors, groups = layers.grouped(names), layers.grouped(names, granularity="group")
    assert tensors == {name: (name,) for name in names}
    assert groups[MLP] == PAIR
    assert sorted(name for several in groups.values() for name in several) == sorted(names)
    assert len(names) - len(groups) == 6  # one pair in each of 2 x 3 blocks


@pytest.mark.parametrize("granularity", layers.GRANULARITIES)
def test_scores_are_the_formulas(clip: Clip, granularity: str) -> None:
    weights, grads = clip.named(), random_gradients(clip, layers.candidates(clip))
    scores = layers.scores(weights, grads, granularity=granularity)
    assert {one.layer for one in scores} == set(
        layers.grouped(grads.forget, granularity=granularity)
    )
    for one in scores:
        w, f, r = (
            {n: part[n] for n in one.tensors} for part in (weights, grads.forget, grads.retain)
        )
        assert one.importance == pytest.approx(norm(f) / norm(w), rel=1e-5)
        assert one.alignment == pytest.approx(cosine(f, r), abs=1e-6)
        assert one.params == sum(weights[name].numel() for name in one.tensors)
        assert one.tower == ("vision" if one.layer.startswith("visual") else "text")


def test_alignment_keeps_its_sign(clip: Clip) -> None:
    name = "visual.proj"
    grad = {name: noise(*clip.named()[name].shape)}
    for sign in (1, -1):
        (score,) = layers.scores(clip.named(), Gradients(grad, {name: sign * 3 * grad[name]}))
        assert score.alignment == pytest.approx(sign)
        assert layers.harm(score) == pytest.approx(1)
        assert layers.harm(score, alignment="signed") == pytest.approx(sign)


def test_a_layer_of_zeros_cannot_be_edited_and_a_zero_gradient_matters_nothing() -> None:
    weights = {"zero": torch.zeros(3), "w": torch.ones(3)}
    grad = {"zero": torch.ones(3), "w": torch.zeros(3)}
    (score,) = layers.scores(weights, Gradients(grad, grad))
    assert (score.layer, score.importance, score.alignment) == ("w", 0, 0)


def test_nan_is_a_sentence() -> None:
    bad = {"w": torch.tensor([float("nan")])}
    with pytest.raises(SlugError, match="w has a weight or a gradient"):
        layers.scores({"w": torch.ones(1)}, Gradients(bad, bad))


def brute_force(scores: list[LayerScore], alignment: str) -> set[LayerScore]:
    def beats(a: LayerScore, b: LayerScore) -> bool:
        x, y = layers.harm(a, alignment=alignment), layers.harm(b, alignment=alignment)
        as_good = a.importance >= b.importance and x <= y
        return as_good and (a.importance > b.importance or x < y)

    return {b for b in scores if not any(beats(a, b) for a in scores if a.tower == b.tower)}


@pytest.mark.parametrize("alignment", layers.ALIGNMENTS)
@pytest.mark.parametrize("seed", range(40))
def test_front_matches_brute_force(alignment: str, seed: int) -> None:
    dice = random.Random(seed)
    levels = dice.choice([3, 1000])  # few levels make ties
    scores = [
        LayerScore(
            f"layer {i}",
            dice.choice(["vision", "text"]),
            1,
            dice.randrange(levels) / levels,
            2 * dice.randrange(levels) / levels - 1,
            (f"layer {i}",),
        )
        for i in range(dice.randrange(30))
    ]
    front = layers.pareto_front(scores, alignment=alignment)
    assert len(front) == len(set(front))
    assert set(front) == brute_force(scores, alignment)


def test_the_front_lists_the_most_important_first_in_each_tower() -> None:
    scores = [LayerScore(f"{i}", "text", 1, i / 5, i / 9, ()) for i in (3, 1, 4)]
    assert [one.layer for one in layers.pareto_front(scores)] == ["4", "3", "1"]
    assert layers.pareto_front([]) == []


def test_other_names_are_refused_with_the_choices(clip: Clip) -> None:
    with pytest.raises(ValueError, match="'hf' is none of"):
        layers.candidates(clip, rule="hf")
    with pytest.raises(ValueError, match="'head' is none of"):
        layers.grouped([], granularity="head")
    with pytest.raises(ValueError, match="'abs' is none of"):
        layers.harm(LayerScore("x", "text", 1, 1, 1, ()), alignment="abs")


def test_scores_read_each_gradient_once(clip: Clip) -> None:
    class Lazy(dict[str, Tensor]):
        read: list[str]

        def __getitem__(self, name: str) -> Tensor:
            self.read.append(name)
            return super().__getitem__(name)

    names = layers.candidates(clip)
    grads = random_gradients(clip, names)
    lazy = Gradients(Lazy(grads.forget), Lazy(grads.retain))
    lazy.forget.read, lazy.retain.read = [], []
    layers.scores(clip.named(), lazy)
    assert lazy.forget.read == lazy.retain.read == names


def test_a_tensor_that_the_host_does_not_read_is_found_by_trying(clip: Clip) -> None:
    names = ["visual.proj", "text_projection", "visual.transformer.resblocks.2.mlp.c_fc.weight"]
    picture = noise(1, 3, 32, 32)
    found = layers.effective(
        names,
        weights=clip.named(),
        output=lambda part: clip.encode_image(picture, weights=part),
    )
    assert found == [names[0], names[2]]
