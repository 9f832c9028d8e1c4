"""Clip: two towers, a tokenizer and a transform as one value that never changes.

The model inside is always an open_clip CLIP, so its tensor names are the canonical ones; a
transformers CLIPModel is converted once, when it is loaded. Knows nothing of edits or hosts.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import open_clip
import torch
import torch.nn.functional as F
from open_clip.pretrained import get_pretrained_cfg
from PIL.Image import Image
from torch import Tensor, nn
from transformers import (
    BaseImageProcessor,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from slugdemo.errors import SlugError
from slugdemo.models import checkpoint_files, towers
from slugdemo.models.folder_kinds import activation_refusal
from slugdemo.models.names import ACTIVATIONS, activation, from_hf_text, from_hf_vision
from slugdemo.weights import Weights, digest, substitute

NONE: Weights = MappingProxyType({})


@dataclass(frozen=True, eq=False)
class Clip:
    """A CLIP or SigLIP model with what turns words and pictures into its inputs.

    `tokenize` cuts texts that are too long, as captions of data sets need it; `typed` refuses
    them. `model` is in eval mode, float32, and its parameters need no gradient.
    """

    model: nn.Module
    tokenize: Callable[[list[str]], Tensor]  # N texts -> (N, T)
    transform: Callable[[Image], Tensor]  # picture -> (3, H, W)
    name: str = "clip"

    @classmethod
    def from_folder(cls, folder: Path | str) -> "Clip":
        """The CLIP in an open_clip `local-dir` folder. Raises SlugError when there is none."""
        folder = Path(folder)
        if not (folder / "open_clip_config.json").is_file():
            raise SlugError(f"There is no open_clip model in {folder} (no open_clip_config.json).")
        checkpoint_files.check_tokenizer(folder)
        return cls.from_name(f"local-dir:{folder}")

    @classmethod
    def from_name(cls, name: str, *, pretrained: str | None = None) -> "Clip":
        """The CLIP that open_clip knows by this name ("ViT-B-32", "laion400m_e32").

        Its activation is the one that the weights were trained with, which open_clip's table
        says of each tag; open_clip itself takes that of the architecture and warns. Raises
        SlugError when the model cannot be had (unknown name, no network) or is not sound.
        """
        trained = get_pretrained_cfg(name, pretrained) if pretrained else {}
        quick = bool(trained.get("quick_gelu"))
        try:
            model, transform = open_clip.create_model_from_pretrained(
                name, pretrained=pretrained, force_quick_gelu=quick
            )
            tokenize = open_clip.get_tokenizer(name)
        except Exception as error:  # open_clip raises nearly every kind, each with a good message
            raise SlugError(f"The model {name} could not be opened: {error}") from error
        return cls(_sound(model, name), tokenize, transform, name.split("/")[-1])

    @classmethod
    def from_hf(
        cls,
        model: CLIPModel,
        tokenizer: PreTrainedTokenizerBase,
        processor: ProcessorMixin | BaseImageProcessor,
        *,
        name: str = "clip",
    ) -> "Clip":
        """The same CLIP from transformers' classes; its weights are copied.

        Raises SlugError for an architecture that open_clip's CLIP cannot express.
        """
        twin = _sound(_converted(model, name), name)
        length = model.config.text_config.max_position_embeddings

        def tokenize(texts: list[str]) -> Tensor:
            options = {"padding": "max_length", "truncation": True, "max_length": length}
            return tokenizer(list(texts), return_tensors="pt", **options).input_ids

        images = getattr(processor, "image_processor", processor)
        return cls(
            twin,
            tokenize,
            lambda picture: images(picture, return_tensors="pt").pixel_values[0],
            name,
        )

    @property
    def logit_scale(self) -> float:
        """The factor on cosines before a softmax (100 in most trained CLIPs)."""
        return self.model.logit_scale.exp().item()

    @property
    def logit_bias(self) -> float | None:
        """What SigLIP adds to its logits before a sigmoid; None for a CLIP with a softmax."""
        bias = getattr(self.model, "logit_bias", None)
        return None if bias is None else bias.item()

    @property
    def device(self) -> torch.device:
        """Where the weights are, and where inputs are sent."""
        return next(self.model.parameters()).device

    @cached_property
    def digest(self) -> str:
        """The identity of the model in caches and edit files.

        The sha256 of its weights, a space, and what the weights do not say (`architecture`).
        """
        return f"{digest(self.model)} {architecture(self.model)}"

    def named(self) -> dict[str, Tensor]:
        """Every parameter under its canonical name."""
        return dict(self.model.named_parameters())

    def edited(self, weights: Weights) -> "Clip":
        """The same Clip with these tensors instead, sharing all others (see `substitute`)."""
        return replace(self, model=substitute(self.model, weights)) if weights else self

    def encode_image(self, pixels: Tensor, *, weights: Weights = NONE) -> Tensor:
        """The features of pixels (N, 3, H, W): (N, D) of unit norm."""
        return self._encode("vision", pixels, weights)

    def encode_text(self, tokens: Tensor, *, weights: Weights = NONE) -> Tensor:
        """The features of tokens (N, T): (N, D) of unit norm."""
        return self._encode("text", tokens, weights)

    def typed(self, texts: list[str]) -> Tensor:
        """The tokens (N, T) of texts that a visitor typed.

        Raises SlugError for a text that fills the model's whole context, because then it may have
        been cut: one more word would change nothing.
        """
        tokens, longer = self.tokenize(texts), self.tokenize([f"{text} x" for text in texts])
        for text, full in zip(texts, (tokens == longer).all(-1), strict=True):
            if full:
                raise SlugError(
                    f"The text that begins with {text[:40]!r} is too long: this model reads "
                    f"{tokens.shape[1] - 2} tokens at most. Please shorten it."
                )
        return tokens

    def _encode(self, tower: str, inputs: Tensor, weights: Weights) -> Tensor:
        model = substitute(self.model, weights) if weights else self.model
        x, rows = towers.prepare(model, tower, inputs.to(self.device))
        return F.normalize(towers.advance(towers.chain(model, tower), x, rows), dim=-1)


def tower(name: str) -> str:
    """The tower that a canonical tensor name belongs to: "vision" or "text"."""
    return "vision" if name.startswith("visual.") else "text"


def architecture(model: nn.Module) -> str:
    """What a CLIP computes beyond its weights: activations, eps of norms, heads, mask, pooling.

    Two models with equal weights and equal architecture give equal features.
    """
    told = [f"{side}: {', '.join(_traits(model, side))}" for side in towers.TOWERS]
    return "; ".join(told)


def _traits(model: nn.Module, side: str) -> Iterator[str]:
    parts = [part for name, part in model.named_modules() if name and tower(f"{name}.") == side]
    bare = [part for part in parts if not [*part.children()] and not [*part.parameters()]]
    yield from sorted({activation(p) for p in bare if "GELU" in type(p).__name__})
    yield from sorted({f"eps {p.eps:g}" for p in parts if isinstance(p, nn.LayerNorm)})
    yield from sorted({f"{p.num_heads} heads" for p in parts if hasattr(p, "num_heads")})
    own = model.visual if side == "vision" else getattr(model, "text", model)
    if side == "text":
        yield "causal" if getattr(own, "attn_mask", None) is not None else "not causal"
    pool = getattr(own, "text_pool_type", None) or getattr(own, "pool_type", None)
    yield f"pool {pool or type(own).__name__}"


def _sound(model: nn.Module, name: str) -> nn.Module:
    """`model` ready for use, in eval mode and without gradients; SlugError if it holds NaN."""
    for label, tensor in model.named_parameters():
        if not tensor.isfinite().all():
            raise SlugError(f"The weights of {name} are damaged: {label} holds NaN or infinity.")
    return model.float().eval().requires_grad_(False)


def _converted(model: CLIPModel, name: str) -> open_clip.CLIP:
    """The open_clip CLIP with the numbers of a transformers CLIPModel."""
    text, vision = model.config.text_config, model.config.vision_config
    if why := activation_refusal(name, (text.hidden_act, vision.hidden_act)):
        raise SlugError(why)
    text_shape = _shape(text) | {
        "heads": text.num_attention_heads,
        "context_length": text.max_position_embeddings,
        "vocab_size": text.vocab_size,
        "pool_type": "argmax" if text.eos_token_id == 2 else "eos",
        "eos_id": text.eos_token_id,
    }
    vision_shape = _shape(vision) | {
        "head_width": vision.hidden_size // vision.num_attention_heads,
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
    }
    twin = open_clip.CLIP(model.config.projection_dim, vision_shape, text_shape)
    _activate(twin.transformer, text.hidden_act)
    _activate(twin.visual.transformer, vision.hidden_act)
    _set_eps(twin, text.layer_norm_eps)
    _set_eps(twin.visual, vision.layer_norm_eps)
    twin.load_state_dict(_canonical(model.state_dict()))
    return twin


def _activate(transformer: nn.Module, name: str) -> None:
    for block in transformer.resblocks:
        block.mlp.gelu = ACTIVATIONS[name]()


def _shape(config: CLIPTextConfig | CLIPVisionConfig) -> dict[str, int | float]:
    ratio = config.intermediate_size / config.hidden_size
    return {"width": config.hidden_size, "layers": config.num_hidden_layers, "mlp_ratio": ratio}


def _set_eps(module: nn.Module, eps: float) -> None:
    for part in module.modules():
        if isinstance(part, nn.LayerNorm):
            part.eps = eps


def _canonical(state: Weights) -> Weights:
    def of(tower: str, projection: str) -> Weights:
        return {
            name.removeprefix(tower): tensor
            for name, tensor in state.items()
            if name.startswith((tower, projection))
        }

    text = from_hf_text(of("text_model.", "text_projection."))
    vision = from_hf_vision(of("vision_model.", "visual_projection."))
    return {**text, **vision, "logit_scale": state["logit_scale"]}
