"""A model in memory: the host itself, and the CLIP that its gradients are taken of.

A Stable Diffusion or LLaVA folder carries one tower of some CLIP; the CLIP is found by comparing
towers, never by trusting a name. Knows loaders and towers; knows nothing of concepts or steps.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from torch import Tensor
from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

from slugdemo import catalog
from slugdemo.catalog import Model
from slugdemo.clip import Clip
from slugdemo.errors import SlugError
from slugdemo.hosts import names
from slugdemo.hosts.diffusion import Diffusion
from slugdemo.hosts.vlm import Vlm
from slugdemo.weights import Weights

CLOSE = 1e-3  # how far a tower may be from its clip, relative: float16 on one side
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# the published CLIP whose tower this is, by kind of host and width of the tower
CARRIED = {
    ("diffusion", 768): "ViT-L-14/openai",
    ("diffusion", 1024): "ViT-H-14/laion2b_s32b_b79k",
    ("vlm", 1024): "ViT-L-14-336/openai",
}
FILES = ["*.json", "*.txt", "*.model", "*.jinja", "*model*.safetensors"]
NOT_FILES = ["*fp16*", "*non_ema*", "safety_checker/*.safetensors", "v1-5*", "v2-1*"]


@dataclass(eq=False)
class Opened:
    """A model to work with; its parts are read from disk when they are first needed.

    `kept` holds what was made of it for one concept and serves the next ones too.
    """

    model: Model
    device: str = "cpu"
    dtype: str = "float32"
    download: bool = False
    kept: dict[Hashable, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """ "zero-shot", "diffusion" or "vlm"."""
        return self.model.kind

    @cached_property
    def host(self) -> Diffusion | Vlm:
        """The model itself. Raises ValueError for a CLIP, which needs pictures to be a host."""
        if self.kind == "zero-shot":
            raise ValueError(f"{self.model.name} is a CLIP: hosts.zero_shot.ZeroShot makes a host")
        kind = Diffusion if self.kind == "diffusion" else Vlm
        folder = self.model.folder or _fetched(self.model)
        return kind.from_folder(folder, device=self.device, dtype=DTYPES[self.dtype])

    @cached_property
    def clip(self) -> Clip:
        """The CLIP that gradients are taken of: the model itself, or the one that it carries.

        Raises SlugError when no CLIP can be found whose tower is the host's.
        """
        if self.kind == "zero-shot":
            return _on(_clip(self.model), self.device)
        tower = _tower(self.host)
        for model in catalog.local():
            if model.kind == "zero-shot" and _width(model.folder, self.kind) == _wide(tower):
                clip = _clip(model)
                if _same(clip, tower, self.kind):
                    return _on(clip, self.device)
        return _on(self._published(tower), self.device)

    def _published(self, tower: Weights) -> Clip:
        name = CARRIED.get((self.kind, _wide(tower)))
        if name is None:
            raise SlugError(
                f"No CLIP here has the tower that {self.model.name} carries: put the open_clip "
                "folder it comes from into the folder that SLUGDEMO_MODELS names."
            )
        clip = opened(name, download=self.download).clip
        if not _same(clip, tower, self.kind):
            raise SlugError(f"{self.model.name} carries a tower that is not the one of {name}.")
        return clip


def opened(
    name: str, *, device: str = "cpu", dtype: str = "float32", download: bool = False
) -> Opened:
    """The model of this name, ready to be read.

    Raises SlugError for an unknown name, and for one that must be fetched first when `download`
    is not asked for: the message tells size and time.
    """
    model = catalog.find(name)
    if model.place == "hub" and not download:
        raise SlugError(
            f"{name} is not on this machine. At the hub it has about {model.bytes / 1e9:.1f} GB "
            f"({model.minutes:.0f} minutes at 100 Mbit/s): allow the download, or put its folder "
            "into the folder that SLUGDEMO_MODELS names."
        )
    return Opened(model, device, dtype, download)


def _fetched(model: Model) -> Path:
    try:
        return Path(snapshot_download(model.hub, allow_patterns=FILES, ignore_patterns=NOT_FILES))
    except Exception as error:  # no network, no access, no disk: many kinds by many libraries
        raise SlugError(f"{model.name} could not be fetched from the hub: {error}") from error


def _clip(model: Model) -> Clip:
    if model.folder is None:
        name, tag = model.name.split("/", 1)
        return replace(Clip.from_name(name, pretrained=tag), name=model.name)
    if (model.folder / "open_clip_config.json").is_file():
        return replace(Clip.from_folder(model.folder), name=model.name)
    local = {"local_files_only": True}
    try:
        clip = CLIPModel.from_pretrained(model.folder, use_safetensors=True, **local)
        tokenizer = AutoTokenizer.from_pretrained(model.folder, **local)
        processor = CLIPImageProcessor.from_pretrained(model.folder, **local)
    except Exception as error:  # many kinds, by many libraries
        raise SlugError(f"{model.folder} is not a whole CLIP folder: {error}") from error
    return Clip.from_hf(clip, tokenizer, processor, name=model.name)


def _on(clip: Clip, device: str) -> Clip:
    return clip if device == "cpu" else replace(clip, model=clip.model.to(device))


def _tower(host: Diffusion | Vlm) -> Weights:
    part = host.text if isinstance(host, Diffusion) else host.model.model.vision_tower
    return dict(part.named_parameters())


def _wide(tower: Weights) -> int:
    return tower["encoder.layers.0.layer_norm1.weight"].numel()


def _width(folder: Path | None, kind: str) -> int:
    """The width of the tower in a CLIP folder that a host of this kind would carry."""
    side = "text" if kind == "diffusion" else "vision"
    ours = (
        catalog.config(folder, "open_clip_config.json").get("model_cfg", {}).get(f"{side}_cfg", {})
    )
    return ours.get("width") or catalog.config(folder).get(f"{side}_config", {}).get(
        "hidden_size", 0
    )


def _same(clip: Clip, tower: Weights, kind: str) -> bool:
    """Whether the host's tower is the clip's, but for rounding and for blocks it leaves out."""
    theirs = (names.to_hf_text if kind == "diffusion" else names.to_hf_vision)(clip.named())
    return all(name in theirs and _near(theirs[name], tower[name]) for name in tower)


def _near(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    a, b = a.detach().float().cpu(), b.detach().float().cpu()
    return (a - b).norm().item() <= CLOSE * max(b.norm().item(), 1e-6)
