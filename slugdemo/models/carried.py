"""The tower of some CLIP inside a model, and whether it is that of a given CLIP.

A Stable Diffusion or LLaVA folder carries one tower; which CLIP's it is is found by comparing
weights and architecture, never by trusting a name. Knows towers; knows no folder but a note.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from transformers import CLIPTextConfig, CLIPVisionConfig

from slugdemo.models import names
from slugdemo.models.clip import Clip
from slugdemo.models.diffusion import Diffusion
from slugdemo.models.llava import Llava
from slugdemo.models.sdxl import DiffusionXL
from slugdemo.weights import Weights

CLOSE = 1e-2  # how far a tower may be from its clip, relative: bfloat16 on one side
NOTE = "slugdemo.json"  # in an exported folder: which edits it holds


@dataclass(frozen=True)
class Carried:
    """The tower of some CLIP inside a host: its tensors and config by transformers' names."""

    kind: str
    weights: Weights
    config: CLIPTextConfig | CLIPVisionConfig

    @classmethod
    def second(cls, host: DiffusionXL) -> "Carried":
        """The second text tower of a Stable Diffusion XL."""
        return cls("diffusion", host.second(), host.text_2.config)

    @classmethod
    def of(cls, host: Diffusion | Llava) -> "Carried":
        """The text tower of a Diffusion (the first one of several), the vision tower of a Llava."""
        if isinstance(host, Diffusion):
            return cls("diffusion", dict(host.text.named_parameters()), host.text.config)
        tower = host.model.model.vision_tower
        return cls("vlm", dict(tower.named_parameters()), tower.config)

    @property
    def width(self) -> int:
        """The width of its blocks."""
        return self.weights["encoder.layers.0.layer_norm1.weight"].numel()

    def canonical(self) -> Weights:
        """Its tensors in float32 under open_clip's names."""
        back = names.from_hf_text if self.kind == "diffusion" else names.from_hf_vision
        return back({name: tensor.detach().float() for name, tensor in self.weights.items()})

    def shaped_unlike(self, clip: Clip) -> str:
        """How the tower is built unlike that of `clip`, in words; "" when it is not."""
        text = self.kind == "diffusion"
        try:
            shape = (names.text_shape if text else names.vision_shape)(clip.model)
            theirs = (names.to_hf_text if text else names.to_hf_vision)(clip.named())
        except (AttributeError, ValueError):
            return "is not built like CLIP's"
        for trait, called in (
            ("hidden_act", "the activation"),
            ("num_attention_heads", "heads:"),
            ("layer_norm_eps", "norms with an epsilon of"),
        ):
            own = getattr(self.config, trait)
            if own != shape[trait]:
                return f"has {called} {shape[trait]}, and this one {own}"
        tokens = "embeddings.token_embedding.weight"
        if text and (more := len(self.weights[tokens]) - len(theirs[tokens])):
            return (
                f"knows {abs(more)} {'fewer' if more > 0 else 'more'} "
                f"token{'s' if abs(more) > 1 else ''} (textual inversion adds some)"
            )
        if other := [
            n for n, w in self.weights.items() if n not in theirs or theirs[n].shape != w.shape
        ]:
            return f"has another shape (the first: {other[0]})"
        return ""

    def differs(self, clip: Clip) -> str:
        """How the tower differs from that of `clip` beyond rounding, in words; "" when it does not.

        Blocks that the host leaves out do not count.
        """
        if shape := self.shaped_unlike(clip):
            return shape
        theirs = (names.to_hf_text if self.kind == "diffusion" else names.to_hf_vision)(
            clip.named()
        )
        far = [name for name, tensor in self.weights.items() if not _near(theirs[name], tensor)]
        if not far:
            return ""
        return f"differs in {len(far)} of {len(self.weights)} tensors (the first: {far[0]})"


def exported_from(folder: Path | None) -> str:
    """The digest of the CLIP whose edits an exported folder holds; "" for any other folder."""
    try:
        notes = json.loads((folder / NOTE).read_text()) if folder else []
        return str(notes[0]["weights"])
    except (OSError, ValueError, LookupError, TypeError):
        return ""


def _near(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    a, b = a.detach().float().cpu(), b.detach().float().cpu()
    return (a - b).norm().item() <= CLOSE * max(b.norm().item(), 1e-6)
