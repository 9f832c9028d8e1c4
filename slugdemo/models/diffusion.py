"""Stable Diffusion as a host of CLIP: its text encoder is CLIP's text tower.

The only module that knows diffusers. Only the text tower is edited (SLUG, sec. 4.3); the U-Net,
the VAE and the tokenizer are shared by all visitors and never change. Every call works on a
pipeline of its own, so that schedulers, progress and cancelling stay with their visitor.
"""

import copy
import math
from collections.abc import Sequence
from functools import cached_property, partial
from itertools import groupby
from pathlib import Path
from typing import NamedTuple, Unpack

import torch
from diffusers import StableDiffusionPipeline
from PIL.Image import Image
from torch import Tensor
from transformers import CLIPTextModel

from slugdemo.edit import Edit
from slugdemo.errors import SlugError
from slugdemo.models import names, tower
from slugdemo.models.base import Drawing, Progress, Question, Watch, finite
from slugdemo.models.image_cache import Gallery
from slugdemo.models.prompts import Prompts
from slugdemo.weights import substitute

LATENTS_AT_ONCE = 64 * 16 * 16  # positions in one denoising run: 64 pictures of pocket-sd
UNEDITED_KEPT = 512  # pictures of the unedited model that are remembered
LARGEST_SEED = 2**63 - 1
STEPS, MOST_STEPS = 20, 1000


