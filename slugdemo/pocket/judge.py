"""Training of the judge on single-thing renderings, apart from every model that it will judge."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from slugdemo.evaluation.judge import Judge, Net
from slugdemo.pocket.album import Album
from slugdemo.pocket.muon import optimisers
from slugdemo.pocket.styles import STYLES
from slugdemo.pocket.training import (
    Run,
    device,
    faster,
    halves,
    noise_at,
    picks,
    set_rate,
    warm_cosine,
)

SEED = 32
WIDTHS = (32, 64, 128, 256)


def train(
    album: Album,
    work: Path,
    *,
    concepts: Sequence[str],
    steps: int,
    batch: int = 192,
    rate: float = 3e-3,
    start: Judge | None = None,
) -> Judge:
    """The trained judge, from `start` where given; two-thing scenes of the album are left out."""
    where = device()
    torch.manual_seed(SEED)
    net = (
        start.net.train().requires_grad_(True)
        if start
        else Net(len(concepts), len(STYLES), widths=WIDTHS)
    )
    net = net.to(where, memory_format=torch.channels_last)
    faster(net, steps)
    rates = optimisers(net, lr=rate, blocks="blocks")
    run = Run(
        work / "judge",
        {"widths": WIDTHS, "batch": batch, "classes": [len(concepts), len(STYLES)]},
        steps,
        {"net": net, **rates},
    )
    single = torch.tensor([i for i, s in enumerate(album.scenes) if len(s.things) == 1])
    labels = torch.tensor(
        [[concepts.index(s.things[0].concept), list(STYLES).index(s.style)] for s in album.scenes]
    )

    def update(step: int) -> Mapping[str, float]:
        which = single[picks(len(single), batch, seed=SEED, step=step)].sort().values
        pictures = jittered(album.batch(which), noise_at(step, seed=SEED)).to(where)
        concept, style = labels[which].to(where).unbind(1)
        with halves(where):
            shown, drawn = net(pictures.contiguous(memory_format=torch.channels_last))
        terms = {
            "concept": F.cross_entropy(shown.float(), concept, label_smoothing=0.05),
            "style": F.cross_entropy(drawn.float(), style, label_smoothing=0.05),
        }
        for optimiser in rates.values():
            set_rate(optimiser, warm_cosine(step, steps))
            optimiser.zero_grad(set_to_none=True)
        (terms["concept"] + 0.3 * terms["style"]).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        for optimiser in rates.values():
            optimiser.step()
        return {
            **{n: v.item() for n, v in terms.items()},
            "hit": (shown.argmax(1) == concept).float().mean().item(),
        }

    run.loop(update)
    return Judge(net.cpu().eval().requires_grad_(False), list(concepts), list(STYLES))


def jittered(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures (N, 3, H, W) blurred and noised a little, at random, as a decoder might leave them."""
    strength = torch.rand(len(pictures), 2, 1, 1, 1, generator=generator)
    soft = F.interpolate(F.avg_pool2d(pictures, 2), scale_factor=2, mode="bilinear")
    mixed = torch.lerp(pictures, soft, (1.6 * strength[:, 0] - 0.6).clamp(min=0))
    grain = torch.randn(pictures.shape, generator=generator) * (0.1 * strength[:, 1] ** 2)
    return (mixed + grain).clamp(-1, 1)


def save(judge: Judge, folder: Path) -> None:
    """Write judge.json and fp16 judge.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        n: w.half().contiguous() if w.is_floating_point() else w
        for n, w in judge.net.state_dict().items()
    }
    save_file(weights, folder / "judge.safetensors")
    names = {"concepts": judge.concepts, "styles": judge.styles, "widths": list(WIDTHS)}
    (folder / "judge.json").write_text(json.dumps(names))
