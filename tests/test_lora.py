"""Edits as LoRA-style files: loaded as the tools do it, the weights are those of the edit."""

from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file
from torch import nn

from slugdemo import lora
from slugdemo.edit import Edit
from slugdemo.errors import SlugError
from slugdemo.models.diffusion import Diffusion

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

LAYERS = ("transformer.resblocks.1.attn.in_proj_weight", "transformer.resblocks.0.mlp.c_fc.weight")


def loaded(path: Path, parts: dict[str, nn.Module]) -> dict[str, torch.Tensor]:
    """The weights after the tools' rule: each module by its name with underscores, plus its diff."""
    file, found, read = load_file(path), {}, set()
    for prefix, module in parts.items():
        for name, parameter in module.named_parameters():
            layer, kind = name.rsplit(".", 1) if "." in name else ("", name)
            key = f"{prefix}_{layer.replace('.', '_')}.{'diff_b' if kind == 'bias' else 'diff'}"
            moved = file[key].float() if key in file else 0.0
            read |= {key} & file.keys()
            found[f"{prefix}.{name}"] = parameter + moved
    assert read == file.keys()  # every key names a module: none is passed over
    return found


def unet_edit(host: Diffusion) -> Edit:
    names = [
        n for n in host.named() if n.startswith("unet/") and ("attn2.to_k" in n or "conv_in" in n)
    ]
    noise = torch.Generator().manual_seed(0)
    return Edit(
        "cat", "m", {n: torch.randn(host.named()[n].shape, generator=noise) for n in names}, 0.4
    )


def test_the_tools_rule_gives_the_edited_weights(tmp_path: Path) -> None:
    clip = tiny.clip_model()
    host = Diffusion(tiny.pipeline(clip))
    edits = [
        *(tiny.edit(clip, name, 0.5) for name in LAYERS),
        tiny.edit(clip, LAYERS[0], 0.2, seed=1),
    ]
    edits.append(unet_edit(host))
    path = lora.save(tmp_path / "e.safetensors", edits, dtype=torch.float32)
    parts = {"lora_te_text_model": host.text, "lora_unet": host.unet}
    theirs, ours = loaded(path, parts), host.edited(edits)
    for prefix, part in (("lora_te_text_model", ours.text), ("lora_unet", ours.unet)):
        for name, tensor in part.named_parameters():
            assert torch.allclose(theirs[f"{prefix}.{name}"], tensor, atol=1e-5), name


def test_half_precision_rounds_and_the_names_are_kohyas(tmp_path: Path) -> None:
    path = lora.save(tmp_path / "e.safetensors", [tiny.edit(tiny.clip_model(), LAYERS[0], 0.5)])
    stored = load_file(path)
    layer = "lora_te_text_model_encoder_layers_1_self_attn"
    assert {*stored} == {f"{layer}_{letter}_proj.diff" for letter in "qkv"}
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (tiny.edit(tiny.clip_model(), "visual.proj", 0.5), "the part vision"),
        (tiny.edit(tiny.clip_model(), "ln_final.weight", 0.5), "no tool reads"),
        (Edit("cat", "negative prompt", {}, rule="negative prompt"), "is a rule"),
    ],
)
def test_what_such_a_file_cannot_hold_is_a_sentence(edit: Edit, said: str, tmp_path: Path) -> None:
    with pytest.raises(SlugError, match=said):
        lora.save(tmp_path / "e.safetensors", [edit])
    assert not (tmp_path / "e.safetensors").exists()
