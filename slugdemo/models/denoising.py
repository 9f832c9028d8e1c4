"""The denoising loop of Stable Diffusion, with any scheduler and any rules at inference.

Knows a U-Net, a scheduler and rules; knows no prompts, pictures or pipelines.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from slugdemo.models.base import Moment, Outputs, Rule, Watch, finite


@torch.no_grad()
def denoise(
    unet: nn.Module,
    scheduler: Any,  # noqa: ANN401
    states: Tensor,
    blank: Tensor,
    *,
    latents: Tensor,
    steps: int,
    guidance: float,
    start: int,
    stop: int,
    rules: Sequence[Rule],
    generators: Sequence[torch.Generator],
    prompts: Sequence[str] | None,
    ids: Tensor | None,
    extra: Mapping[str, Tensor],
    watch: Watch,
    mixed: bool = False,
) -> Tensor:
    """Latents (N, C, h, w) after the scheduler's steps `start` to `stop`, of `steps` in all.

    `scheduler` has its timesteps set and is the caller's own. `states` and `blank` (N, T, D) are
    what the U-Net reads; above a guidance of 1 it predicts both in one batch and goes
    blank + guidance * (text - blank) (classifier-free guidance, Ho and Salimans 2022). Latents
    come in and go out with the variance that the U-Net is trained on, whatever the scheduler
    keeps inside. `generators` serve schedulers that add noise, and `extra` goes to the U-Net.
    `mixed`: the U-Net, and nothing else, multiplies in bfloat16.
    """
    order = scheduler.order
    moments = scheduler.timesteps[start * order : None if stop == steps else stop * order]
    if start and hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(start * order)
    guided = guidance > 1 and not extra
    rules = [rule.begun() for rule in rules]
    options = _step_options(scheduler, generators)
    latents = latents * _spread(scheduler, start)
    for index, t in enumerate(moments):
        at = Moment(start + index // order, steps, t, guidance, guided, prompts, ids)
        text, empty, network = states, blank, unet
        for rule in rules:
            text, empty = rule.conditions(text, empty, at)
            network = rule.unet(network, at)
        output, seen = _predicted(
            network, scheduler.scale_model_input(latents, t), text, empty, at, extra, mixed
        )
        for rule in rules:
            output = rule.combine(output, seen, at)
        latents = scheduler.step(output, t, latents, **options, return_dict=False)[0]
        finite(latents)
        watch.step(index + 1, len(moments))
    return latents / _spread(scheduler, stop) if stop < steps else latents


def _predicted(
    unet: nn.Module,
    latents: Tensor,
    text: Tensor,
    blank: Tensor,
    at: Moment,
    extra: Mapping[str, Tensor],
    mixed: bool,
) -> tuple[Tensor, Outputs]:
    def run(x: Tensor, states: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=mixed):
            return unet(x, at.t, states, **extra, return_dict=False)[0].to(x.dtype)

    def predict(states: Tensor) -> Tensor:
        return run(latents, states)

    if not at.guided:
        output = predict(text)
        return output, Outputs(output, None, latents, predict)
    without, given = run(torch.cat([latents] * 2), torch.cat([blank, text])).chunk(2)
    output = without + at.guidance * (given - without)
    return output, Outputs(given, without, latents, predict)


def _step_options(scheduler: Any, generators: Sequence[torch.Generator]) -> dict[str, Any]:  # noqa: ANN401
    taken = inspect.signature(scheduler.step).parameters
    offered = {"eta": 0.0, "generator": list(generators)}
    return {name: value for name, value in offered.items() if name in taken}


def _spread(scheduler: Any, step: int) -> float | Tensor:  # noqa: ANN401
    """The scheduler's own latents before `step`, as a multiple of those that the U-Net sees.

    Some schedulers (Euler, LMS, Heun) keep x_0 + sigma * noise, others what the U-Net sees.
    """
    if step == 0:
        return scheduler.init_noise_sigma
    if scheduler.init_noise_sigma == 1:
        return 1.0
    return (scheduler.sigmas[step * scheduler.order] ** 2 + 1) ** 0.5
