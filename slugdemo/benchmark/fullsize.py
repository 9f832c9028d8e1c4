"""What SLUG costs at the published sizes: their architectures with random weights.

Times and bytes do not depend on what weights and pictures hold, so nothing is fetched. Each model
has a process of its own, so that no peak of memory holds another's. Knows the engine below the
command line; prints nothing.
"""

import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from typing import Any

import open_clip
import torch
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from slugdemo import layers
from slugdemo.benchmark.figures import Figure, seconds
from slugdemo.benchmark.speed import noise_batches
from slugdemo.cost import Peak, settle
from slugdemo.edit import Edit, apply, clip_name, qualified
from slugdemo.errors import SlugError
from slugdemo.gradients import Gradients, gradients
from slugdemo.models.clip import Clip
from slugdemo.models.diffusion import random_unet

PAPER = {"seconds": 39.0, "memory_gb": 3.61, "stored_gb": 0.04}  # SD 1.5, A100
SD_LATENTS = (1, 4, 64, 64)  # a picture of 512 x 512 px
SD_STATES = (1, 77, 768)
SD_UNET = {
    "sample_size": 64,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "block_out_channels": (320, 640, 1280, 1280),
}
LLAVA_LAYERS, LLAVA_TOKENS = 32, 640  # of Vicuna-7B; a picture's 576 tokens and a question
LLAVA = {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32}


@dataclass(frozen=True)
class Plan:
    """What is measured: CLIPs by open_clip's names, pairs behind each gradient, and where."""

    clips: tuple[str, ...] = ("ViT-B-32", "ViT-L-14")
    pairs: int = 32
    device: str = "cpu"
    unet: tuple[tuple[str, object], ...] = tuple(SD_UNET.items())
    llava: tuple[tuple[str, int], ...] = tuple(LLAVA.items())


def figures(plan: Plan) -> Iterator[Figure]:
    """Seconds and bytes of each part of the work, the paper's beside them, one model at a time.

    Raises SlugError for a CLIP that open_clip does not have, or when the memory does not suffice.
    """
    if unknown := [name for name in plan.clips if name not in open_clip.list_models()]:
        raise SlugError(f"open_clip has no model {unknown[0]!r}.")
    for model in models(plan):
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=spawn) as alone:
            try:
                yield from alone.submit(model).result()
            except BrokenProcessPool as error:
                raise SlugError(
                    "The process that measured was ended from outside, as systems do when memory "
                    "runs out: give fewer --pairs, or a smaller --clip."
                ) from error


def models(plan: Plan) -> list[Callable[[], list[Figure]]]:
    """One call for each model of the plan, which measures it in this process."""
    return [
        *(partial(_clip, name, plan) for name in plan.clips),
        partial(_unet, plan),
        partial(_llava, plan),
    ]


def _clip(name: str, plan: Plan) -> list[Figure]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.create_model(name).eval().requires_grad_(False)
    tokenize = open_clip.get_tokenizer(name)
    clip = Clip(model.to(plan.device), tokenize, lambda picture: picture, name)
    batches = noise_batches(clip, plan.pairs)
    batches = [(pixels.to(plan.device), tokens.to(plan.device)) for pixels, tokens in batches]
    names = layers.candidates(clip)
    found: list[Any] = []
    size = 4 * sum(tensor.numel() for tensor in model.parameters())
    both = _measured(
        f"{name}: both gradients, {plan.pairs} pairs",
        lambda: found.append(gradients(clip, batches, retain=batches, names=names)),
        paper=PAPER["seconds"],
        weights_gb=size / 1e9,
    )
    slopes: Gradients = found[0]
    front = _measured(
        f"{name}: scores and front",
        lambda: found.append(layers.pareto_front(layers.scores(clip.named(), slopes))),
    )
    best = found[1][0]
    weights = {qualified(n): clip.named()[n] for n in best.tensors}
    along = {qualified(n): slopes.forget[n] for n in best.tensors}
    edit = Edit.along(along, weights, concept="noise", method="slug", layer=best.layer).at(0.1)
    stored = sum(2 * tensor.numel() for tensor in edit.delta.values())  # as float16
    edited = _measured(
        f"{name}: one edit",
        lambda: found.append(_edited(clip, edit)),
        stored_gb=stored / 1e9,
        paper_stored_gb=PAPER["stored_gb"],
    )
    seen = _measured(
        f"{name}: one evaluation, {plan.pairs} pictures",
        lambda: [_features(found[2], pixels) for pixels, _ in batches],
    )
    return [both, front, edited, seen]


def _edited(clip: Clip, edit: Edit) -> Clip:
    own = {qualified(name): tensor for name, tensor in clip.named().items()}
    return clip.edited({clip_name(name): tensor for name, tensor in apply(own, [edit]).items()})


@torch.no_grad()
def _features(clip: Clip, pixels: Tensor) -> Tensor:
    return clip.encode_image(pixels)


def _unet(plan: Plan) -> list[Figure]:
    unet = random_unet(dict(plan.unet)).to(plan.device)
    width, side = unet.config.cross_attention_dim, unet.config.sample_size
    latents = torch.zeros(*SD_LATENTS[:2], side, side, device=plan.device)
    states = torch.zeros(*SD_STATES[:2], width, device=plan.device)
    return [_passed("SD 1.5: one U-Net pass", lambda: unet(latents, 500, states), unet)]


def _llava(plan: Plan) -> list[Figure]:
    config = LlamaConfig(num_hidden_layers=1, vocab_size=32, **dict(plan.llava))
    layer = LlamaForCausalLM(config).model.eval().to(plan.device)
    states = torch.zeros(1, LLAVA_TOKENS, config.hidden_size, device=plan.device)
    name = f"LLaVA-1.5: one of {LLAVA_LAYERS} language layers, {LLAVA_TOKENS} tokens"
    return [_passed(name, lambda: layer(inputs_embeds=states), layer)]


def _passed(name: str, work: Callable[[], object], module: nn.Module) -> Figure:
    size = sum(tensor.nbytes for tensor in module.parameters())
    with torch.no_grad():
        return _measured(name, work, weights_gb=size / 1e9)


def _measured(
    name: str, work: Callable[[], object], *, paper: float | None = None, **beside: float
) -> Figure:
    """The seconds of one call, with the bytes that it took beside what was there, and in all.

    `cpu_seconds` count no time in which another program had the processor.
    """
    cuda = torch.cuda.is_available()
    settle()
    before = torch.cuda.memory_allocated() if cuda else 0
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    worked = time.process_time()
    with Peak() as peak:
        spent = seconds(partial(_finished, work))
    worked = time.process_time() - worked
    most = torch.cuda.max_memory_allocated() if cuda else peak.whole
    held = most - before if cuda else peak.bytes
    details: dict[str, object] = {
        "cpu_seconds": worked,
        "memory_gb": held / 1e9,
        "whole_gb": most / 1e9,
        **beside,
    }
    if paper is not None:
        details |= {"paper_seconds": paper, "paper_memory_gb": PAPER["memory_gb"]}
    return Figure(name, spent, unit="s", details=details)


def _finished(work: Callable[[], object]) -> None:
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