class Diffusion:
    """A Stable Diffusion pipeline whose text tower can be edited, for many visitors at once.

    `batch` is the number of pictures in one denoising run; by default as many as have together
    the latent positions of 64 pictures of 16 x 16. `clip_skip` leaves out the last text blocks,
    as in diffusers. The pipeline given must not be changed afterwards.
    """

    def __init__(
        self,
        pipe: StableDiffusionPipeline,
        *,
        batch: int | None = None,
        clip_skip: int = 0,
    ) -> None:
        if not isinstance(pipe.text_encoder, CLIPTextModel):
            kind = type(pipe.text_encoder).__name__
            raise SlugError(f"This pipeline reads its prompts with {kind}, which is not CLIP.")
        self.batch = batch or max(1, LATENTS_AT_ONCE // _positions(pipe))
        self.text = pipe.text_encoder
        self._pipe = pipe
        self._weights = dict(self.text.named_parameters())
        self._gallery: Gallery | None = Gallery(UNEDITED_KEPT)
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
    ) -> "Diffusion":
        """The host in a diffusers `StableDiffusionPipeline` folder; never asks the hub.

        The folder's safety checker is used when its weights are there, and left out otherwise.
        Raises SlugError when the folder holds no such pipeline or is damaged.
        """
        checked = any((folder / "safety_checker").glob("*.safetensors"))
        without = {} if checked else {"safety_checker": None, "requires_safety_checker": False}
        try:
            pipe = StableDiffusionPipeline.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, **without
            )
        except Exception as error:  # many kinds, by many libraries
            raise SlugError(
                f"{folder.name} is not a whole Stable Diffusion folder: {error}"
            ) from error
        return cls(pipe.to(device, dtype), batch=batch, clip_skip=clip_skip)

    def edited(self, edits: Sequence[Edit]) -> "Diffusion":
        """A host with the edited text tower that shares all else; self if nothing moves it.

        Tensors that this pipeline does not have (vision tower, dropped blocks) are left out, as
        they change nothing here. Raises ValueError for edits of another architecture.
        """
        changed = tower.changed(edits, names.to_hf_text, part="text", tower=self._weights)
        if not changed:
            return self
        twin = copy.copy(self)
        twin.text = substitute(self.text, changed)
        twin._weights = {**self._weights, **changed}
        twin._gallery = None
        return twin

    def forget_pictures(self) -> int:
        """Lets go of the pictures that need not be made again; how many there were."""
        return self._gallery.clear() if self._gallery else 0

    def editable(self) -> list[str]:
        """The canonical names of the tensors that change the pictures, found by trying."""
        return list(self._canonical)

    @cached_property
    def _canonical(self) -> tuple[str, ...]:
        ids, mask = self._prompts.tokens(self.text, ["a picture of one thing"])
        found = tower.moving(
            self.text, self._weights, lambda text: self._prompts.states(text, ids, mask)
        )
        return tuple(dict.fromkeys(names.text_name(name) for name in found))

    def to(self, device: str) -> "Diffusion":
        """This very host, moved to a device: for whoever has it alone, before any twin."""
        self._pipe.to(device)
        return self

    def pipeline(self) -> StableDiffusionPipeline:
        """A pipeline of its own with this host's text tower, sharing every network."""
        pipe = type(self._pipe)(
            **{
                **self._pipe.components,
                "text_encoder": self.text,
                "scheduler": copy.deepcopy(self._pipe.scheduler),
            },
            requires_safety_checker=self._pipe.config.requires_safety_checker,
        )
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def generate(
        self,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int],
        **options: Unpack[Drawing],
    ) -> list[Image]:
        """One picture for each prompt, from the noise of its own seed whatever the batch.

        `progress(done, total)` is called after each denoising step, and `cancelled()` asked.
        Pictures of the unedited model come from memory when they were made before.
        Raises SlugError for a prompt that is too long, a wrong number, or weights that give no
        finite picture; Cancelled within one denoising step.
        """
        return self.ladder(prompts, [[]], seeds=seeds, **options)[0]

    def ladder(
        self,
        prompts: Sequence[str],
        rungs: Sequence[Sequence[Edit]],
        *,
        seeds: Sequence[int],
        steps: int = STEPS,
        guidance: float = 7.5,
        progress: Progress | None = None,
        cancelled: Question | None = None,
    ) -> list[list[Image]]:
        """K rows of P pictures: every prompt under every rung's edits, one denoising run for all.

        Each of the K `rungs` is a set of edits; all pictures in a column start from the same noise
        (one of the P `seeds`), so that only the edit differs. Rungs that change nothing are made
        once or taken from memory. Otherwise as `generate`.
        """
        hosts = [self.edited(rung) for rung in rungs]
        return self._rows(hosts, prompts, seeds, steps, guidance, Watch(progress, cancelled))

    def _rows(
        self,
        hosts: Sequence["Diffusion"],
        prompts: Sequence[str],
        seeds: Sequence[int],
        steps: int,
        guidance: float,
        watch: Watch,
    ) -> list[list[Image]]:
        _check(prompts, seeds, steps=steps, guidance=guidance)
        shots = [
            Shot(host, prompt, seed)
            for host in hosts
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        known = {shot: shot.remembered(steps, guidance) for shot in shots}
        wanted = [shot for shot, picture in known.items() if picture is None]
        made = self._painted(wanted, steps, guidance, watch)
        pictures = {shot: picture for shot, picture in known.items() if picture is not None}
        for shot, picture in zip(wanted, made, strict=True):
            pictures[shot] = shot.remember(picture, steps, guidance)
        rows = [pictures[shot].copy() for shot in shots]
        width = len(prompts)
        return [rows[row * width : (row + 1) * width] for row in range(len(hosts))]

    def _painted(
        self, shots: Sequence["Shot"], steps: int, guidance: float, watch: Watch
    ) -> list[Image]:
        """The pictures of `shots`, `batch` at a time."""
        if not shots:
            return []
        text, blank = _conditions(shots)  # (N, T, D), (N, T, D)
        pictures: list[Image] = []
        runs = math.ceil(len(shots) / self.batch)
        for run in range(runs):
            part = slice(run * self.batch, (run + 1) * self.batch)
            pictures += self.pipeline()(
                prompt_embeds=text[part],
                negative_prompt_embeds=blank[part],
                generator=[torch.Generator().manual_seed(shot.seed) for shot in shots[part]],
                num_inference_steps=steps,
                guidance_scale=guidance,
                callback_on_step_end=partial(_after_step, watch, run, runs),
            ).images
        return pictures


class Shot(NamedTuple):
    """One picture to make: by which host, of what, from which noise."""

    host: Diffusion
    prompt: str
    seed: int

    def remembered(self, steps: int, guidance: float) -> Image | None:
        """The picture, if the host is unedited and has made it before."""
        gallery = self.host._gallery
        return None if gallery is None else gallery.get((*self[1:], steps, guidance))

    def remember(self, picture: Image, steps: int, guidance: float) -> Image:
        """`picture`, which an unedited host will not make again."""
        if self.host._gallery is not None:
            self.host._gallery.put((*self[1:], steps, guidance), picture)
        return picture


def _after_step(
    watch: Watch,
    run: int,
    runs: int,
    pipe: StableDiffusionPipeline,
    step: int,
    _: Tensor,
    tensors: dict[str, Tensor],
) -> dict[str, Tensor]:
    """What diffusers calls after each step; leaving by an exception ends the run at once."""
    finite(tensors["latents"])
    watch.step(run * pipe.num_timesteps + step + 1, runs * pipe.num_timesteps)
    return tensors


def _conditions(shots: Sequence[Shot]) -> tuple[Tensor, Tensor]:
    """What each shot's own text tower says of its prompt and of nothing: (N, T, D) twice."""
    text, blank = [], []
    for host, group in groupby(shots, key=lambda shot: shot.host):
        prompts = [shot.prompt for shot in group]
        order = {prompt: row for row, prompt in enumerate(dict.fromkeys(["", *prompts]))}
        states = host._prompts.embedded(host.text, list(order))
        text.append(states[[order[prompt] for prompt in prompts]])
        blank.append(states[:1].expand(len(prompts), -1, -1))
    return torch.cat(text), torch.cat(blank)


def _check(prompts: Sequence[str], seeds: Sequence[int], *, steps: int, guidance: float) -> None:
    if len(prompts) != len(seeds):
        raise ValueError(f"{len(prompts)} prompts need as many seeds, got {len(seeds)}")
    for seed in seeds:
        if not 0 <= seed <= LARGEST_SEED:
            raise SlugError(f"A seed is a whole number from 0 to {LARGEST_SEED}, not {seed}.")
    if not 1 <= steps <= MOST_STEPS:
        raise SlugError(f"Choose between 1 and {MOST_STEPS} denoising steps, not {steps}.")
    if not 0 <= guidance < math.inf:
        raise SlugError(f"The guidance is a number from 0 upwards, not {guidance}.")


def _positions(pipe: StableDiffusionPipeline) -> int:
    size = pipe.unet.config.sample_size
    return math.prod(size) if isinstance(size, (list, tuple)) else size * size
