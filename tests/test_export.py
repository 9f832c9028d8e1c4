"""An edited model in its own format: loaded by its own library alone, it does what we showed."""

import json
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import tiny
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, LlavaForConditionalGeneration

from slugdemo.edit import Edit, apply, clip_name, qualified
from slugdemo.errors import SlugError
from slugdemo.export import export
from slugdemo.models.clip import Clip
from slugdemo.models.diffusion import Diffusion
from slugdemo.models.llava import Llava

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

TEXT = "transformer.resblocks.1.attn.in_proj_weight"
VISION = "visual.transformer.resblocks.0.mlp.c_fc.weight"


def an_edit(layer: str, step: float = 0.5, *, seed: int = 0) -> Edit:
    return tiny.edit(tiny.clip_model(), layer, step, seed=seed)


@pytest.fixture
def clip_folder(tmp_path: Path) -> Path:
    return tiny.clip_folder(tmp_path / "tiny-clip", tiny.clip_model())


@pytest.fixture
def sd_folder(tmp_path: Path) -> Path:
    tiny.pipeline(tiny.clip_model()).save_pretrained(tmp_path / "tiny-sd")
    return tmp_path / "tiny-sd"


@pytest.fixture
def llava_folder(tmp_path: Path) -> Path:
    model, processor = tiny.llava(tiny.clip_model())
    model.save_pretrained(tmp_path / "tiny-llava")
    processor.save_pretrained(tmp_path / "tiny-llava")
    return tmp_path / "tiny-llava"


def renamed(file: Path, old: str, new: str) -> None:
    """Gives tensors the names that published folders have."""
    tensors = load_file(file)
    save_file({name.replace(old, new): tensors[name] for name in tensors}, file, {"format": "pt"})


def contents(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def left_over(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.startswith(".")]


def test_open_clip_loads_the_edited_model(clip_folder: Path, tmp_path: Path) -> None:
    edits = [an_edit(TEXT), an_edit(VISION), an_edit(TEXT, 0.2, seed=5)]
    out = export(clip_folder, edits, tmp_path / "out" / "edited")
    model, _ = open_clip.create_model_from_pretrained(f"local-dir:{out}")
    base = tiny.clip_model().state_dict()
    changed = apply({qualified(name): tensor for name, tensor in base.items()}, edits)
    expected = {**base, **{clip_name(name): tensor for name, tensor in changed.items()}}
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert open_clip.get_tokenizer(f"local-dir:{out}")(["a cat"]).shape == (1, tiny.CONTEXT)
    assert Clip.from_folder(out).digest != Clip.from_folder(clip_folder).digest


@pytest.mark.parametrize("published", [False, True])
def test_diffusers_loads_the_edited_pipeline(
    sd_folder: Path, tmp_path: Path, published: bool
) -> None:
    host = Diffusion.from_folder(sd_folder).edited([an_edit(TEXT)])
    if published:
        for start in ("embeddings.", "encoder.", "final_layer_norm."):
            renamed(sd_folder / "text_encoder/model.safetensors", start, f"text_model.{start}")
    out = export(sd_folder, [an_edit(TEXT)], tmp_path / "edited")
    pipe = StableDiffusionPipeline.from_pretrained(out, local_files_only=True)
    theirs = pipe("a cat", generator=torch.Generator().manual_seed(1), num_inference_steps=3)
    ours = host.generate(["a cat"], seeds=[1], steps=3)[0]
    apart = np.asarray(ours, int) - np.asarray(theirs.images[0], int)
    assert np.abs(apart).max() <= 1


@pytest.mark.parametrize("published", [False, True])
def test_transformers_loads_the_edited_llava(
    llava_folder: Path, tmp_path: Path, published: bool
) -> None:
    host = Llava.from_folder(llava_folder).edited([an_edit(VISION)])
    if published:
        renamed(llava_folder / "model.safetensors", "vision_tower.", "vision_tower.vision_model.")
    out = export(llava_folder, [an_edit(VISION)], tmp_path / "edited")
    model = LlavaForConditionalGeneration.from_pretrained(out, local_files_only=True)
    processor = AutoProcessor.from_pretrained(out, local_files_only=True)
    picture = Image.effect_noise((40, 40), 80)
    questions = ["what is it?"]
    assert Llava(model, processor).answer([picture], questions) == host.answer([picture], questions)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, host.model.state_dict()[name]), name


