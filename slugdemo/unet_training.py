"""Training Stable Diffusion's U-Net on copies: which tensors, and latents on their way to pictures.

What the methods that train the U-Net have in common. Knows a task on a Diffusion; knows no method
and no evaluation.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from slugdemo.concept import PLAIN, prompt, style_prompt
from slugdemo.edit import of_part
from slugdemo.errors import SlugError
from slugdemo.task import Task

STEPS, GUIDANCE, SEEDS = 10, 3.0, 6  # of the pictures that are stopped on their way
ATTENTION, POOLED = ".attn2.", "add_embedding."  # where a U-Net reads text


@dataclass(frozen=True, eq=False)
class OnTheWay:
    """Latents x_t (M, C, h, w) that the original model would go through, at t (M,), for the
    prompts numbered in `which` (M,)."""

    latents: Tensor
    t: Tensor
    which: Tensor

    def __len__(self) -> int:
        return len(self.t)


def text_readers(task: Task) -> dict[str, Tensor]:
    """The U-Net's tensors that read text, "unet/...": cross-attention, and the pooled text.

    A U-Net with an `add_embedding` reads its text twice; training cross-attention alone would
    leave it what it reads there.
    """
    named = task.model.named()
    return {
        name: named[name]
        for name in named
        if name.startswith("unet/") and (ATTENTION in name or POOLED in name)
    }


def beside_text(task: Task) -> dict[str, Tensor]:
    """The U-Net's other tensors, "unet/...": all that do not read text."""
    reading, named = text_readers(task), task.model.named()
    unet = {f"unet/{name}" for name in of_part(named, "unet")}
    return {name: named[name] for name in named if name in unet and name not in reading}


def asked(task: Task, contexts: int, *, instead: str = "") -> list[str]:
    """The concept's prompt alone, and in so many contexts: styles for things, things for styles.

    `instead` is a name to put in the concept's place in the same prompts.
    """
    concept, name = task.concept, instead or task.concept.name
    style = concept.kind == "style"
    others = task.eval_set.concepts if style else task.eval_set.styles
    some = [other for other in others if other != PLAIN]
    order = torch.randperm(len(some), generator=task.generator())[:contexts].tolist()
    if not style:
        return [prompt(name), *(prompt(name, some[at]) for at in order)]
    alone = "a picture" if name == PLAIN else style_prompt(name)
    return [alone, *(prompt(some[at], name) for at in order)]


def anchor(task: Task) -> str:
    """The name that the concept is to become: the task's, or no style, or the next neighbour.

    Raises SlugError when there is no other name.
    """
    if task.anchor or task.concept.kind == "style":
        return task.anchor or PLAIN
    near = [*task.eval_set.neighbours, *task.preserved]
    if not near:
        raise SlugError(f"Name what {task.concept.name!r} is to become: no other name is known.")
    return near[0]


def on_the_way(task: Task, prompts: Sequence[str]) -> OnTheWay:
    """The latents of `SEEDS` pictures of each prompt, before each of `STEPS` denoising steps."""
    model = task.model
    seeds = torch.randint(2**31, (SEEDS * len(prompts),), generator=task.generator(1)).tolist()
    states = model.states(prompts).repeat_interleave(SEEDS, 0)
    blank, latents, seen = model.states([""]), model.noise(seeds), []
    times = model.timesteps(STEPS)
    for step in range(STEPS):
        task.step("Drawing half-finished pictures", step, STEPS)
        seen.append(latents)
        if step + 1 < STEPS:
            latents = model.denoise(
                states,
                blank,
                latents=latents,
                steps=STEPS,
                guidance=GUIDANCE,
                start=step,
                stop=step + 1,
            )
    which = torch.arange(len(prompts)).repeat_interleave(SEEDS).repeat(STEPS)
    return OnTheWay(torch.cat(seen), times[:STEPS].repeat_interleave(len(seeds)), which)


@torch.no_grad()
def predicted(task: Task, seen: OnTheWay, states: Tensor) -> Tensor:
    """What the original U-Net gives at all of `seen` for the states (M, T, D): (M, C, h, w)."""
    found = []
    for rows in torch.arange(len(seen)).split(task.model.batch):
        task.step("What the original model predicts", int(rows[0]), len(seen))
        found.append(task.model.predict(seen.latents[rows], seen.t[rows], states[rows]))
    return torch.cat(found)
