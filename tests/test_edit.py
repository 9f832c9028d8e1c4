"""Laws of edits: arithmetic, sign, files."""

import itertools
import os
from pathlib import Path

import pytest
import torch
from conftest import noise
from torch import Tensor

from slugdemo import edit as edits
from slugdemo import weights
from slugdemo.edit import LAYER_NORM, Edit, clip_name, qualified
from slugdemo.errors import SlugError
from slugdemo.gradients import forget_loss, gradient
from slugdemo.models.clip import Clip
from slugdemo.weights import Weights

NAME = "vision/transformer.resblocks.1.attn.out_proj.weight"
OTHER = "text/transformer.resblocks.2.mlp.c_proj.weight"


def named(clip: Clip) -> Weights:
    """The parameters of a CLIP under part-qualified names."""
    return {qualified(name): tensor for name, tensor in clip.named().items()}


def twin(clip: Clip, *made: Edit) -> Clip:
    moved = edits.apply(named(clip), made)
    return clip.edited({clip_name(name): tensor for name, tensor in moved.items()})


def random_edit(clip: Clip, name: str = NAME, *, step: float = 0.3, seed: int = 0) -> Edit:
    layer = {name: named(clip)[name]}
    delta = {name: noise(*layer[name].shape, seed=seed)}
    return Edit.along(delta, layer, concept=f"concept {seed}", method="noise", layer=name).at(step)


def test_the_direction_is_as_long_as_the_layer(clip: Clip) -> None:
    for names in ([NAME], [NAME, OTHER]):
        layer = {name: named(clip)[name] for name in names}
        grad = {name: 1e-4 * noise(*layer[name].shape) for name in names}
        edit = Edit.along(grad, layer, concept="cat", method="m", layer="a group")
        assert weights.norm(edit.delta) == pytest.approx(weights.norm(layer), rel=1e-5)
        assert weights.cosine(edit.delta, grad) == pytest.approx(1)


def test_lambda_times_the_gradient_is_the_delta(clip: Clip) -> None:
    layer, grad = {NAME: named(clip)[NAME]}, {NAME: noise(32, 32)}
    edit = Edit.along(grad, layer, concept="cat", method="m", layer=NAME).at(0.2)
    assert edit.lam == pytest.approx(0.2 * weights.norm(layer) / weights.norm(grad))
    assert torch.allclose(edit.strength * edit.delta[NAME], edit.lam * grad[NAME], rtol=1e-5)


def test_zero_step_is_identity_bit_for_bit(clip: Clip) -> None:
    base = {**named(clip), NAME: torch.tensor([[-0.0, 1.0]])}
    still = Edit("cat", "m", {NAME: torch.ones(1, 2)}, 0.0)
    assert edits.apply(base, [still]) == {}
    still = twin(clip, random_edit(clip).at(0.0))
    assert still.digest == clip.digest


def test_only_the_edited_tensors_come_back(clip: Clip) -> None:
    assert set(edits.apply(named(clip), [random_edit(clip)])) == {NAME}


def test_an_edit_takes_the_memory_of_its_layer_and_no_more(clip: Clip) -> None:
    edit, base = random_edit(clip), named(clip)
    with torch.profiler.profile(profile_memory=True) as seen:
        made = edits.apply(base, [edit])
    taken = sum(max(0, one.self_cpu_memory_usage) for one in seen.events())
    assert taken == pytest.approx(made[NAME].numel() * 4, abs=64)
    assert torch.equal(made[NAME], base[NAME] + 0.3 * edit.delta[NAME])


def test_edits_commute_bit_for_bit(clip: Clip) -> None:
    three = [random_edit(clip, seed=seed, step=10.0**-seed) for seed in range(3)]
    sums = [edits.apply(named(clip), order)[NAME] for order in itertools.permutations(three)]
    assert all(torch.equal(one, sums[0]) for one in sums)


def test_two_edits_on_one_tensor_add(clip: Clip) -> None:
    a, b = random_edit(clip, seed=1), random_edit(clip, seed=2, step=0.1)
    both = edits.apply(named(clip), [a, b])[NAME]
    expected = named(clip)[NAME] + 0.3 * a.delta[NAME] + 0.1 * b.delta[NAME]
    assert torch.allclose(both, expected, atol=1e-6)


