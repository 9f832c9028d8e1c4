"""Edits as LoRA-style files: loaded as the tools do it, the weights are those of the edit."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_lora_to_diffusers
from diffusers.utils.state_dict_utils import (
    StateDictType,
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
)
from safetensors.torch import load_file
from torch import nn

from slugdemo import lora
from slugdemo.edit import Edit
from slugdemo.errors import SlugError
from slugdemo.models.diffusion import Diffusion
from slugdemo.models.sdxl import DiffusionXL

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
    path = lora.save(tmp_path / "e.safetensors", edits, host.named(), dtype=torch.float32)
    parts = {"lora_te_text_model": host.text, "lora_unet": host.unet}
    theirs, ours = loaded(path, parts), host.edited(edits)
    for prefix, part in (("lora_te_text_model", ours.text), ("lora_unet", ours.unet)):
        for name, tensor in part.named_parameters():
            assert torch.allclose(theirs[f"{prefix}.{name}"], tensor, atol=1e-5), name


def as_low_rank(file: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same moves as an ordinary LoRA of full rank, up = diff and down = 1: the same names."""
    found = {}
    for key, diff in ((key, diff) for key, diff in file.items() if diff.any()):
        layer = key.removesuffix(".diff")
        found[f"{layer}.lora_up.weight"] = diff
        found[f"{layer}.lora_down.weight"] = torch.eye(diff.shape[1])
        found[f"{layer}.alpha"] = torch.tensor(float(diff.shape[1]))
    return found


@pytest.mark.parametrize("towers", [1, 2])
def test_diffusers_own_renaming_finds_each_weight_that_the_edit_moves(
    tmp_path: Path, towers: int
) -> None:
    """Its loader reads no `diff`, so the names are tried on a LoRA of the same layers."""
    clip, second = tiny.clip_model(), tiny.clip_model(7)
    pipe = tiny.pipeline(clip) if towers == 1 else tiny.xl_pipeline(clip, second)
    host = Diffusion(pipe) if towers == 1 else DiffusionXL(pipe)
    part = {n: w for n, w in host.named().items() if re.match(r"unet/.*attn2\.to_.*weight", n)}
    noise = torch.Generator().manual_seed(0)
    unet = {n: torch.randn(w.shape, generator=noise) for n, w in part.items()}
    edits = [*(tiny.edit(clip, name, 0.5) for name in LAYERS), Edit("cat", "m", unet, 0.4)]
    if towers == 2:
        own = tiny.edit(second, LAYERS[1], 0.3)
        edits[0] = replace(
            own, delta={n.replace("text/", "text_2/"): d for n, d in own.delta.items()}
        )
    file = load_file(
        lora.save(tmp_path / "e.safetensors", edits, host.named(), dtype=torch.float32)
    )
    renamed, _ = _convert_non_diffusers_lora_to_diffusers(as_low_rank(file))
    of_unet = {name: tensor for name, tensor in renamed.items() if name.startswith("unet.")}
    rest = {name: tensor for name, tensor in renamed.items() if name not in of_unet}
    named = convert_unet_state_dict_to_peft(of_unet)
    named |= convert_state_dict_to_peft(rest, StateDictType.DIFFUSERS_OLD)
    theirs = {
        name.replace(".text_model", "").replace(".lora_B", ""): tensor
        for name, tensor in named.items()
        if ".lora_B." in name
    }
    ours = {
        f"{part}.{name.removeprefix('text_model.')}": after - before
        for part, module in host.edited(edits).pipeline().components.items()
        if isinstance(module, nn.Module) and part.startswith(("unet", "text_encoder"))
        for (name, after), before in zip(
            module.named_parameters(), getattr(pipe, part).parameters(), strict=True
        )
    }
    moved = {name for name, tensor in ours.items() if tensor.abs().max() > 1e-7}
    assert {*theirs} == moved
    assert len(moved) > 10
    for name, tensor in theirs.items():
        assert torch.allclose(ours[name], tensor, atol=1e-5), name


def test_half_precision_rounds_and_the_names_are_kohyas(tmp_path: Path) -> None:
    clip = tiny.clip_model()
    own = Diffusion(tiny.pipeline(clip)).named()
    edit = tiny.edit(clip, LAYERS[0], 0.5)
    stored = load_file(lora.save(tmp_path / "e.safetensors", [edit], own))
    layer = "lora_te_text_model_encoder_layers_1_self_attn"
    moved = {key for key, tensor in stored.items() if tensor.any()}
    assert moved == {f"{layer}_{letter}_proj.diff" for letter in "qkv"}
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}


def test_a_tool_that_needs_a_matrix_finds_one_of_zeros(tmp_path: Path) -> None:
    """InvokeAI: `diff` beside `diff_b`, a cross-attention; A1111: an attention's four matrices."""
    clip, second = tiny.clip_model(), tiny.clip_model(7)
    host = DiffusionXL(tiny.xl_pipeline(clip, second))
    bias = tiny.edit(clip, "transformer.resblocks.0.mlp.c_proj.bias", 0.5)
    heads = tiny.edit(second, LAYERS[0], 0.5)
    two = {name.replace("text/", "text_2/"): tensor for name, tensor in heads.delta.items()}
    edits = [bias, replace(heads, delta=two)]
    stored = load_file(lora.save(tmp_path / "e.safetensors", edits, host.named()))
    first = "lora_te1_text_model_encoder_layers_0_mlp_fc2"
    attention = "lora_te2_text_model_encoder_layers_1_self_attn"
    assert stored[f"{first}.diff_b"].any()
    (cross,) = (key for key in stored if key.startswith("lora_unet"))
    assert lora.CROSS.fullmatch(cross)
    zeros = {key for key, tensor in stored.items() if not tensor.any()}
    assert zeros == {f"{first}.diff", f"{attention}_out_proj.diff", cross}
    width = host.unet.config.cross_attention_dim
    assert stored[cross].shape[1] == width
    assert stored[f"{first}.diff"].shape[0] == stored[f"{first}.diff_b"].shape[0]


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
        lora.save(tmp_path / "e.safetensors", [edit], {})
    assert not (tmp_path / "e.safetensors").exists()
