"""Folders as other tools and older libraries leave them: each opens as what it is, or is named."""

import json
import re
import shutil
from pathlib import Path

import house
import open_clip
import pytest
import tiny
import torch
from diffusers import LCMScheduler
from huggingface_hub import constants
from open_clip.transformer import QuickGELU
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel
from typer.testing import CliRunner

from slugdemo import catalog, edit
from slugdemo.__main__ import app
from slugdemo.errors import SlugError
from slugdemo.export import export
from slugdemo.models import checkpoint_files, loading, names
from slugdemo.models.clip import Clip
from slugdemo.models.diffusion import Diffusion

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

TEXT = "transformer.resblocks.1.mlp.c_fc.weight"
VISION = "visual.transformer.resblocks.0.mlp.c_fc.weight"


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of models, no embedded ones and an empty hub cache."""
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "assets").mkdir()
    monkeypatch.setenv("SLUGDEMO_ASSETS", str(tmp_path / "assets"))
    monkeypatch.setenv("SLUGDEMO_MODELS", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return folder


def hf_clip(folder: Path, *, text: str = "quick_gelu", vision: str = "quick_gelu") -> CLIPModel:
    """A CLIP of transformers as a Trainer saves it with its processor."""
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={
            **shape,
            "hidden_act": text,
            "intermediate_size": 64,
            "vocab_size": tiny.VOCABULARY,
            "max_position_embeddings": tiny.CONTEXT,
            "eos_token_id": tiny.VOCABULARY - 1,
        },
        vision_config={
            **shape,
            "hidden_act": vision,
            "intermediate_size": 96,
            "image_size": 32,
            "patch_size": 8,
        },
        projection_dim=16,
    )
    model = tiny.randomised(CLIPModel(config), 3)
    model.save_pretrained(folder)
    tiny.clip_tokenizer().save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder)
    return model


def sd(folder: Path, **options: int) -> Path:
    tiny.pipeline(tiny.clip_model(), **options).save_pretrained(folder)
    return folder


def llava(folder: Path) -> Path:
    model, processor = tiny.llava(tiny.clip_model())
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def changed(file: Path, **entries: object) -> None:
    """Puts other entries into a JSON file; None takes one out."""
    found = {**json.loads(file.read_text()), **entries}
    file.write_text(json.dumps({key: one for key, one in found.items() if one is not None}))


def said(name: str | Path) -> str:
    """The sentence that opening a model ends in."""

    def open_it() -> None:
        one = loading.opened(str(name))
        _ = one.clip if one.kind == "zero-shot" else (one.host, one.clip)

    with pytest.raises(SlugError) as caught:
        open_it()
    return str(caught.value)


# ---- another model than the one asked for


def cached_tag(monkeypatch: pytest.MonkeyPatch, name: str, tag: str, model: open_clip.CLIP) -> None:
    """A made-up hub cache in which a published tag has the weights of a tiny `model`."""
    config = tiny.clip_config(quick_gelu=False)  # as open_clip's table has it: without the trait
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, config)
    hub = open_clip.pretrained.get_pretrained_cfg(name, tag)["hf_hub"].strip("/")
    store = Path(constants.HF_HUB_CACHE) / f"models--{hub.replace('/', '--')}"
    (store / "refs").mkdir(parents=True)
    (store / "refs" / "main").write_text("a" * 40)
    (store / "snapshots" / ("a" * 40)).mkdir(parents=True)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, store / "snapshots" / ("a" * 40) / "open_clip_model.safetensors")


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize(
    ("name", "tag", "quick"),
    [
        ("ViT-B-32", "laion400m_e32", True),
        ("ViT-L-14", "openai", True),
        ("ViT-B-32", "laion2b_s34b_b79k", False),
    ],
)
def test_a_published_clip_has_the_activation_of_its_tag(
    name: str,
    tag: str,
    quick: bool,
    monkeypatch: pytest.MonkeyPatch,
    recwarn: pytest.WarningsRecorder,
) -> None:
    trained = tiny.clip_model(quick_gelu=quick)
    cached_tag(monkeypatch, name, tag, trained)
    clip = loading.opened(f"{name}/{tag}").clip
    kinds = {type(block.mlp.gelu) for block in clip.model.transformer.resblocks}
    kinds |= {type(block.mlp.gelu) for block in clip.model.visual.transformer.resblocks}
    assert kinds == {QuickGELU if quick else nn.GELU}
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(
            clip.encode_image(pixels), trained.encode_image(pixels, True), atol=1e-6
        )
    assert not [one for one in recwarn if "QuickGELU" in str(one.message)]


def test_the_clip_of_a_host_comes_from_the_hub_with_its_activation(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached_tag(monkeypatch, "ViT-L-14", "openai", tiny.clip_model())
    monkeypatch.setattr(loading, "CARRIED", {("diffusion", 24): "ViT-L-14/openai"})
    sd(models / "sd")
    clip = loading.opened("sd").clip
    assert clip.name == "ViT-L-14/openai"
    assert type(clip.model.transformer.resblocks[0].mlp.gelu) is QuickGELU


def test_a_tower_with_another_activation_is_not_the_same_tower(models: Path) -> None:
    clip = tiny.clip_model()
    sd(models / "sd")
    tiny.clip_folder(models / "gelu", clip)
    changed_model(models / "gelu", quick_gelu=False)
    assert "gelu has the activation gelu, and this one quick_gelu" in said("sd")
    tiny.clip_folder(models / "quick", clip)
    assert loading.opened("sd").clip.name == "quick"


def changed_model(folder: Path, **entries: object) -> None:
    file = folder / "open_clip_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "model_cfg": {**config["model_cfg"], **entries}}))


def test_architecture_is_part_of_the_digest_and_of_an_edit_file(
    clip: Clip, models: Path, tmp_path: Path
) -> None:
    tiny.clip_folder(models / "quick", clip.model)
    tiny.clip_folder(models / "gelu", clip.model)
    changed_model(models / "gelu", quick_gelu=False)
    quick, other = loading.opened("quick").clip, loading.opened("gelu").clip
    assert quick.digest[:64] == other.digest[:64]
    assert quick.digest == clip.digest != other.digest
    made = tiny.edit(clip.model, TEXT, 0.1)
    edit.save(tmp_path / "new", made.noted(weights=quick.digest))
    edit.save(tmp_path / "old", made.noted(weights=quick.digest[:64]))  # before there was more
    for name in ("new", "old"):
        edit.load(tmp_path / name, weights=quick.digest)
    with pytest.raises(SlugError, match="the same weights but another architecture"):
        edit.load(tmp_path / "new", weights=other.digest)


def test_a_trainers_folder_without_its_tokenizer_names_what_is_missing(models: Path) -> None:
    hf_clip(models / "trained")
    assert loading.opened("trained").clip.typed(["a cat"]).shape == (1, tiny.CONTEXT)
    tiny.clip_folder(models / "open", tiny.clip_model())
    sd(models / "sd")
    llava(models / "llava")
    for name in ("trained", "open", "sd/tokenizer", "llava"):
        for file in (models / name).glob("tokenizer*"):
            file.unlink()
    for name in ("trained", "open", "sd", "llava"):
        assert re.search(r"has no tokenizer: tokenizer\.json is missing", said(name)), name


def test_the_tokenizer_of_another_model_is_noticed(models: Path) -> None:
    hf_clip(models / "trained")
    tokenizer = tiny.clip_tokenizer()
    tokenizer.add_tokens(["<my-cat>"])
    tokenizer.save_pretrained(models / "trained")
    assert "another model's" in said("trained")


@pytest.mark.parametrize("text", ["quick_gelu", "gelu", "gelu_pytorch_tanh"])
@pytest.mark.parametrize("vision", ["quick_gelu", "gelu_pytorch_tanh"])
def test_towers_with_their_own_activations_answer_as_in_transformers(
    models: Path, text: str, vision: str
) -> None:
    theirs = hf_clip(models / "mixed", text=text, vision=vision)
    ours = loading.opened("mixed").clip
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    tokens = ours.tokenize(["a cat", "a red dog"])
    with torch.no_grad():
        told = theirs(input_ids=tokens, pixel_values=pixels)
        assert torch.allclose(ours.encode_text(tokens), told.text_embeds, atol=1e-5)
        assert torch.allclose(ours.encode_image(pixels), told.image_embeds, atol=1e-5)
        assert f"text: {text}" in ours.digest
        towers = names.text_model(ours.model)(tokens).pooler_output @ ours.model.text_projection
        assert torch.allclose(nn.functional.normalize(towers), told.text_embeds, atol=1e-5)


def test_an_activation_that_clip_cannot_have_is_refused_by_name(models: Path) -> None:
    hf_clip(models / "relu", vision="relu")
    why = "computes with the activation relu; quick_gelu, gelu and gelu_pytorch_tanh are supported"
    assert why in said("relu")
    assert why in catalog.refused()["relu"]


@pytest.mark.parametrize(
    "kind",
    ["StableDiffusionInpaintPipeline", "PixArtAlphaPipeline", "LatentConsistencyModelPipeline"],
)
def test_a_pipeline_of_another_class_is_named(models: Path, kind: str) -> None:
    folder = sd(models / "other")
    changed(folder / "model_index.json", _class_name=kind)
    for name in ("other", folder):
        assert f"other is a pipeline of the class {kind}; supported are Stable" in said(name)
    assert kind in catalog.refused()["other"]
    assert "other" not in {model.name for model in catalog.models()}


def test_a_unet_for_another_input_is_named(models: Path) -> None:
    folder = sd(models / "paint")
    changed(folder / "unet" / "config.json", in_channels=9)
    assert "reads 9 channels and its VAE makes 4" in said("paint")


def test_an_exported_pipeline_knows_its_clip_and_can_be_edited_again(models: Path) -> None:
    base = tiny.clip_folder(models / "base", tiny.clip_model())
    sd(models / "sd")
    clip = loading.opened("sd").clip
    first = tiny.edit(clip.model, TEXT, 0.5).noted(weights=clip.digest)
    export(models / "sd", [first], models / "edited")
    again = loading.opened("edited").clip
    moved = clip.named()[TEXT] + 0.5 * first.delta[f"text/{TEXT}"]
    assert torch.allclose(again.named()[TEXT], moved, atol=1e-6)
    still = {name for name in clip.named() if torch.equal(clip.named()[name], again.named()[name])}
    assert still == {*clip.named()} - {TEXT}
    assert again.digest != clip.digest
    second = tiny.edit(again.model, "transformer.resblocks.0.mlp.c_fc.weight", 0.3)
    export(models / "edited", [second.noted(weights=again.digest)], models / "twice")
    notes = json.loads((models / "twice" / "slugdemo.json").read_text())
    assert [note["weights"] for note in notes] == [clip.digest, again.digest]
    assert torch.allclose(loading.opened("twice").clip.named()[TEXT], moved, atol=1e-6)
    shutil.rmtree(base)
    assert "holds edits that were made for the CLIP with the weights" in said("edited")


def test_an_exported_llava_can_be_edited_again(models: Path) -> None:
    tiny.clip_folder(models / "base", tiny.clip_model())
    llava(models / "llava")
    clip = loading.opened("llava").clip
    made = tiny.edit(clip.model, VISION, 0.5).noted(weights=clip.digest)
    export(models / "llava", [made], models / "edited")
    again = loading.opened("edited").clip.named()[VISION]
    assert torch.allclose(again, clip.named()[VISION] + 0.5 * made.delta[f"vision/{VISION[7:]}"])


def test_a_tower_that_was_trained_further_gets_the_true_reason(models: Path) -> None:
    tiny.clip_folder(models / "base", tiny.clip_model())
    pipe = tiny.pipeline(tiny.clip_model())
    pipe.text_encoder.encoder.layers[1].mlp.fc1.weight.data *= 1.5
    pipe.save_pretrained(models / "tuned")
    told = said("tuned")
    assert "that of base differs in 1 of " in told
    assert "encoder.layers.1.mlp.fc1.weight" in told
    pipe = tiny.pipeline(tiny.clip_model())
    pipe.tokenizer.add_tokens(["<my-cat>", "<my-dog>"])
    pipe.text_encoder.resize_token_embeddings(len(pipe.tokenizer))
    pipe.save_pretrained(models / "inverted")
    assert "that of base knows 2 fewer tokens (textual inversion adds some)" in said("inverted")


def test_a_broken_clip_keeps_no_host_from_its_own(models: Path) -> None:
    tiny.clip_folder(models / "mine", tiny.clip_model())
    (models / "a-broken").mkdir()
    shutil.copy(models / "mine" / "open_clip_config.json", models / "a-broken")
    (models / "a-broken" / "open_clip_pytorch_model.bin").write_bytes(b"pickle")
    sd(models / "sd")
    assert loading.opened("sd").clip.name == "mine"
    shutil.rmtree(models / "mine")
    assert "that of a-broken cannot be compared (a-broken has only pickled" in said("sd")


# ---- folders


@pytest.mark.parametrize("file", ["processor_config.json", "preprocessor_config.json"])
def test_an_older_llava_processor_takes_its_numbers_from_the_model(models: Path, file: str) -> None:
    llava(models / "new")
    old = llava(models / "old")
    config = json.loads((old / "processor_config.json").read_text())
    (old / "processor_config.json").unlink()
    if file == "processor_config.json":
        left = {key: config[key] for key in config if key in ("processor_class", "image_processor")}
        (old / file).write_text(json.dumps(left))
    else:
        (old / file).write_text(json.dumps(config["image_processor"]))
    pictures, questions = house.pictures(2, seed=1), ["what is it?", "who?"]
    answers = [loading.opened(name).host.answer(pictures, questions) for name in ("old", "new")]
    assert answers[0] == answers[1]


def test_shards_without_an_index_open(models: Path) -> None:
    model, processor = tiny.llava(tiny.clip_model())
    for name in ("sharded", "whole"):
        model.save_pretrained(models / name, max_shard_size="60KB" if name == "sharded" else "5GB")
        processor.save_pretrained(models / name)
    (models / "sharded" / "model.safetensors.index.json").unlink()
    sizes = [catalog.memory(catalog.find(name)) for name in ("sharded", "whole")]
    assert sizes[0] == sizes[1]
    states = [loading.opened(name).host.model.state_dict() for name in ("sharded", "whole")]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    next((models / "sharded").glob("model-00002-*")).unlink()
    assert "model-00002-of-" in said("sharded")


@pytest.mark.parametrize("name", ["sd", "clip"])
def test_half_precision_variants_open(models: Path, name: str) -> None:
    if name == "sd":
        pipe = tiny.pipeline(tiny.clip_model()).to(dtype=torch.float16)
        pipe.save_pretrained(models / name, variant="fp16")
        tiny.clip_folder(models / "base", tiny.clip_model())
        host = loading.opened(name).host
        assert next(host.text.parameters()).dtype == torch.float32
        assert loading.opened(name).clip.name == "base"
    else:
        model = hf_clip(models / name)
        (models / name / "model.safetensors").unlink()
        model.half().save_pretrained(models / name, variant="fp16")
        clip = loading.opened(name).clip
        ours = clip.named()["visual.conv1.weight"]
        assert torch.equal(ours, model.vision_model.embeddings.patch_embedding.weight.float())
    assert list((models / name).rglob("*.fp16.safetensors"))
    assert not list((models / name).rglob("*model.safetensors"))  # the folder itself stays as it is


def test_a_feature_extractor_that_only_a_safety_checker_needs_may_be_missing(models: Path) -> None:
    folder = sd(models / "sd")
    changed(folder / "model_index.json", feature_extractor=["transformers", "CLIPImageProcessor"])
    checkpoint_files.check(folder)
    assert loading.opened("sd").host.generate(["a cat"], seeds=[1], steps=2)
    changed(folder / "model_index.json", unet_2=["diffusers", "UNet2DConditionModel"])
    assert "its part unet_2 is missing" in said("sd")


def test_a_checkpoint_in_a_single_file_is_told_how_to_become_a_folder(models: Path) -> None:
    folder = models / "single"
    folder.mkdir()
    name = "model.diffusion_model.input_blocks.0.0.weight"
    save_file({name: torch.zeros(1)}, folder / "v1-5-pruned.safetensors")
    for path in (folder, folder / "v1-5-pruned.safetensors"):
        told = said(path)
        assert "P.from_single_file(" in told
        assert "StableDiffusionPipeline as P" in told
    assert "single" in catalog.refused()


@pytest.mark.parametrize("name", ["clip", "sd", "llava"])
def test_what_git_lfs_leaves_in_place_of_a_file_is_named(models: Path, name: str) -> None:
    make = {
        "clip": lambda path: tiny.clip_folder(path, tiny.clip_model()),
        "sd": sd,
        "llava": llava,
    }
    folder = make[name](models / name)
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 123\n"
    weights = checkpoint_files.files(folder)[0]
    tokenizer = next(folder.rglob("tokenizer.json"))
    for file in (weights, tokenizer):
        before = file.read_bytes()
        file.write_text(pointer)
        assert f"{file.name} is a git-lfs pointer" in said(name)
        file.write_bytes(before)


def test_a_clip_of_transformers_is_exported_in_its_own_format(models: Path) -> None:
    model = hf_clip(models / "clip")
    clip = loading.opened("clip").clip
    made = [tiny.edit(clip.model, name, 0.5) for name in (TEXT, VISION, "visual.proj")]
    out = export(models / "clip", made, models / "edited")
    theirs = CLIPModel.from_pretrained(out)
    fresh = loading.opened("edited").clip
    for one in made:
        [(name, delta)] = [(edit.clip_name(n), d) for n, d in one.delta.items()]
        assert torch.allclose(fresh.named()[name], clip.named()[name] + 0.5 * delta)
    same = [n for n, w in theirs.state_dict().items() if torch.equal(w, model.state_dict()[n])]
    assert len(model.state_dict()) - len(same) == 3


def test_half_a_repository_in_the_cache_is_named(models: Path, tmp_path: Path) -> None:
    store = tmp_path / "hub" / "models--some--sd"
    (store / "refs").mkdir(parents=True)
    (store / "refs" / "main").write_text("a" * 40)
    sd(models / "sd")
    whole = shutil.copytree(models / "sd", store / "snapshots" / ("a" * 40))
    assert catalog.find("some/sd").place == "cache"
    shutil.rmtree(whole / "unet")
    with pytest.raises(
        SlugError, match=r"holds only a part of some/sd: sd is .*unet is missing.*hf download"
    ):
        catalog.find("some/sd")


@pytest.mark.usefixtures("models")
def test_a_size_is_counted_for_every_build_or_said_to_be_unknown() -> None:
    with pytest.raises(SlugError, match=r"about 0\.8 GB"):
        loading.opened("ViT-B-16-SigLIP/webli")
    with pytest.raises(SlugError, match="Its size is not known"):
        loading.opened("roberta-ViT-B-32/laion2b_s12b_b32k")


def test_a_scheduler_that_refuses_the_number_of_steps_is_a_sentence() -> None:
    pipe = tiny.pipeline(tiny.clip_model())
    pipe.scheduler = LCMScheduler(original_inference_steps=50, steps_offset=1)
    host = Diffusion(pipe)
    assert host.generate(["a cat"], seeds=[1], steps=4)
    with pytest.raises(SlugError, match="LCMScheduler cannot work with 100"):
        host.generate(["a cat"], seeds=[1], steps=100)


def test_a_safetensors_file_of_another_program_is_not_called_damaged(tmp_path: Path) -> None:
    save_file({"lora_te.weight": torch.zeros(2)}, tmp_path / "lora.safetensors")
    with pytest.raises(SlugError, match="file of another program"):
        edit.load(tmp_path / "lora.safetensors", weights=None)


# ---- all of them side by side

OPENS = {
    "open-clip": "zero-shot",
    "trainer": "zero-shot",
    "siglip": "zero-shot",
    "sd": "diffusion",
    "sd-fp16": "diffusion",
    "sdxl": "diffusion",
    "llava": "vlm",
    "llava-sharded": "vlm",
}
CANNOT = {
    "llava-half": "llava-half/model-00002-of-",
    "sd-inpaint": "is a pipeline of the class StableDiffusionInpaintPipeline",
    "sd-nine": "reads 9 channels and its VAE makes 4",
    "sd-no-unet": "its part unet is missing",
    "flux": "text_encoder_2 (T5) is no tower of a CLIP and cannot be edited",
    "relu": "the activation relu",
    "no-tokenizer": "tokenizer.json is missing",
    "pointers": "model.safetensors is a git-lfs pointer",
    "bert": "a model of the type bert",
    "pickled": "has only pickled weights",
    "empty": "holds no model of",
    "v1-5-pruned.safetensors": "P.from_single_file(",
    "old.ckpt": "is a pickled checkpoint",
}


def every_layout(models: Path) -> None:
    """A folder of models as somebody has it who tried many: whole ones, and all others."""
    tiny.clip_folder(models / "open-clip", tiny.clip_model())
    tiny.siglip_folder(models / "siglip", tiny.siglip_model())
    hf_clip(models / "trainer")
    sd(models / "sd")
    half = tiny.pipeline(tiny.clip_model()).to(dtype=torch.float16)
    half.save_pretrained(models / "sd-fp16", variant="fp16")
    second = tiny.clip_model(7)
    tiny.xl_pipeline(tiny.clip_model(), second).save_pretrained(models / "sdxl")
    llava(models / "llava")
    model, processor = tiny.llava(tiny.clip_model())
    for part in ("llava-sharded", "llava-half"):
        model.save_pretrained(models / part, max_shard_size="60KB")
        processor.save_pretrained(models / part)
        (models / part / "model.safetensors.index.json").unlink()
    next((models / "llava-half").glob("model-00002-*")).unlink()
    for name in ("sd-inpaint", "sd-nine", "sd-no-unet"):
        shutil.copytree(models / "sd", models / name)
    kind = {"_class_name": "StableDiffusionInpaintPipeline"}
    changed(models / "sd-inpaint" / "model_index.json", **kind)
    changed(models / "sd-nine" / "unet" / "config.json", in_channels=9)
    shutil.rmtree(models / "sd-no-unet" / "unet")
    for name in ("flux", "bert", "pickled", "empty"):
        (models / name).mkdir()
    encoders = {"text_encoder": "CLIPTextModel", "text_encoder_2": "T5EncoderModel"}
    index = {name: ["transformers", encoder] for name, encoder in encoders.items()}
    index["_class_name"] = "FluxPipeline"
    (models / "flux" / "model_index.json").write_text(json.dumps(index))
    (models / "bert" / "config.json").write_text('{"model_type": "bert"}')
    shutil.copy(models / "open-clip" / "open_clip_config.json", models / "pickled")
    (models / "pickled" / "open_clip_pytorch_model.bin").write_bytes(b"pickle")
    for name in ("relu", "no-tokenizer", "pointers"):
        shutil.copytree(models / "trainer", models / name)
    config = json.loads((models / "relu" / "config.json").read_text())
    config["vision_config"]["hidden_act"] = "relu"
    (models / "relu" / "config.json").write_text(json.dumps(config))
    for file in (models / "no-tokenizer").glob("tokenizer*"):
        file.unlink()
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 123\n"
    (models / "pointers" / "model.safetensors").write_text(pointer)
    name = "model.diffusion_model.input_blocks.0.0.weight"
    save_file({name: torch.zeros(1)}, models / "v1-5-pruned.safetensors")
    (models / "old.ckpt").write_bytes(b"pickle")
    (models / "notes.txt").write_text("mine")
    (models / ".cache").mkdir()


def test_every_folder_is_listed_as_what_it_is_or_with_the_reason_why_not(models: Path) -> None:
    every_layout(models)
    result = CliRunner().invoke(app, ["models"])
    heading, *lines = result.stdout.splitlines()
    assert heading.split()[:3] == ["name", "kind", "place"]
    here = [line.split() for line in lines if " folder " in line and " cannot be " not in line]
    assert {name: kind for name, kind, *_ in here} == OPENS
    assert all(float(megabytes) > 0 for *_, megabytes, _ in here)
    refused = dict(line.split(" cannot be opened: ", 1) for line in lines if " cannot be " in line)
    assert {*refused} == {*CANNOT}
    for name, why in CANNOT.items():
        assert why in refused[name], name
        assert refused[name].endswith((".", '"'))
    published = [name for name in catalog.PAPERS if any(line.startswith(name) for line in lines)]
    assert len(lines) == len(here) + len(refused) + len(published) + len(catalog.KNOWN)
