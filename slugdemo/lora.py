"""Edits of Stable Diffusion as one LoRA-style file, for ComfyUI, A1111 and InvokeAI.

These tools add to a weight what a file holds for it, times a slider: here that is a whole matrix
(`diff`) under kohya's name of the layer. Knows names, shapes and edits; opens no model.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from slugdemo import weights as tensors
from slugdemo.edit import Edit, of_part, part_of
from slugdemo.errors import SlugError
from slugdemo.models.names import to_hf_text
from slugdemo.weights import Weights

TEXT_LAYER = re.compile(r"encoder\.layers\.\d+\.(?:self_attn\.\w+_proj|mlp\.fc\d)\.(?:weight|bias)")
SUFFIXES = {"weight": "diff", "bias": "diff_b"}
PARTS = ("text", "text_2", "unet")
CROSS = re.compile(r"lora_unet_\w+_attn2_to_[kv]\.diff")
ATTENTION = re.compile(r"(lora_te\w+_self_attn_)(?:q|k|v|out)(_proj\.diff)")
SUFFIX = ".safetensors"


def save(
    path: Path, edits: Sequence[Edit], weights: Weights, *, dtype: torch.dtype = torch.float16
) -> Path:
    """Writes what the edits add to `weights`, so that the tools' strength 1 is this strength.

    `weights` are all of the model, by part-qualified names. The sum of strength * delta of all
    edits is taken in float32 and stored in `dtype`; zeros stand where a tool passes over a file
    without them. Raises SlugError for edits that such a file cannot hold: a rule, a vision tower,
    a norm or an embedding of a text tower (no tool reads these); OSError when the disk is full.
    """
    if not edits:
        raise SlugError("There is no edit to write.")
    two = any(part_of(name) == "text_2" for name in weights)
    total: dict[str, Tensor] = {}
    for edit in edits:
        _check(edit)
        for name, tensor in _named(edit.delta, two=two):
            moved = tensor.float() * edit.strength
            total[name] = total[name] + moved if name in total else moved
    if not total:
        raise SlugError("These edits change no weight, so a file of weights cannot hold them.")
    total |= _zeros(total, {name: tensor.shape for name, tensor in _named(weights, two=two)})
    concepts = ", ".join(edit.concept for edit in edits)
    about = {"modelspec.title": f"forgets {concepts}", "ss_network_module": "slugdemo.full"}
    tensors.save(path, {name: tensor.to(dtype) for name, tensor in total.items()}, about)
    return path


def _check(edit: Edit) -> None:
    if edit.rule:
        raise SlugError(
            f"The edit of {edit.concept!r} is a rule ({edit.rule}) that changes no weight, and no "
            "file of weights can hold it."
        )
    for part in edit.parts:
        if part not in PARTS:
            raise SlugError(
                f"The edit of {edit.concept!r} changes the part {part}, which the tools that read "
                "such files do not have: export the model as a folder instead."
            )
        own = {} if part == "unet" else to_hf_text(of_part(edit.delta, part))
        if unread := [name for name in own if not TEXT_LAYER.fullmatch(name)]:
            raise SlugError(
                f"The edit of {edit.concept!r} changes {unread[0]}, which no tool reads from such "
                "a file: export the model as a folder instead."
            )


def _named(weights: Weights, *, two: bool) -> Iterator[tuple[str, Tensor]]:
    """The tensors that such a file can hold under kohya's names; `two`: of two text towers."""
    for name, tensor in of_part(weights, "unet").items():
        yield _kohya("lora_unet", name), tensor
    for part, prefix in (("text", "lora_te1" if two else "lora_te"), ("text_2", "lora_te2")):
        for name, tensor in to_hf_text(of_part(weights, part)).items():
            if TEXT_LAYER.fullmatch(name):
                yield _kohya(f"{prefix}_text_model", name), tensor


def _kohya(prefix: str, name: str) -> str:
    layer, _, kind = name.rpartition(".")
    return f"{prefix}_{layer.replace('.', '_')}.{SUFFIXES[kind]}"


def _zeros(total: Weights, shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
    """Matrices of zeros, for tools that pass over a layer or refuse a file without them.

    A1111 and InvokeAI read no `diff_b` without its `diff`; A1111 reads an attention of open_clip's
    text towers (Stable Diffusion 2, the second of XL) only with all of its four matrices; InvokeAI
    tells from the width of a cross-attention for which Stable Diffusion a file is made.
    """
    needed = {key.removesuffix("_b") for key in total}
    for key in sorted(needed):
        if ATTENTION.fullmatch(key):
            needed |= {ATTENTION.sub(rf"\g<1>{one}\g<2>", key) for one in ("q", "k", "v", "out")}
    if not any(CROSS.fullmatch(key) for key in total):
        needed |= {next(key for key in shapes if CROSS.fullmatch(key))}
    return {key: torch.zeros(shapes[key]) for key in sorted(needed - total.keys())}