def test_a_sharded_folder_is_edited_in_the_right_shard(llava_folder: Path, tmp_path: Path) -> None:
    host = Llava.from_folder(llava_folder)
    sharded = tmp_path / "sharded"
    shutil.copytree(llava_folder, sharded)
    (sharded / "model.safetensors").unlink()
    host.model.save_pretrained(sharded, max_shard_size="60KB")
    assert len(list(sharded.glob("model-*.safetensors"))) > 2
    out = export(sharded, [an_edit(VISION)], tmp_path / "edited")
    changed = [n for n, data in contents(sharded).items() if contents(out)[n] != data]
    assert len(changed) == 1
    model = LlavaForConditionalGeneration.from_pretrained(out, local_files_only=True)
    expected = host.edited([an_edit(VISION)]).model.state_dict()
    assert all(torch.equal(w, expected[name]) for name, w in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_keep_their_type_and_metadata(
    sd_folder: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    file = sd_folder / "text_encoder" / "model.fp16.safetensors"
    tensors = load_file(sd_folder / "text_encoder" / "model.safetensors")
    save_file({n: w.to(dtype) for n, w in tensors.items()}, file, {"format": "pt", "x": "y"})
    out = export(sd_folder, [an_edit(TEXT)], tmp_path / "edited")
    for name in ("model.safetensors", "model.fp16.safetensors"):
        before = load_file(sd_folder / "text_encoder" / name)
        after = load_file(out / "text_encoder" / name)
        changed = {n for n in before if not torch.equal(before[n], after[n])}
        layer = "encoder.layers.1.self_attn"
        assert changed == {f"{layer}.{letter}_proj.weight" for letter in "qkv"}
        assert {n: w.dtype for n, w in before.items()} == {n: w.dtype for n, w in after.items()}


def test_everything_else_is_copied_byte_by_byte(sd_folder: Path, tmp_path: Path) -> None:
    before = contents(sd_folder)
    out = export(sd_folder, [an_edit(TEXT)], tmp_path / "edited")
    after = contents(out)
    note = json.loads(after.pop("slugdemo.json"))
    assert note[0]["concept"] == "cat"
    assert note[0]["layer"] == qualified(TEXT)
    assert {n for n in before if before[n] != after[n]} == {"text_encoder/model.safetensors"}
    assert before.keys() == after.keys()
    assert contents(sd_folder) == before


def test_no_other_copy_of_the_unedited_weights_comes_along(
    sd_folder: Path, clip_folder: Path, tmp_path: Path
) -> None:
    (sd_folder / "v1-5-pruned.ckpt").write_bytes(b"unedited")
    (sd_folder / "v1-5-pruned.safetensors").write_bytes(b"unedited")
    (sd_folder / "text_encoder" / "pytorch_model.bin").write_bytes(b"unedited")
    (sd_folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"the same as before")
    (sd_folder / ".cache").mkdir()
    (sd_folder / ".cache" / "x.json").write_text("{}")
    (clip_folder / "open_clip_pytorch_model.bin").write_bytes(b"unedited")
    (clip_folder / "model.safetensors").write_bytes(b"unedited, in the other format")
    pipeline = contents(export(sd_folder, [an_edit(TEXT)], tmp_path / "sd"))
    clip = contents(export(clip_folder, [an_edit(TEXT)], tmp_path / "clip"))
    assert not [n for n, data in (pipeline | clip).items() if b"unedited" in data or "cache" in n]
    assert "unet/diffusion_pytorch_model.bin" in pipeline


def test_links_of_a_hub_cache_become_files(clip_folder: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for file in clip_folder.iterdir():
        (snapshot / file.name).symlink_to(file)
    out = export(snapshot, [an_edit(TEXT)], tmp_path / "edited")
    assert not [path for path in out.rglob("*") if path.is_symlink()]
    assert open_clip.create_model_from_pretrained(f"local-dir:{out}")


@pytest.mark.parametrize("layer", [VISION, "text_projection"])
def test_an_edit_that_the_folder_does_not_hold_is_refused_with_a_sentence(
    sd_folder: Path, tmp_path: Path, layer: str
) -> None:
    edits = [an_edit(TEXT), an_edit(layer)]
    with pytest.raises(SlugError, match=f"changes {qualified(layer)}, which this Stable"):
        export(sd_folder, edits, tmp_path / "edited")
    assert not (tmp_path / "edited").exists()


def test_a_folder_that_exists_is_never_written_over(clip_folder: Path, tmp_path: Path) -> None:
    before = contents(clip_folder)
    (tmp_path / "mine").mkdir()
    for out in (tmp_path / "mine", clip_folder, clip_folder / "inside"):
        with pytest.raises(SlugError, match="choose a new folder"):
            export(clip_folder, [an_edit(TEXT)], out)
    assert contents(clip_folder) == before


def test_a_failure_leaves_nothing_behind(
    clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("slugdemo.export.save_file", full)
    with pytest.raises(SlugError, match="No space left on device"):
        export(clip_folder, [an_edit(TEXT)], tmp_path / "edited")
    assert not (tmp_path / "edited").exists()
    assert not left_over(tmp_path)


def test_folders_that_cannot_be_edited_are_refused_with_a_sentence(
    clip_folder: Path, sd_folder: Path, tmp_path: Path
) -> None:
    out, edits = tmp_path / "edited", [an_edit(TEXT)]
    with pytest.raises(SlugError, match="There is no edit to apply"):
        export(clip_folder, [], out)
    with pytest.raises(SlugError, match="no folder of open_clip, CLIP, Stable Diffusion or LLaVA"):
        export(tmp_path, edits, out)
    weights = sd_folder / "text_encoder" / "model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))
    with pytest.raises(SlugError, match="pickled ones are not opened"):
        export(sd_folder, edits, out)
    (clip_folder / "open_clip_model.safetensors").write_bytes(b"torn")
    with pytest.raises(SlugError, match=r"open_clip_model\.safetensors cannot be read"):
        export(clip_folder, edits, out)
    assert not out.exists()
    assert not left_over(tmp_path)


def test_a_merged_folder_in_half_precision_loads_and_is_the_edit(
    sd_folder: Path, tmp_path: Path
) -> None:
    made = [an_edit(TEXT)]
    exact = Diffusion.from_folder(sd_folder).edited(made)
    out = export(sd_folder, made, tmp_path / "half", dtype=torch.float16)
    pipe = StableDiffusionPipeline.from_pretrained(out, local_files_only=True)
    for name, tensor in exact.text.state_dict().items():
        assert torch.allclose(pipe.text_encoder.state_dict()[name].float(), tensor, atol=1e-2)
    kinds = {t.dtype for file in out.rglob("*.safetensors") for t in load_file(file).values()}
    assert kinds == {torch.float16}
    assert Diffusion.from_folder(out).generate(["a cat"], seeds=[1], steps=2)
