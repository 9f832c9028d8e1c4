"""Laws of Clip and its towers: same features as the libraries' own, whatever road they take."""

import json
from pathlib import Path

import open_clip
import pytest
import tiny
import torch
from conftest import noise, tokenize, transform
from PIL import Image
from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from slugdemo.errors import SlugError
from slugdemo.models import towers
from slugdemo.models.clip import Clip, tower
from slugdemo.weights import digest

PROMPTS = ["cat", "a dog and a cat", "a very long red car " * 9]


@pytest.mark.parametrize("quick_gelu", [True, False])
@pytest.mark.parametrize("pool", ["argmax", "eos"])
def test_towers_in_stages_answer_as_open_clip_does(quick_gelu: bool, pool: str) -> None:
    config = tiny.clip_config(quick_gelu=quick_gelu)
    config["text_cfg"] |= {"pool_type": pool, "eos_id": tiny.VOCABULARY - 1}
    model = tiny.randomised(open_clip.CLIP(**config), 4)
    clip, images, texts = Clip(model, tokenize, transform), noise(5, 3, 32, 32), tokenize(PROMPTS)
    with torch.no_grad():
        assert len(towers.chain(model, "vision")) == len(towers.chain(model, "text")) == 8
        image, text = model.encode_image(images, True), model.encode_text(texts, True)
        assert torch.allclose(clip.encode_image(images), image, atol=1e-6)
        assert torch.allclose(clip.encode_text(texts), text, atol=1e-6)
        assert torch.allclose(clip.encode_text(texts[:1]), text[:1], atol=1e-6)


def test_towers_of_other_builds_are_one_stage_and_just_as_right() -> None:
    config = tiny.clip_config()
    config["vision_cfg"]["pool_type"] = "avg"
    config["text_cfg"]["no_causal_mask"] = True
    model = tiny.randomised(open_clip.CLIP(**config), 4)
    clip, images, texts = Clip(model, tokenize, transform), noise(5, 3, 32, 32), tokenize(PROMPTS)
    with torch.no_grad():
        assert len(towers.chain(model, "vision")) == len(towers.chain(model, "text")) == 1
        image, text = model.encode_image(images, True), model.encode_text(texts, True)
        assert torch.allclose(clip.encode_image(images), image, atol=1e-6)
        assert torch.allclose(clip.encode_text(texts), text, atol=1e-6)


@pytest.mark.parametrize("side", towers.TOWERS)
def test_every_tensor_belongs_to_one_stage_of_its_tower(clip: Clip, side: str) -> None:
    stages = towers.chain(clip.model, side)
    for name in set(clip.named()) - {"logit_scale"}:
        readers = [stage for stage in stages if name.startswith(stage.prefixes)]
        assert len(readers) == (tower(name) == side), name
    assert towers.first_reader(stages, ["logit_scale"]) == len(stages)


@pytest.mark.parametrize("quick_gelu", [True, False])
def test_a_transformers_clip_becomes_the_same_clip(quick_gelu: bool) -> None:
    act = "quick_gelu" if quick_gelu else "gelu"
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "hidden_act": act}
    config = CLIPConfig(
        text_config={
            **shape,
            "intermediate_size": 64,
            "vocab_size": tiny.VOCABULARY,
            "max_position_embeddings": tiny.CONTEXT,
            "eos_token_id": tiny.VOCABULARY - 1,
        },
        vision_config={
            **shape,
            "intermediate_size": 96,
            "image_size": 32,
            "patch_size": 8,
            "layer_norm_eps": 1e-3,
        },
        projection_dim=16,
    )
    theirs = tiny.randomised(CLIPModel(config), 3)
    crop = {"height": 32, "width": 32}
    pictures = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=crop)
    ours = Clip.from_hf(theirs, tiny.clip_tokenizer(), pictures, name="converted")
    images, texts = noise(4, 3, 32, 32), ours.tokenize(PROMPTS)
    with torch.no_grad():
        expected = theirs(input_ids=texts, pixel_values=images)
        assert torch.allclose(ours.encode_image(images), expected.image_embeds, atol=1e-5)
        assert torch.allclose(ours.encode_text(texts), expected.text_embeds, atol=1e-5)
    assert ours.logit_scale == pytest.approx(theirs.logit_scale.exp().item())
    assert ours.transform(Image.new("RGB", (50, 40))).shape == (3, 32, 32)


def test_a_folder_opens_as_the_clip_that_was_saved(clip: Clip, tmp_path: Path) -> None:
    folder = tiny.clip_folder(tmp_path / "tiny-clip", clip.model)
    opened = Clip.from_folder(folder)
    assert opened.name == "tiny-clip"
    assert opened.digest == clip.digest
    assert torch.equal(opened.tokenize(PROMPTS), clip.tokenize(PROMPTS))
    assert opened.transform(Image.new("RGB", (50, 40))).shape == (3, 32, 32)
    assert not any(tensor.requires_grad for tensor in opened.named().values())


def test_a_folder_without_a_model_is_a_sentence(clip: Clip, tmp_path: Path) -> None:
    with pytest.raises(SlugError, match="no open_clip model"):
        Clip.from_folder(tmp_path)
    folder = tiny.clip_folder(tmp_path / "broken", clip.model)
    (folder / "open_clip_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(SlugError, match="could not be opened"):
        Clip.from_folder(folder)
    (folder / "open_clip_config.json").write_text(json.dumps({"other": 1}))
    with pytest.raises(SlugError, match="model_cfg"):
        Clip.from_folder(folder)


def test_weights_with_nan_are_refused(tmp_path: Path) -> None:
    model = tiny.clip_model()
    model.visual.proj.data[0, 0] = float("nan")
    folder = tiny.clip_folder(tmp_path / "damaged", model)
    with pytest.raises(SlugError, match=r"visual\.proj holds NaN"):
        Clip.from_folder(folder)


def test_a_typed_text_that_does_not_fit_is_refused(clip: Clip) -> None:
    assert torch.equal(clip.typed(PROMPTS[:2]), clip.tokenize(PROMPTS[:2]))
    with pytest.raises(SlugError, match=r"'a very long red car.*22 tokens"):
        clip.typed(PROMPTS)


def test_replaced_weights_are_read_and_the_clip_stays(clip: Clip, pixels: Tensor) -> None:
    new = {"visual.proj": noise(32, 16)}
    by_weights = clip.encode_image(pixels[:2], weights=new)
    by_twin = clip.edited(new)
    assert torch.equal(by_weights, by_twin.encode_image(pixels[:2]))
    assert not torch.allclose(by_weights, clip.encode_image(pixels[:2]))
    assert by_twin.digest != clip.digest
    assert clip.digest.startswith(f"{digest(clip.model)} ")
    assert clip.edited({}) is clip
