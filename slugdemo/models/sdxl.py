"""Stable Diffusion XL: two text towers and a U-Net that also reads a pooled prompt and sizes.

The states of a prompt hold everything that the U-Net reads of it, the pooled features in a last
row, so the denoising loop, rules and guidance treat them as they treat Stable Diffusion's. Knows
`Diffusion` and towers; knows no concept, method or judge.
"""

import copy
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection

from slugdemo.edit import Edit, of_part
from slugdemo.errors import SlugError
from slugdemo.models import names, tower
from slugdemo.models.base import finite
from slugdemo.models.diffusion import Diffusion, StableDiffusionXLPipeline, rules_of
from slugdemo.models.prompts import Prompts
from slugdemo.weights import Weights, substitute

INNER = "text_model."  # where the second tower keeps its blocks
READ = -2  # which hidden state of each tower the U-Net reads: that before the last block


class DiffusionXL(Diffusion):
    """A Stable Diffusion XL pipeline whose two text towers and U-Net can be edited.

    Its parts are "text" (OpenAI's ViT-L), "text_2" (OpenCLIP's ViT-bigG) and "unet". Pictures have
    the size that the U-Net was trained for, and are told so (the "micro-conditions" of Podell et
    al. 2023, sec. 2.2).
    """

    pipeline_class: ClassVar = StableDiffusionXLPipeline

    def __init__(
        self,
        pipe: StableDiffusionXLPipeline,
        *,
        batch: int | None = None,
        clip_skip: int = 0,
        mixed: bool = False,
    ) -> None:
        if not isinstance(pipe.text_encoder_2, CLIPTextModelWithProjection):
            kind = type(pipe.text_encoder_2).__name__
            raise SlugError(f"This pipeline reads its prompts with {kind} too, which is not CLIP.")
        if clip_skip:
            raise SlugError("Stable Diffusion XL always reads the block before the last one.")
        super().__init__(pipe, batch=batch, mixed=mixed)
        self.text_2 = pipe.text_encoder_2.requires_grad_(False)
        self.unet = packed(self.unet, pipe.vae_scale_factor)
        self._prompts_2 = Prompts(pipe.tokenizer_2)
        self.states([""])  # transformers hooks itself in, before any twin

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """What edits can change, by the name of the part."""
        return {"text": self.text, "text_2": self.text_2, "unet": self.unet}

    def second(self) -> Weights:
        """The tensors of the second text tower under the names of `CLIPTextModel`."""
        return {name.removeprefix(INNER): w for name, w in self.text_2.named_parameters()}

    @cached_property
    def _named(self) -> Weights:
        text = names.from_hf_text(dict(self.text.named_parameters()))
        second = names.from_hf_text(self.second())
        return {
            **{f"text/{name}": tensor for name, tensor in text.items()},
            **{f"text_2/{name}": tensor for name, tensor in second.items()},
            **self._unet_weights,
        }

    def edited(self, edits: Sequence[Edit]) -> Self:
        """As `Diffusion.edited`, of both text towers."""
        twin = super().edited(edits)
        moved = tower.changed(edits, names.to_hf_text, part="text_2", tower=self.second())
        if not moved:
            return twin
        if twin is self:
            twin = copy.copy(self)
            twin._moved += tuple((e.digest, e.strength) for e in edits if e.delta and e.strength)
            twin.images = None
        twin.__dict__.pop("_named", None)
        twin.__dict__.pop("_canonical", None)
        twin.text_2 = substitute(self.text_2, self._inner(moved))
        twin.rules = rules_of(twin)
        return twin

    def _inner(self, weights: Weights) -> Weights:
        """Tensors of the second tower under its own names."""
        return {name if "_projection" in name else INNER + name: weights[name] for name in weights}

    @cached_property
    def _canonical(self) -> tuple[str, ...]:
        ids = self.tokens(["a picture of one thing"])[0]
        first = tower.moving(
            self.text, dict(self.text.named_parameters()), lambda text: _read(text, ids)[0]
        )
        own = dict(self.text_2.named_parameters())
        second = tower.moving(self.text_2, own, lambda text: self._second(text, ids)[1])
        hidden = tower.moving(self.text_2, own, lambda text: self._second(text, ids)[0])
        there = [names.text_name(name) for name in first]
        both = [f"text_2/{names.text_name(n.removeprefix(INNER))}" for n in (*hidden, *second)]
        return tuple(dict.fromkeys((*there, *both)))

    def pipeline(self) -> StableDiffusionXLPipeline:
        """A diffusers pipeline of its own with this host's weights, sharing every network."""
        own = {"text_encoder": self.text, "text_encoder_2": self.text_2, "unet": self.unet}
        scheduler = copy.deepcopy(self._pipe.scheduler)
        pipe = type(self._pipe)(**{**self._pipe.components, **own, "scheduler": scheduler})
        pipe.register_to_config(
            force_zeros_for_empty_prompt=self._pipe.config.force_zeros_for_empty_prompt
        )
        pipe.set_progress_bar_config(disable=True)
        return pipe

    # ---- what the U-Net reads

    @torch.no_grad()
    def states(self, prompts: Sequence[str]) -> Tensor:
        """What the U-Net reads of the prompts: (N, T + 1, D), by both towers; pooled in the last.

        An empty prompt is read as zeros where the pipeline says so, as in diffusers.
        """
        found = finite(self.states_of(self.tokens(prompts)[0]))
        if self._pipe.config.force_zeros_for_empty_prompt:
            empty = torch.tensor([not prompt for prompt in prompts], device=found.device)
            found = found.masked_fill(empty[:, None, None], 0.0)
        return found

    def states_of(self, ids: Tensor, weights: Weights | None = None) -> Tensor:
        """The states (N, T + 1, D) of the first tower's token ids (N, T), with gradients.

        `weights` are tensors to use instead, under their "text/..." and "text_2/..." names.
        """
        first = names.to_hf_text(of_part(weights or {}, "text"))
        other = self._inner(names.to_hf_text(of_part(weights or {}, "text_2")))
        text = substitute(self.text, first) if first else self.text
        text_2 = substitute(self.text_2, other) if other else self.text_2
        hidden, (hidden_2, pooled) = _read(text, ids)[0], self._second(text_2, ids)
        states = torch.cat([hidden, hidden_2], -1)  # (N, T, D)
        row = F.pad(pooled, (0, states.shape[-1] - pooled.shape[-1]))[:, None]
        return torch.cat([states, row], 1)

    def states_from(self, embeddings: Tensor) -> Tensor:
        """Raises SlugError: two towers with tables of their own have no embeddings in common."""
        raise SlugError(
            f"Stable Diffusion XL reads prompts with two towers, so {len(embeddings)} learnt "
            "prompts of one of them say too little: choose a method or an attack on words."
        )

    def _second(self, text: nn.Module, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The second tower's states (N, T, W) and features (N, D) of the first one's tokens."""
        return _read(text, self._prompts_2.padded(ids, self._prompts.ends(ids)))

    def _screened(self, image: Tensor) -> tuple[Tensor, None]:
        return image, None


def _read(text: nn.Module, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The states that the U-Net reads of a tower, and what it pools: (N, T, W), (N, D)."""
    found = text(ids, output_hidden_states=True)
    return found.hidden_states[READ], found[0]


def packed(unet: nn.Module, scale: int) -> nn.Module:
    """The U-Net reading states that hold the pooled features in their last row; same tensors.

    `scale` is how many pixels a latent position has on each side. What diffusers itself passes
    goes through unchanged.
    """
    plain: Any = type(unet)
    pooled_size = unet.config.projection_class_embeddings_input_dim - (
        6 * unet.config.addition_time_embed_dim
    )

    class Packed(plain):
        def forward(
            self,
            sample: Tensor,
            timestep: Tensor,
            encoder_hidden_states: Tensor,
            added_cond_kwargs: dict[str, Tensor] | None = None,
            **options: Any,  # noqa: ANN401
        ) -> Any:  # noqa: ANN401
            if added_cond_kwargs is None:
                states = encoder_hidden_states
                high, wide = (side * scale for side in sample.shape[-2:])
                sizes = torch.tensor([high, wide, 0, 0, high, wide]).to(states)
                added_cond_kwargs = {
                    "text_embeds": states[:, -1, :pooled_size],
                    "time_ids": sizes.expand(len(states), -1),
                }
                encoder_hidden_states = states[:, :-1]
            return super().forward(
                sample,
                timestep,
                encoder_hidden_states,
                added_cond_kwargs=added_cond_kwargs,
                **options,
            )

    twin = copy.copy(unet)
    twin.__class__ = Packed
    return twin
