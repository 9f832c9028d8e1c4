"""Attacks that begin with a picture of the concept: is it still in the U-Net?

Knows latents and the denoising loop; changes no weight and searches no prompt.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from slugdemo import images
from slugdemo.attacks.attack import DRAWN, SEED, Attacked, Target
from slugdemo.concept import PLAIN, prompt
from slugdemo.models.diffusion import Diffusion

PROMPTS = ("empty", "neutral", "own")
NEUTRAL = "a picture"
SHARES = {"empty": 1 / 3, "neutral": 1 / 3, "own": 1 / 2}  # of the steps that completion still goes
INVERSION = 25  # steps of DDIM, there and back


def completion(target: Target, *, said: str) -> Attacked:
    """Pictures of the concept, noised to a part of the schedule and finished by the model.

    The prompt, `said`, is "empty" or "neutral", from a third of the schedule on, or the concept's
    "own", from half of it. From half the original shows the concept in only 43 of 48 with an empty
    prompt (octopus, astronaut, taxi, neon, blueprint, heat map), from a third in all. After the
    completion probes of "When Are Concepts Erased From Diffusion Models?" (arXiv 2505.17013) and of
    arXiv 2506.08991: what the noised picture shows is in the trial itself, so that only the model
    that never saw the concept says how much of a success is the model's. With its own prompt it
    asks by name, and may miss a concept that was only renamed.
    """
    model, steps = target.model, target.drawing["steps"]
    start = min(steps - 1, round(steps * (1 - SHARES[said])))
    latents, prompts = _noised(target, model.timesteps(steps)[start]), _prompts(target, said)
    target.task.step("Completing noised pictures", 0, 1)
    drawn = model.generate(
        prompts, latents=latents, start=start, seeds=_seeds(target), **target.drawing
    )
    pictures, hits = target.judged(drawn)
    return target.result(hits, pictures)


def inpainting(target: Target) -> Attacked:
    """The right half of pictures of the concept, painted anew by the model beside the left one.

    After each denoising step the left half is put back, noised to where the step ended (RePaint,
    arXiv 2201.09865, without its jumps back). The prompt is the concept's own, so it may miss a
    concept that was only renamed. The judge sees the whole picture, of which half is real: compare
    with the model that never saw the concept.
    """
    model, size = target.model, target.task.config.evaluation_size
    shown = model.encode(_pictures(target))
    noise = model.noise(_seeds(target))
    times = model.timesteps(size.denoising)
    states, blank = model.states(_prompts(target, "own")), model.states([""])
    half = shown.shape[-1] // 2
    latents = noise
    for step in target.steps("Painting the other half", size.denoising):
        latents = model.denoise(
            states,
            blank,
            latents=latents,
            steps=size.denoising,
            guidance=size.guidance,
            start=step,
            stop=step + 1,
            prompts=_prompts(target, "own"),
        )
        last = step + 1 == size.denoising
        known = (
            shown
            if last
            else model.schedule.noised(shown, times[step + 1].expand(len(shown)), noise)
        )
        latents = torch.cat([known[..., :half], latents[..., half:]], dim=-1)
    pictures, hits = target.judged(model.decode(latents))
    return target.result(hits, pictures)


def inversion(target: Target) -> Attacked:
    """Pictures of the concept turned into noise by the model itself, and back, by DDIM.

    DDIM (arXiv 2010.02502), 25 steps each way under the concept's own prompt, no guidance: a model
    that comes back to the picture has a place for it. On the way back the rules of an edit hold. It
    asks by name, so it may miss a concept that was only renamed.
    """
    model, states = target.model, target.model.states(_prompts(target, "own"))
    times = model.timesteps(INVERSION).flip(0)
    latents = inverted(model, model.encode(_pictures(target)), states, times, target)
    drawn = model.generate(
        _prompts(target, "own"),
        latents=latents,
        seeds=_seeds(target),
        **{**target.drawing, "steps": INVERSION, "guidance": 1.0},
    )
    pictures, hits = target.judged(drawn)
    return target.result(hits, pictures)


@torch.no_grad()
def inverted(
    model: Diffusion, latents: Tensor, states: Tensor, times: Tensor, target: Target
) -> Tensor:
    """The noise that DDIM's deterministic steps lead to from latents (N, C, h, w), at the last of
    `times` (K,), which grow."""
    count, zero = len(latents), torch.zeros_like(latents)
    before = times[:1] * 0
    for step in target.steps("Turning pictures into noise", len(times)):
        here, there = before.expand(count), times[step : step + 1].expand(count)
        noise = model.schedule.epsilon(model.predict(latents, here, states), latents, here)
        spread = model.schedule.noised(zero, here, noise)  # sqrt(1 - a) noise
        picture = (latents - spread) / _signal(model, here, latents)
        latents = model.schedule.noised(picture, there, noise)
        before = times[step : step + 1]
    return latents


def _signal(model: Diffusion, t: Tensor, like: Tensor) -> Tensor:
    """sqrt(alpha_bar) at t (N,): (N, 1, 1, 1)."""
    ones = torch.ones_like(like[:, :1, :1, :1])
    return model.schedule.noised(ones, t, torch.zeros_like(ones))


def _noised(target: Target, t: Tensor) -> Tensor:
    model = target.model
    shown = model.encode(_pictures(target))
    return model.schedule.noised(shown, t.expand(len(shown)), model.noise(_seeds(target)))


def _pictures(target: Target) -> list:
    return [images.read(example.image) for example in target.held(DRAWN)]


def _seeds(target: Target) -> list[int]:
    return list(range(SEED, SEED + len(target.held(DRAWN))))


def _prompts(target: Target, said: str) -> list[str]:
    """A prompt for each held picture: nothing, nothing in particular, or what it shows."""
    held = target.held(DRAWN)
    if said == "own":
        thing, style = ("concept", target.name), ("style", PLAIN)
        return [prompt(e.labels.get(*thing), e.labels.get(*style)) for e in held]
    return [NEUTRAL if said == "neutral" else ""] * len(held)


completions: dict[str, Callable[[Target], Attacked]] = {
    said: partial(completion, said=said) for said in PROMPTS
}
