"""The two formats of one CLIP agree, tensor by tensor and feature by feature."""

import pytest
import tiny
import torch
from torch import Tensor
from transformers import CLIPTextModelWithProjection, CLIPVisionModelWithProjection

from slugdemo.models import names

ACTIVATIONS = [True, False]


def tokens() -> Tensor:
    """Three prompts that end with the last id of the vocabulary, then padding: (3, T)."""
    ids = torch.randint(3, 300, (3, tiny.CONTEXT), generator=torch.Generator().manual_seed(1))
    for row, end in enumerate((4, 9, tiny.CONTEXT - 1)):
        ids[row, end] = tiny.VOCABULARY - 1
        ids[row, end + 1 :] = 0
    return ids


def pixels() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("quick_gelu", ACTIVATIONS)
def test_both_text_towers_give_the_same_features(quick_gelu: bool) -> None:
    clip = tiny.clip_model(quick_gelu=quick_gelu)
    model = names.text_model(clip)
    with torch.no_grad():
        pooled = model(tokens()).pooler_output @ clip.text_projection
        assert (pooled - clip.encode_text(tokens())).abs().max() < 1e-5


@pytest.mark.parametrize("quick_gelu", ACTIVATIONS)
def test_both_vision_towers_give_the_same_features(quick_gelu: bool) -> None:
    clip = tiny.clip_model(quick_gelu=quick_gelu)
    model = names.vision_model(clip)
    with torch.no_grad():
        pooled = model(pixels()).pooler_output @ clip.visual.proj
        assert (pooled - clip.encode_image(pixels())).abs().max() < 1e-5


def test_the_projections_have_the_names_and_shapes_of_the_models_with_projection() -> None:
    clip = tiny.clip_model()
    text = CLIPTextModelWithProjection(names.text_model(clip).config)
    vision = CLIPVisionModelWithProjection(names.vision_model(clip).config)
    both = [
        (text, "text_model.", names.to_hf_text(clip.state_dict())),
        (vision, "vision_model.", names.to_hf_vision(clip.state_dict())),
    ]
    for model, prefix, tensors in both:
        inner = {n if "_projection" in n else prefix + n: w for n, w in tensors.items()}
        model.load_state_dict(inner)
    with torch.no_grad():
        assert torch.allclose(text(tokens()).text_embeds, clip.encode_text(tokens()), atol=1e-5)
        features = vision(pixels()).image_embeds
        assert torch.allclose(features, clip.encode_image(pixels()), atol=1e-5)


def test_translating_there_and_back_changes_nothing() -> None:
    weights = tiny.clip_model().state_dict()
    text = names.from_hf_text(names.to_hf_text(weights))
    vision = names.from_hf_vision(names.to_hf_vision(weights))
    assert set(text) | set(vision) == set(weights) - {"logit_scale"}
    for name, tensor in {**text, **vision}.items():
        assert torch.equal(tensor, weights[name]), name


def test_a_part_of_a_tower_translates_alone() -> None:
    name = "visual.transformer.resblocks.2.attn.in_proj_weight"
    weights = {name: tiny.clip_model().state_dict()[name]}
    assert names.to_hf_text(weights) == {}
    assert sorted(names.to_hf_vision(weights)) == [
        f"encoder.layers.2.self_attn.{letter}_proj.weight" for letter in "kqv"
    ]
    back = names.from_hf_vision(names.to_hf_vision(weights))
    assert list(back) == [name]
    assert torch.equal(back[name], weights[name])


def test_a_lone_q_cannot_be_joined() -> None:
    with pytest.raises(ValueError, match=r"k_proj\.weight"):
        names.from_hf_text({"encoder.layers.0.self_attn.q_proj.weight": torch.zeros(4, 4)})


@pytest.mark.parametrize("name", ["visual.attnpool.weight", "transformer.resblocks.0.ls_1.gamma"])
def test_a_name_of_another_architecture_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a tensor"):
        names.to_hf_text({name: torch.zeros(1)}) or names.to_hf_vision({name: torch.zeros(1)})


def test_a_tower_without_causal_mask_is_refused() -> None:
    clip = tiny.clip_model()
    clip.attn_mask = None
    with pytest.raises(ValueError, match="causal"):
        names.text_model(clip)


def test_the_converted_towers_own_their_weights() -> None:
    clip = tiny.clip_model()
    before = clip.transformer.resblocks[0].mlp.c_fc.weight.clone()
    names.text_model(clip).encoder.layers[0].mlp.fc1.weight.data.zero_()
    assert torch.equal(clip.transformer.resblocks[0].mlp.c_fc.weight, before)
