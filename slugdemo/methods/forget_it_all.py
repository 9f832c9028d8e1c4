"""Forget-It-All: the few weights of the U-Net's feed-forward layers that the concept alone drives.

ICML 2026, arXiv 2601.06163. Trains nothing. Knows a task on a Diffusion.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from slugdemo.concept import prompt, style_prompt
from slugdemo.edit import Edit
from slugdemo.recording import InputNorms
from slugdemo.task import Task
from slugdemo.unet_training import asked
from slugdemo.weights import Weights

LAYER = ".ff.net.2.weight"
EARLY, STEPS, GUIDANCE = 3, 10, 3.0
CONTEXTS, SEEDS, OTHERS = 3, 4, 16
TOP, PRUNED = 0.05, 0.1


def forget_it_all(task: Task) -> Edit:
    """Zeroes the weights of the second feed-forward matrices that stand out for the concept.

    1. At each early denoising step: S = |W| relu(mu_c - mu_b - sd_b), with the norms of each input
       column over pictures of the concept (mu_c) and of others (mean mu_b, deviation sd_b).
    2. Over these steps: A = .5 mean(S) / max + .5 share of steps with S among the top r1 = .05.
    3. Pruned is what is among the top r2 of its output channel and of its layer in A.

    Published: the first 10 of 50 steps, r2 = .007 (.03 for hard concepts). Deviations: r2 = .1, as
    less prunes too little of a small U-Net; the first 3 of 10 steps; the other pictures are of preserved names.
    """
    named = task.model.named()
    weights = {n: w for n, w in named.items() if n.startswith("unet/") and n.endswith(LAYER)}
    write = style_prompt if task.concept.kind == "style" else prompt
    order = torch.randperm(len(task.preserved), generator=task.generator())[:OTHERS].tolist()
    own = norms(task, weights, asked(task, CONTEXTS), SEEDS)
    rest = norms(task, weights, [write(task.preserved[at]) for at in order], 1)
    delta = {}
    for name, weight in weights.items():
        steps = zip(own, rest, strict=True)
        each = [standing_out(weight, mine[name], others[name]) for mine, others in steps]
        delta[name] = -weight * pruned(lasting(torch.stack(each)), PRUNED)
    return task.edit(delta)


def norms(
    task: Task, weights: Weights, prompts: Sequence[str], seeds: int
) -> list[dict[str, Tensor]]:
    """For each early step, the norms of the matrices' input columns: (pictures, in) by name."""
    model, count = task.model, seeds * len(prompts)
    drawn = torch.randint(2**31, (count,), generator=task.generator(1)).tolist()
    states = model.states(prompts).repeat_interleave(seeds, 0)
    blank, latents, found = model.states([""]), model.noise(drawn), []
    times = model.timesteps(STEPS)
    for step in range(EARLY):
        task.step("Neurons", step, EARLY)
        with InputNorms(weights, items=count) as seen:
            model.predict(latents, times[step].expand(count), states)
        found.append({name: seen.of(name) for name in weights})
        latents = model.denoise(
            states,
            blank,
            latents=latents,
            steps=STEPS,
            guidance=GUIDANCE,
            start=step,
            stop=step + 1,
        )
    return found


def standing_out(weight: Tensor, own: Tensor, rest: Tensor) -> Tensor:
    """S (out, in) of a matrix from its input norms (pictures, in) of the concept and of others."""
    column = (own.mean(0) - rest.mean(0) - rest.std(0)).relu()
    return weight.abs() * column.to(weight)


def lasting(scores: Tensor) -> Tensor:
    """A (out, in) from S at each step (steps, out, in)."""
    mean = scores.mean(0)
    top = math.ceil(TOP * mean.numel())
    thresholds = scores.flatten(1).topk(top, dim=1).values[:, -1].view(-1, 1, 1)
    often = ((scores >= thresholds) & (scores > 0)).float().mean(0)
    return 0.5 * mean / mean.max().clamp(min=torch.finfo(mean.dtype).tiny) + 0.5 * often


def pruned(lasting: Tensor, share: float) -> Tensor:
    """Which weights (out, in) are among the top `share` of their output channel and of the layer."""
    channel = lasting.topk(math.ceil(share * lasting.shape[1]), dim=1).values[:, -1:]
    layer = lasting.flatten().topk(math.ceil(share * lasting.numel())).values[-1]
    return (lasting >= channel) & (lasting >= layer) & (lasting > 0)