def test_the_opposite_step_undoes(clip: Clip) -> None:
    edit = random_edit(clip)
    there = {**named(clip), **edits.apply(named(clip), [edit])}
    back = edits.apply(there, [edit.at(-edit.strength)])[NAME]
    assert torch.allclose(back, named(clip)[NAME], atol=1e-6)


def test_half_weights_stay_half_and_are_added_in_float32() -> None:
    tiny = Edit("cat", "m", {"text/w": torch.tensor([1.0])}, 2**-12)
    twice = Edit("dog", "m", {"text/w": torch.tensor([1.0])}, 2**-11)
    moved = edits.apply({"text/w": torch.ones(1, dtype=torch.float16)}, [tiny, twice])["text/w"]
    assert moved.dtype == torch.float16
    assert moved.item() == 1 + 2**-10  # 1 + 3/4 ulp rounds up; 1 + 1/4, then + 1/2, would not


@pytest.mark.parametrize(
    ("direction", "message"),
    [
        ({"text/nowhere": torch.ones(1)}, "'text/nowhere'"),
        ({NAME: torch.ones(2, 2)}, r"\(2, 2\).*\(32, 32\)"),
    ],
)
def test_an_edit_of_something_else_is_refused(clip: Clip, direction: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        edits.apply(named(clip), [Edit("cat", "m", direction, 0.1)])


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_no_direction_without_a_gradient(clip: Clip, value: float) -> None:
    layer = {NAME: named(clip)[NAME]}
    with pytest.raises(SlugError, match="no direction"):
        Edit.along(
            {NAME: torch.full((32, 32), value)}, layer, concept="cat", method="m", layer=NAME
        )


@pytest.mark.parametrize(
    "name", [NAME, OTHER, "vision/proj", "text/transformer.resblocks.0.ln_1.weight"]
)
def test_step_along_direction_raises_forget_loss(
    clip: Clip, pixels: Tensor, tokens: Tensor, name: str
) -> None:
    pairs = [(pixels[:8], tokens[:8])]
    found = gradient(clip, pairs, loss=forget_loss, names=[clip_name(name)])
    grad = {qualified(own): tensor for own, tensor in found.items()}
    along = Edit.along(grad, {name: named(clip)[name]}, concept="cat", method="m", layer=name)
    aside = random_edit(clip, name, seed=5)

    def mean_cosine(edit: Edit) -> float:
        moved = twin(clip, edit)
        return (
            (moved.encode_image(pixels[:8]) * moved.encode_text(tokens[:8])).sum(-1).mean().item()
        )

    here = mean_cosine(along)
    assert mean_cosine(along.at(0.01)) < here < mean_cosine(along.at(-0.01))
    assert abs(mean_cosine(aside.at(0.01)) - here) < here - mean_cosine(along.at(0.01))


def test_a_saved_edit_comes_back(clip: Clip, tmp_path: Path) -> None:
    edit = random_edit(clip, step=0.125).noted(weights=clip.digest, seed="7", n_forget="12")
    error = edits.save(tmp_path / "e.safetensors", edit, dtype=torch.float32)
    back = edits.load(tmp_path / "e.safetensors", weights=clip.digest)
    assert error == 0
    assert (back.concept, back.method, back.unit) == (edit.concept, edit.method, edit.unit)
    assert (back.layer, back.strength, back.lam) == (edit.layer, edit.strength, edit.lam)
    assert back.digest == edit.digest
    assert {**edit.about, "rounding_error": "0.0"} == back.about
    assert torch.equal(back.delta[NAME], edit.delta[NAME])


def test_half_precision_tells_its_error_and_costs_half_the_layer(
    clip: Clip, tmp_path: Path
) -> None:
    edit, path = random_edit(clip), tmp_path / "e.safetensors"
    error = edits.save(path, edit)
    back = edits.load(path, weights=None)
    away = back.delta[NAME] - edit.delta[NAME]
    assert 0 < error < 1e-3
    assert error == pytest.approx((away.norm() / edit.delta[NAME].norm()).item(), rel=1e-4)
    assert float(back.about["rounding_error"]) == error
    header = int.from_bytes(path.read_bytes()[:8], "little") + 8
    assert os.path.getsize(path) - header == 2 * named(clip)[NAME].numel()
    assert header < 1024


def test_an_edit_of_another_model_is_refused_with_a_sentence(clip: Clip, tmp_path: Path) -> None:
    edit = random_edit(clip).noted(weights="0" * 64, model="elsewhere")
    edits.save(tmp_path / "e.safetensors", edit)
    with pytest.raises(SlugError, match=r"elsewhere.*other weights"):
        edits.load(tmp_path / "e.safetensors", weights=clip.digest)


def test_an_edit_of_unknown_origin_is_refused(clip: Clip, tmp_path: Path) -> None:
    edits.save(tmp_path / "e.safetensors", random_edit(clip))
    with pytest.raises(SlugError, match="other weights"):
        edits.load(tmp_path / "e.safetensors", weights=clip.digest)


def test_another_safetensors_file_is_no_edit(tmp_path: Path) -> None:
    weights.save(tmp_path / "w.safetensors", {"x": torch.ones(1)}, {})
    with pytest.raises(SlugError, match="not an edit"):
        edits.load(tmp_path / "w.safetensors", weights=None)


def test_an_edit_without_a_strength_is_refused(clip: Clip, tmp_path: Path) -> None:
    edits.save(tmp_path / "e.safetensors", random_edit(clip))
    direction, facts = weights.load(tmp_path / "e.safetensors")
    facts.pop("strength")
    weights.save(tmp_path / "e.safetensors", direction, facts)
    with pytest.raises(SlugError, match="missing or strange entry: 'strength'"):
        edits.load(tmp_path / "e.safetensors", weights=None)


def test_names_of_clip_and_of_parts_are_one_to_one(clip: Clip) -> None:
    for name in clip.named():
        assert clip_name(qualified(name)) == name
    with pytest.raises(ValueError, match="no tower of CLIP"):
        clip_name("unet/conv_in.weight")


def test_parts_that_are_not_there_are_passed_over(clip: Clip) -> None:
    both = Edit("cat", "m", {NAME: torch.ones(32, 32), "unet/conv_in.weight": torch.ones(1)})
    assert set(edits.apply(named(clip), [both])) == {NAME}
    assert both.parts == ("vision", "unet")


def test_a_rule_survives_a_file_and_holds_plain_numbers_only(tmp_path: Path) -> None:
    path = tmp_path / "rule.safetensors"
    rule = Edit(
        "cat", "negative prompt", {}, rule="negative prompt", params={"prompt": "a cat", "k": 2.5}
    )
    edits.save(path, rule)
    back = edits.load(path, weights=None)
    assert (back.rule, dict(back.params), back.digest) == (
        rule.rule,
        dict(rule.params),
        rule.digest,
    )
    _, facts = weights.load(path)
    weights.save(path, {}, facts | {"params": '{"prompt": ["a"]}'})
    with pytest.raises(SlugError, match="not plain numbers and texts"):
        edits.load(path, weights=None)


def test_a_file_of_the_first_format_still_opens(clip: Clip, tmp_path: Path) -> None:
    edit, path = random_edit(clip, OTHER, step=0.25), tmp_path / "old.safetensors"
    old = {clip_name(OTHER): edit.delta[OTHER]}
    facts = {"format": "slugdemo edit 1", "concept": "cat", "layer": clip_name(OTHER)}
    facts |= {"step": "0.25", "lambda": "0.5", "ratio": "2.0", "weights": clip.digest}
    weights.save(path, old, facts)
    back = edits.load(path, weights=clip.digest)
    assert (back.method, back.unit, back.layer, back.strength) == ("slug", LAYER_NORM, OTHER, 0.25)
    assert back.lam == 0.5
    assert torch.equal(back.delta[OTHER], edit.delta[OTHER])


def test_an_edit_of_another_unet_is_refused(clip: Clip, tmp_path: Path) -> None:
    edit = random_edit(clip).noted(weights=clip.digest, unet="1" * 64)
    edits.save(tmp_path / "e.safetensors", edit)
    assert edits.load(tmp_path / "e.safetensors", weights=clip.digest, unet="1" * 64).layer == NAME
    with pytest.raises(SlugError, match="another U-Net"):
        edits.load(tmp_path / "e.safetensors", weights=clip.digest, unet="2" * 64)
