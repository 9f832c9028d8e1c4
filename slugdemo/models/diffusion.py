"""Stable Diffusion as a host: a text tower and a U-Net that can be edited, for many visitors.

The only module that knows diffusers. Every call reads the parts of one Diffusion, which never
change: an edited one is a twin that shares all that its edits leave alone. Knows edits, states,
latents and pictures; knows no concept, method or judge.
"""

import copy
import hashlib
import json
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar, Self, TypeVar

import torch
from cachetools import LRUCache
from diffusers import (
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL.Image import Image
from torch import Tensor, nn
from transformers import CLIPImageProcessor, CLIPTextModel

from slugdemo import weights as tensors
from slugdemo.edit import Edit, apply, of_part
from slugdemo.errors import SlugError
from slugdemo.models import denoising, names, tower
from slugdemo.models.base import (
    INFERENCE_RULES,
    UNWATCHED,
    Progress,
    Question,
    Rule,
    Watch,
)
from slugdemo.models.image_cache import ImageCache
from slugdemo.models.prompts import Prompts
from slugdemo.models.schedule import NoiseSchedule
from slugdemo.models.shots import MOST_STEPS, Drawn, Shot, check, made, runs, sources
from slugdemo.weights import Weights, substitute

LATENTS_AT_ONCE = 64 * 16 * 16  # positions in one denoising run: 64 pictures of pocket-sd
UNEDITED_KEPT = 512  # pictures of the unedited model that are remembered
DERIVED_KEPT = 16  # things that rules made of a model and will want again
STEPS = 20
GUIDANCE = 7.5

Derived = TypeVar("Derived")
__all__ = ["Diffusion", "StableDiffusionXLPipeline", "random_unet", "rules_of"]


class Diffusion:
    """A Stable Diffusion pipeline whose text tower and U-Net can be edited.

    `batch` is the number of pictures in one denoising run; by default as many as have together
    the latent positions of 64 pictures of 16 x 16. `clip_skip` leaves out the last text blocks,
    as in diffusers. `mixed`: while pictures are made, the U-Net and the decoder multiply in
    bfloat16; gradients never do. The pipeline given must not be changed afterwards; its parameters are frozen.
    `text` and `unet` are the parts that edits change, `rules` what is followed at inference.
    """

    pipeline_class: ClassVar = StableDiffusionPipeline

    def __init__(
        self,
        pipe: StableDiffusionPipeline,
        *,
        batch: int | None = None,
        clip_skip: int = 0,
        mixed: bool = False,
    ) -> None:
        if not isinstance(pipe.text_encoder, CLIPTextModel):
            kind = type(pipe.text_encoder).__name__
            raise SlugError(f"This pipeline reads its prompts with {kind}, which is not CLIP.")
        for part in (pipe.text_encoder, pipe.unet, pipe.vae):
            part.requires_grad_(False)
        pipe.vae.to(memory_format=torch.channels_last)  # the same numbers, read faster
        self.batch = batch or max(1, LATENTS_AT_ONCE // math.prod(_size(pipe)))
        self.mixed = mixed
        self.text = pipe.text_encoder
        self.unet = pipe.unet
        self.rules: tuple[Rule, ...] = ()
        self._pipe = pipe
        self.images: ImageCache | None = ImageCache(UNEDITED_KEPT)
        self._followed: tuple[Edit, ...] = ()  # the edits behind `rules`
        self._moved: tuple[Hashable, ...] = ()  # what was done to the weights, for `derived`
        self._derived: LRUCache[Hashable, Any] = LRUCache(DERIVED_KEPT)
        self._derived_lock = Lock()
        self._prompts = Prompts(pipe.tokenizer, clip_skip=clip_skip)
        self._prompts.embedded(self.text, [""])  # transformers hooks itself in, before any twin

    @classmethod
    def from_folder(
        cls,
        folder: Path,
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        batch: int | None = None,
        clip_skip: int = 0,
        mixed: bool = False,
    ) -> Self:
        """The host in a folder of its diffusers pipeline; never asks the hub.

        The folder's safety checker is used when its weights are there, and left out otherwise.
        Raises SlugError when the folder holds no such pipeline or is damaged.
        """
        checked = any((folder / "safety_checker").glob("*.safetensors"))
        without: dict[str, Any] = {}
        if not checked and cls.pipeline_class is StableDiffusionPipeline:
            without |= {"safety_checker": None, "requires_safety_checker": False}
        if not (folder / "feature_extractor").is_dir():  # only the safety checker needs it
            without["feature_extractor"] = CLIPImageProcessor() if checked else None
        try:
            pipe = cls.pipeline_class.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, **without
            )
        except Exception as error:  # many kinds, by many libraries
            raise SlugError(
                f"{folder.name} is not a whole Stable Diffusion folder: {error}"
            ) from error
        return cls(pipe.to(device, dtype), batch=batch, clip_skip=clip_skip, mixed=mixed)

    # ---- the parts and their edits

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """What edits can change, by the name of the part."""
        return {"text": self.text, "unet": self.unet}

    def named(self) -> Weights:
        """Every tensor that edits can change: "text/..." as open_clip names it, "unet/..."."""
        return dict(self._named)

    @cached_property
    def _named(self) -> Weights:
        text = names.from_hf_text(dict(self.text.named_parameters()))
        return {**{f"text/{name}": tensor for name, tensor in text.items()}, **self._unet_weights}

    @cached_property
    def _unet_weights(self) -> Weights:
        return {f"unet/{name}": tensor for name, tensor in self.unet.named_parameters()}

    @cached_property
    def unet_digest(self) -> str:
        """The sha256 (hex) of the U-Net: its architecture and its tensors."""
        config = {key: value for key, value in self.unet.config.items() if key[0] != "_"}
        facts = json.dumps(config, sort_keys=True, default=str) + tensors.digest(self.unet)
        return hashlib.sha256(facts.encode()).hexdigest()

    def edited(self, edits: Sequence[Edit]) -> Self:
        """A host with the edits' weights and rules that shares all else; self if nothing moves it.

        Tensors that this pipeline does not have (vision tower, dropped text blocks) are left out,
        as they change nothing here, and so is a rule of strength 0. Raises ValueError for edits
        of another architecture, SlugError for a rule that is not known here.
        """
        text = tower.changed(
            edits, names.to_hf_text, part="text", tower=dict(self.text.named_parameters())
        )
        unet = of_part(apply(self._unet_weights, edits), "unet")
        followed = tuple(edit for edit in edits if edit.rule and edit.strength)
        if not (text or unet or followed):
            return self
        twin = copy.copy(self)
        for cached in ("_named", "_unet_weights", "unet_digest", "_canonical"):
            twin.__dict__.pop(cached, None)
        twin.text = substitute(self.text, text) if text else self.text
        twin.unet = substitute(self.unet, unet) if unet else self.unet
        twin._moved += tuple((e.digest, e.strength) for e in edits if e.delta and e.strength)
        twin.images = None
        twin._followed += followed
        twin.rules = rules_of(twin)
        return twin

    def following(self, rules: Sequence[Rule]) -> "Diffusion":
        """A host that follows these rules alone and shares all else."""
        twin = copy.copy(self)
        twin.rules, twin._followed, twin.images = tuple(rules), (), None
        return twin

    def derived(self, key: Hashable, make: Callable[[], Derived]) -> Derived:
        """What `make()` gives for a model with these weights, kept for later calls and twins."""
        key = (self._moved, key)
        with self._derived_lock:
            if key in self._derived:
                return self._derived[key]
        made = make()
        with self._derived_lock:
            return self._derived.setdefault(key, made)

    def forget_pictures(self) -> int:
        """Lets go of the pictures that need not be made again; how many there were."""
        return self.images.clear() if self.images else 0

    def editable(self) -> list[str]:
        """The open_clip names of the text tensors that change the pictures, found by trying."""
        return list(self._canonical)

    @cached_property
    def _canonical(self) -> tuple[str, ...]:
        ids = self.tokens(["a picture of one thing"])[0]
        weights = dict(self.text.named_parameters())
        found = tower.moving(self.text, weights, lambda text: self._prompts.states(text, ids))
        return tuple(dict.fromkeys(names.text_name(name) for name in found))

    def to(self, device: str) -> "Diffusion":
        """This very host, moved to a device: for whoever has it alone, before any twin."""
        self._pipe.to(device)
        return self

    def pipeline(self) -> StableDiffusionPipeline:
        """A diffusers pipeline of its own with this host's weights, sharing every network."""
        pipe = type(self._pipe)(
            **{
                **self._pipe.components,
                "text_encoder": self.text,
                "unet": self.unet,
                "scheduler": copy.deepcopy(self._pipe.scheduler),
            },
            requires_safety_checker=self._pipe.config.requires_safety_checker,
        )
        pipe.set_progress_bar_config(disable=True)
        return pipe

    # ---- what the U-Net reads

    def tokens(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """Token ids (N, T) and, for the few models that want one, the attention mask (N, T).

        Raises SlugError for a prompt that is too long.
        """
        return self._prompts.tokens(self.text, prompts)

    def ends(self, prompts: Sequence[str]) -> Tensor:
        """The place of the first end token of each prompt: (N,)."""
        return self.ends_of(self.tokens(prompts)[0])

    def ends_of(self, ids: Tensor) -> Tensor:
        """The place of the first end token in each row of token ids (N, T): (N,)."""
        return self._prompts.ends(ids)

    def spots(self, ids: Tensor, words: str) -> Tensor:
        """Where the tokens of `words` stand in token ids (N, T): booleans (N, T)."""
        return self._prompts.spots(ids, words)

    def pooled(self, ids: Tensor, hidden: Tensor) -> Tensor:
        """The states at the first end token (N, D), with the tokens in `hidden` (N, T) unread."""
        return self._prompts.pooled(self.text, ids, hidden)

    def spelled(self, ids: Tensor) -> list[str]:
        """Token ids (N, T) as texts."""
        return self._prompts.spelled(ids)

    def states(self, prompts: Sequence[str]) -> Tensor:
        """What the U-Net reads of the prompts: (N, T, D), by this host's text tower."""
        return self._prompts.embedded(self.text, prompts)

    def states_of(self, ids: Tensor, weights: Weights | None = None) -> Tensor:
        """The states (N, T, D) of token ids (N, T), with gradients.

        `weights` are tensors to use instead of the tower's own, under their "text/..." names.
        """
        own = names.to_hf_text(of_part(weights or {}, "text"))
        return self._prompts.states(substitute(self.text, own) if own else self.text, ids)

    def embeddings(self, ids: Tensor) -> Tensor:
        """The token embeddings (N, T, W) that the text tower starts from."""
        return self.text.embeddings.token_embedding(ids)

    def states_from(self, embeddings: Tensor) -> Tensor:
        """The states (N, T, D) of token embeddings (N, T, W), with gradients (soft prompts)."""
        return self._prompts.states_from(self.text, embeddings)

    # ---- latents and one step of the U-Net

    @torch.no_grad()
    def encode(self, pictures: Sequence[Image]) -> Tensor:
        """The latents (N, C, h, w) of pictures, resized to the model's own size; no noise in it."""
        high, wide = (side * self._pipe.vae_scale_factor for side in _size(self._pipe))
        pixels = self._pipe.image_processor.preprocess(list(pictures), high, wide)
        vae = self._pipe.vae
        found = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.mode()
        return found * vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> list[Image]:
        """The pictures of latents (N, C, h, w); black where a safety checker objects."""
        vae, pipe = self._pipe.vae, self._pipe
        pictures: list[Image] = []
        for some in latents.to(vae.dtype).split(self.batch):
            with torch.autocast(some.device.type, torch.bfloat16, enabled=self.mixed):
                image = vae.decode(some / vae.config.scaling_factor, return_dict=False)[0]
            image = image.to(some.dtype)
            image, unsafe = self._screened(image)
            fine = [True] * len(image) if unsafe is None else [not bad for bad in unsafe]
            pictures += pipe.image_processor.postprocess(
                image, output_type="pil", do_denormalize=fine
            )
        return pictures

    def _screened(self, image: Tensor) -> tuple[Tensor, Sequence[bool] | None]:
        return self._pipe.run_safety_checker(image, image.device, image.dtype)

    def predict(
        self, latents: Tensor, t: Tensor, states: Tensor, weights: Weights | None = None
    ) -> Tensor:
        """The U-Net's own output (N, C, h, w) at timesteps `t` (N,), with gradients.

        `weights` are tensors to use instead of its own, under their "unet/..." names.
        """
        own = of_part(weights or {}, "unet")
        unet = substitute(self.unet, own) if own else self.unet
        return unet(latents, t, states, return_dict=False)[0]

    @cached_property
    def schedule(self) -> NoiseSchedule:
        """How pictures and noise are mixed at each timestep, and what the U-Net predicts of them."""
        scheduler = self._pipe.scheduler
        return NoiseSchedule(scheduler.alphas_cumprod, scheduler.config.prediction_type)

    def timesteps(self, steps: int) -> Tensor:
        """The timesteps that the scheduler visits, from noise to picture: (steps,)."""
        return self._scheduler(steps).timesteps

    def noise(self, seeds: Sequence[int]) -> Tensor:
        """The latents (N, C, h, w) that pictures of these seeds start from."""
        return self._noise(sources(seeds))

    def _noise(self, generators: Sequence[torch.Generator]) -> Tensor:
        shape = (1, self.unet.config.in_channels, *_size(self._pipe))
        dtype, device = self.unet.dtype, self.unet.device
        drawn = [torch.randn(shape, generator=source, dtype=dtype) for source in generators]
        return torch.cat(drawn).to(device)

    def _scheduler(self, steps: int) -> Any:  # noqa: ANN401
        if not 1 <= steps <= MOST_STEPS:
            raise SlugError(f"Choose between 1 and {MOST_STEPS} denoising steps, not {steps}.")
        scheduler = copy.deepcopy(self._pipe.scheduler)
        try:
            scheduler.set_timesteps(steps, device=self.unet.device)
        except (ValueError, IndexError, TypeError, RuntimeError) as error:  # as each likes
            raise _refused(scheduler, steps, error) from error
        return scheduler

    # ---- pictures

    def denoise(
        self,
        states: Tensor,
        blank: Tensor,
        *,
        latents: Tensor,
        steps: int = STEPS,
        guidance: float = GUIDANCE,
        start: int = 0,
        stop: int | None = None,
        generators: Sequence[torch.Generator] | None = None,
        prompts: Sequence[str] | None = None,
        watch: Watch = UNWATCHED,
    ) -> Tensor:
        """Latents (N, C, h, w) after the scheduler's steps `start` to `stop` (all: None).

        `states` and `blank` (N or 1, T, D) are read for the prompts and for the empty prompt.
        `latents` are noise at `start` 0, else as `noised` makes them for timestep number `start`;
        latents of an earlier `stop` may go in again. Rules that look at words need the `prompts`.
        `generators`, one a picture, serve schedulers that add noise. Raises SlugError for a number
        of steps that the scheduler refuses, and for weights that give numbers that are not finite.
        """
        scheduler = self._scheduler(steps)
        stop = steps if stop is None else stop
        if not 0 <= start <= stop <= steps:
            raise ValueError(f"steps {start} to {stop} of {steps}")
        unet, count = self.unet, len(latents)
        try:
            return denoising.denoise(
                unet,
                scheduler,
                states.to(unet.dtype).expand(count, -1, -1),
                blank.to(unet.dtype).expand(count, -1, -1),
                latents=latents,
                steps=steps,
                guidance=guidance,
                start=start,
                stop=stop,
                rules=self.rules,
                generators=generators or sources(range(count)),
                prompts=prompts,
                ids=self.tokens(prompts)[0] if prompts is not None and self.rules else None,
                extra=self._extra(guidance, count),
                watch=watch,
                mixed=self.mixed,
            )
        except IndexError as error:  # of schedulers that look further ahead than there are steps
            raise _refused(scheduler, steps, error) from error

    def _extra(self, guidance: float, count: int) -> dict[str, Tensor]:
        """The guidance as an embedding, for U-Nets that were distilled to read it (LCM)."""
        width = self.unet.config.time_cond_proj_dim
        if width is None:
            return {}
        scale = torch.full((count,), guidance - 1.0)
        found = self._pipe.get_guidance_scale_embedding(scale, embedding_dim=width)
        return {"timestep_cond": found.to(self.unet.device, self.unet.dtype)}

    def generate(
        self,
        prompts: Sequence[str] | None = None,
        *,
        states: Tensor | None = None,
        seeds: Sequence[int],
        latents: Tensor | None = None,
        start: int = 0,
        steps: int = STEPS,
        guidance: float = GUIDANCE,
        progress: Progress | None = None,
        cancelled: Question | None = None,
    ) -> list[Image]:
        """A picture for each seed, from its own noise whatever the batch.

        It shows a prompt, or is made from `states` (N or 1, T, D). `latents` (N, C, h, w) are
        begun with instead of noise, at the scheduler's step `start` (see `denoise`).
        `progress(done, total)` is called after each denoising step, and `cancelled()` asked.
        Pictures of prompts by the unedited model come from memory when they were made before.
        Raises SlugError for a prompt that is too long, a wrong number, or weights that give no
        finite picture; Cancelled within one denoising step.
        """
        watch, drawn = Watch(progress, cancelled), Drawn(steps, guidance)
        check(prompts, seeds, drawn)
        if states is None and latents is None and prompts is not None:
            return self._rows([self], prompts, seeds, drawn, watch)[0]
        if states is None:
            states = self.states(_given(prompts))
        states = states.expand(len(seeds), -1, -1)
        blank = self.states([""])
        pictures: list[Image] = []
        parts = math.ceil(len(seeds) / self.batch)
        for number in range(parts):
            some = slice(number * self.batch, (number + 1) * self.batch)
            pictures += self.drawn(
                states[some],
                blank,
                prompts=None if prompts is None else prompts[some],
                seeds=seeds[some],
                latents=None if latents is None else latents[some],
                start=start,
                drawn=drawn,
                watch=watch.part(number, parts),
            )
        return pictures

    def ladder(
        self,
        prompts: Sequence[str],
        rungs: Sequence[Sequence[Edit]],
        *,
        seeds: Sequence[int],
        steps: int = STEPS,
        guidance: float = GUIDANCE,
        progress: Progress | None = None,
        cancelled: Question | None = None,
    ) -> list[list[Image]]:
        """K rows of P pictures: every prompt under every rung's edits.

        Each of the K `rungs` is a set of edits; all pictures in a column start from the same noise
        (one of the P `seeds`), so that only the edit differs. Rungs that share the U-Net and follow
        no rule go through one denoising run, the others one after another. Rungs that change
        nothing are made once or taken from memory. Otherwise as `generate`.
        """
        drawn = Drawn(steps, guidance)
        check(prompts, seeds, drawn)
        hosts = [self.edited(rung) for rung in rungs]
        return self._rows(hosts, prompts, seeds, drawn, Watch(progress, cancelled))

    def _rows(
        self,
        hosts: Sequence["Diffusion"],
        prompts: Sequence[str],
        seeds: Sequence[int],
        drawn: Drawn,
        watch: Watch,
    ) -> list[list[Image]]:
        shots = [
            Shot(host, prompt, seed)
            for host in hosts
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        known = {shot: shot.remembered(drawn) for shot in shots}
        wanted = [shot for shot, picture in known.items() if picture is None]
        pictures = {shot: picture for shot, picture in known.items() if picture is not None}
        parts = list(runs(wanted))
        for number, run in enumerate(parts):
            for shot, picture in zip(
                run, made(run, drawn, watch.part(number, len(parts))), strict=True
            ):
                pictures[shot] = shot.remember(picture, drawn)
        rows = [pictures[shot].copy() for shot in shots]
        width = len(prompts)
        return [rows[row * width : (row + 1) * width] for row in range(len(hosts))]

    def drawn(
        self,
        states: Tensor,
        blank: Tensor,
        *,
        prompts: Sequence[str] | None,
        seeds: Sequence[int],
        drawn: Drawn,
        watch: Watch,
        latents: Tensor | None = None,
        start: int = 0,
    ) -> list[Image]:
        generators = sources(seeds)
        found = self.denoise(
            states,
            blank,
            latents=self._noise(generators) if latents is None else latents,
            steps=drawn.steps,
            guidance=drawn.guidance,
            start=start,
            generators=generators,
            prompts=prompts,
            watch=watch,
        )
        return self.decode(found)


def rules_of(host: Diffusion) -> tuple[Rule, ...]:
    """The rules that the edits of a host ask for, made for its present weights."""
    return tuple(_rule(edit, host) for edit in host._followed)


def _rule(edit: Edit, host: Diffusion) -> Rule:
    if edit.rule not in INFERENCE_RULES:
        raise SlugError(
            f"This edit follows the rule {edit.rule!r} while pictures are made, which is not "
            f"known here. Known are: {', '.join(INFERENCE_RULES) or 'none'}."
        )
    return INFERENCE_RULES[edit.rule](host, edit.params, edit.strength)


def _given(prompts: Sequence[str] | None) -> Sequence[str]:
    if prompts is None:
        raise ValueError("a picture is made of prompts or of states")
    return prompts


def _refused(scheduler: Any, steps: int, error: Exception) -> SlugError:  # noqa: ANN401
    return SlugError(
        f"This model's {type(scheduler).__name__} cannot work with {steps} denoising "
        f"steps ({error}): choose another number."
    )


def random_unet(config: Mapping[str, Any]) -> UNet2DConditionModel:
    """A U-Net of this diffusers configuration with random weights, to measure what it costs."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UNet2DConditionModel(**config).eval().requires_grad_(False)


def _size(pipe: StableDiffusionPipeline) -> tuple[int, int]:
    """The height and width of the U-Net's latents."""
    size = pipe.unet.config.sample_size
    return (size[0], size[1]) if isinstance(size, (list, tuple)) else (size, size)
