"""Edits of Stable Diffusion as one LoRA-style file, for ComfyUI, A1111 and InvokeAI.

These tools add to a weight what a file holds for it, times a slider: here that is a whole matrix
(`diff`) under kohya's name of the layer. Knows names and edits; knows no models.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from slugdemo import weights as tensors
from slugdemo.edit import Edit, of_part
from slugdemo.errors import SlugError
from slugdemo.models.names import to_hf_text
from slugdemo.weights import Weights

TEXT_LAYER = re.compile(r"encoder\.layers\.\d+\.(?:self_attn\.\w+_proj|mlp\.fc\d)\.(?:weight|bias)")
SUFFIXES = {"weight": "diff", "bias": "diff_b"}
SUFFIX = ".safetensors"


def save(path: Path, edits: Sequence[Edit], *, dtype: torch.dtype = torch.float16) -> Path:
    """Writes what the edits add to the weights, so that the tools' strength 1 is this strength.

    The sum of strength * delta of all edits is taken in float32 and stored in `dtype`. Raises
    SlugError for edits that such a file cannot hold: a rule, a vision tower, a norm or an
    embedding of the text tower (no tool reads these); OSError when the disk is full.
    """
    if not edits:
        raise SlugError("There is no edit to write.")
    total: dict[str, Tensor] = {}
    for edit in edits:
        for name, tensor in _named(edit):
            moved = tensor.float() * edit.strength
            total[name] = total[name] + moved if name in total else moved
    if not total:
        raise SlugError("These edits change no weight, so a file of weights cannot hold them.")
    concepts = ", ".join(edit.concept for edit in edits)
    about = {"modelspec.title": f"forgets {concepts}", "ss_network_module": "slugdemo.full"}
    tensors.save(path, {name: tensor.to(dtype) for name, tensor in total.items()}, about)
    return path


def _named(edit: Edit) -> Iterable[tuple[str, Tensor]]:
    """The tensors of an edit's delta under kohya's names."""
    if edit.rule:
        raise SlugError(
            f"The edit of {edit.concept!r} is a rule ({edit.rule}) that changes no weight, and no "
            "file of weights can hold it."
        )
    two = "text_2" in edit.parts
    for part in edit.parts:
        own = of_part(edit.delta, part)
        if part in ("text", "text_2"):
            prefix = {"text": "lora_te1" if two else "lora_te", "text_2": "lora_te2"}[part]
            yield from _text(edit, to_hf_text(own), prefix)
        elif part == "unet":
            for name, tensor in own.items():
                yield _kohya("lora_unet", name), tensor
        else:
            raise SlugError(
                f"The edit of {edit.concept!r} changes the part {part}, which the tools that read "
                "such files do not have: export the model as a folder instead."
            )


def _text(edit: Edit, own: Weights, prefix: str) -> Iterable[tuple[str, Tensor]]:
    for name, tensor in own.items():
        if not TEXT_LAYER.fullmatch(name):
            raise SlugError(
                f"The edit of {edit.concept!r} changes {name}, which no tool reads from such a "
                "file: export the model as a folder instead."
            )
        yield _kohya(f"{prefix}_text_model", name), tensor


def _kohya(prefix: str, name: str) -> str:
    layer, _, kind = name.rpartition(".")
    return f"{prefix}_{layer.replace('.', '_')}.{SUFFIXES[kind]}"
