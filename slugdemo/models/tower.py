"""A CLIP tower inside a host: edits go in under its own names, and what it reads is found out.

Hosts differ in what they read of CLIP: Stable Diffusion no vision tower, SD 2.x not the last text
block, LLaVA neither the last vision block nor the norm behind it. Knows modules and edits only.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from slugdemo.edit import Edit, apply, clip_name, of_part, part_of
from slugdemo.layers import effective
from slugdemo.weights import Weights, substitute


def translated(
    edits: Iterable[Edit], to_hf: Callable[[Weights], Weights], *, part: str, tower: Weights
) -> list[Edit]:
    """The edits of one part of CLIP, under the names of `tower`, less the tensors it does not have.

    `part` is "text" or "vision", `to_hf` is `names.to_hf_text` or `names.to_hf_vision`, `tower`
    holds a host's tensors under its own names. Raises ValueError for a name that no CLIP has.
    """
    found = []
    for edit in edits:
        own = {clip_name(n): tensor for n, tensor in edit.delta.items() if part_of(n) == part}
        theirs = to_hf(own) if own else {}
        delta = {f"{part}/{name}": theirs[name] for name in theirs if name in tower}
        found.append(replace(edit, delta=delta))
    return found


def changed(
    edits: Iterable[Edit], to_hf: Callable[[Weights], Weights], *, part: str, tower: Weights
) -> Weights:
    """The edited tensors of `tower`, under its own names, and only those."""
    moved = translated(edits, to_hf, part=part, tower=tower)
    return of_part(apply({f"{part}/{name}": t for name, t in tower.items()}, moved), part)


def moving(module: nn.Module, weights: Weights, output: Callable[[nn.Module], Tensor]) -> list[str]:
    """The names in `weights` whose change moves `output`, in their order.

    `weights` are tensors of `module`; `output` reads a twin of it and lets gradients through.
    One backward pass through a random projection of the output shows nearly all of them: a tensor
    without a path to it gets no gradient. Those with a path and a gradient of zero are tried one
    by one. `module` is not changed.
    """
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in weights.items()}
    with torch.enable_grad():
        result = output(substitute(module, leaves)).float()
        probe = torch.randn(result.shape, generator=torch.Generator().manual_seed(0))
        total = (result * probe.to(result)).sum()
        gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    reached = {n: g for n, g in zip(leaves, gradients, strict=True) if g is not None}
    doubtful = [name for name, gradient in reached.items() if not gradient.count_nonzero()]
    still = set(doubtful) - set(
        effective(doubtful, weights=weights, output=lambda part: output(substitute(module, part)))
    )
    return [name for name in reached if name not in still]
