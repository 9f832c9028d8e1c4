"""Laws of the catalog and of loading: what is found, in which order, and which CLIP is carried."""

import shutil
from pathlib import Path

import house
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from slugdemo import catalog
from slugdemo.concept import prompt, style_prompt
from slugdemo.errors import SlugError
from slugdemo.models import loading, names
from slugdemo.pocket import words


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return house.build(tmp_path_factory.mktemp("assets"))


@pytest.fixture(autouse=True)
def here(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny assets, an empty folder of models and an empty hub cache."""
    monkeypatch.setenv("SLUGDEMO_ASSETS", str(built))
    monkeypatch.setenv("SLUGDEMO_MODELS", str(tmp_path / "models"))
    (tmp_path / "models").mkdir()


def test_every_embedded_model_is_found_by_its_name_with_its_size(built: Path) -> None:
    kinds = {"pocket-clip": "zero-shot", "pocket-sd": "diffusion", "pocket-llava": "vlm"}
    for name, kind in kinds.items():
        model = catalog.find(name)
        files = [file for file in (built / "models" / name).rglob("*") if file.is_file()]
        assert (model.kind, model.place, model.minutes) == (kind, "embedded", 0)
        assert model.bytes == sum(file.stat().st_size for file in files)
    assert "judge" not in {model.name for model in catalog.models()}


def test_an_embedded_model_comes_before_a_folder_of_the_same_name(
    built: Path, tmp_path: Path
) -> None:
    for name in ("pocket-clip", "mine"):
        shutil.copytree(built / "models" / "pocket-clip", tmp_path / "models" / name)
    assert catalog.find("pocket-clip").place == "embedded"
    assert catalog.find("mine").place == "folder"
    assert catalog.find(str(tmp_path / "models" / "mine")).kind == "zero-shot"


def test_what_is_only_at_the_hub_is_not_fetched_unasked_and_tells_size_and_time() -> None:
    for name, gigabytes in (("sd-2.1", "5.2"), ("ViT-B-32/laion400m_e32", "0.6")):
        assert catalog.find(name).place == "hub"
        with pytest.raises(SlugError, match=rf"{gigabytes} GB \(\d+ minutes"):
            loading.opened(name)


def test_the_size_of_a_published_clip_is_that_of_its_weights() -> None:
    parameters = 151_277_313  # of ViT-B-32, as open_clip's own table has it
    size = catalog.find("ViT-B-32/laion400m_e32").bytes
    assert size == pytest.approx(4 * parameters, rel=0.01)


def test_a_repository_in_the_hubs_cache_is_found_there(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    store = tmp_path / "models--stable-diffusion-v1-5--stable-diffusion-v1-5"
    (store / "refs").mkdir(parents=True)
    (store / "refs" / "main").write_text("a" * 40)
    shutil.copytree(built / "models" / "pocket-sd", store / "snapshots" / ("a" * 40))
    for name in ("sd-1.5", "stable-diffusion-v1-5/stable-diffusion-v1-5"):
        model = catalog.find(name)
        assert (model.place, model.kind) == ("cache", "diffusion")
    assert loading.opened("sd-1.5").clip.name == "pocket-clip"


@pytest.mark.parametrize("name", ["nothing", "ViT-B-32/nothing", "no/such/folder", ""])
def test_an_unknown_model_is_a_sentence_that_names_the_known_ones(name: str) -> None:
    with pytest.raises(SlugError, match=r"Here are: pocket-clip.*sd-1\.5"):
        catalog.find(name)


def test_an_empty_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(SlugError, match="holds no model"):
        catalog.find(str(tmp_path))


@pytest.mark.parametrize("name", ["pocket-sd", "pocket-llava"])
def test_a_host_gets_the_clip_whose_tower_it_carries(name: str) -> None:
    own, carried = loading.opened("pocket-clip").clip, loading.opened(name).clip
    assert carried.name == "pocket-clip"
    assert carried.digest == own.digest


def test_a_clip_of_the_same_shape_but_other_weights_is_not_taken(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = tmp_path / "alone" / "models"
    shutil.copytree(built / "models" / "pocket-sd", alone / "pocket-sd")
    tiny.clip_folder(alone / "a-stranger", tiny.clip_model(seed=5))
    monkeypatch.setenv("SLUGDEMO_ASSETS", str(alone.parent))
    with pytest.raises(SlugError, match="No CLIP here has the tower"):
        _ = loading.opened("pocket-sd").clip
    shutil.copytree(built / "models" / "pocket-clip", tmp_path / "models" / "the-right-one")
    assert loading.opened("pocket-sd").clip.name == "the-right-one"


def test_a_tower_in_half_precision_is_still_the_same_tower(built: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models" / "half"
    shutil.copytree(built / "models" / "pocket-sd", folder)
    file = folder / "text_encoder" / "model.safetensors"
    half = {name: tensor.half() for name, tensor in load_file(file).items()}
    save_file(half, file, {"format": "pt"})
    assert loading.opened("half").clip.name == "pocket-clip"


def test_a_clip_folder_of_transformers_opens_as_the_same_clip(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "hf-clip"
    model = tiny.clip_model()
    text, vision = names.text_model(model), names.vision_model(model)
    config = {"text_config": text.config.to_dict(), "vision_config": vision.config.to_dict()}
    twin = CLIPModel(CLIPConfig(**config, projection_dim=tiny.EMBEDDING))
    state = {f"text_model.{n}": t for n, t in text.state_dict().items() if "projection" not in n}
    state |= {f"vision_model.{n}": t for n, t in vision.state_dict().items()}
    weights = model.state_dict()
    state |= {
        "text_projection.weight": weights["text_projection"].T,
        "visual_projection.weight": weights["visual.proj"].T,
        "logit_scale": weights["logit_scale"],
    }
    twin.load_state_dict(state)
    twin.save_pretrained(folder)
    tiny.clip_tokenizer().save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder)
    clip = loading.opened("hf-clip").clip
    texts = ["a cat", "a red dog"]
    ours = loading.opened("pocket-clip").clip
    same = [one.encode_text(one.tokenize(texts)) for one in (clip, ours)]
    assert torch.allclose(*same, atol=1e-5)
    assert catalog.find("hf-clip").kind == "zero-shot"


def test_a_shipped_concept_has_the_papers_captions_and_keeps_all_others() -> None:
    for name, kind, label in (("cat", "object", "concept"), ("neon", "style", "style")):
        concept = catalog.concept(name)
        caption = style_prompt(name) if kind == "style" else prompt(name)
        assert concept.kind == kind
        assert {one.caption for one in concept.forget} == {caption}
        assert {one.labels[label] for one in concept.forget} == {name}
        assert concept.retain
        assert name not in {one.labels[label] for one in concept.retain}


def test_a_synonym_names_the_same_concept() -> None:
    assert catalog.concept("cats") == catalog.concept("cat")


def test_what_cannot_be_forgotten_is_a_sentence() -> None:
    with pytest.raises(SlugError, match="among what is kept"):
        catalog.concept("plain")
    with pytest.raises(SlugError, match="Did you mean cat"):
        catalog.concept("cta")


def test_pictures_of_ones_own_are_kept_apart_from_the_shipped_ones(tmp_path: Path) -> None:
    for at, picture in enumerate(house.pictures(3, seed=9)):
        picture.save(tmp_path / f"{at}.png")
    concept = catalog.concept("my mug", forget=tmp_path)
    assert concept.kind == "custom"
    assert [one.labels["concept"] for one in concept.forget] == ["my mug"] * 3
    assert {one.caption for one in concept.forget} == {"a picture of my mug"}
    assert len(concept.retain) == house.SPLITS["retain"]


def test_the_templates_are_those_the_pocket_models_learnt() -> None:
    for name in [*words.SYNONYMS, *(one for some in words.SYNONYMS.values() for one in some)]:
        for style in ("plain", *words.STYLE_WORDS):
            assert prompt(name, style) == words.prompt(name, style)
    assert style_prompt("neon") == words.style_prompt("neon")
