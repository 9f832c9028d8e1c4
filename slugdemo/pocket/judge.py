"""Training of the judge on single-thing renderings, apart from every model that it will judge."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from slugdemo.evaluation.judge import SIDE, Judge, Net
from slugdemo.pocket.augment import augmented
from slugdemo.pocket.muon import optimisers
from slugdemo.pocket.names import Names
from slugdemo.pocket.picture_set import PictureSet
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
from slugdemo.pocket.world import Scene

SEED = 32
WIDTHS = (32, 64, 128, 256)
IGNORED = -100  # what cross-entropy leaves out


def train(
    pictures: PictureSet,
    work: Path,
    *,
    names: Names,
    steps: int,
    batch: int = 192,
    rate: float = 3e-3,
) -> Judge:
    """The trained judge; two-thing scenes of the set are left out.

    Where an augmentation (augment.py) leaves the style unknown, only the concept is taught.
    """
    where = device()
    torch.manual_seed(SEED)
    net = Net(len(names.concepts), len(names.styles), widths=WIDTHS)
    net = net.to(where, memory_format=torch.channels_last)
    faster(net, steps)
    rates = optimisers(net, lr=rate, blocks="blocks")
    made_of = {"widths": WIDTHS, "batch": batch, "names": names.concepts + names.styles}
    run = Run(work / "judge", made_of, steps, {"net": net, **rates})
    single = torch.tensor([i for i, s in enumerate(pictures.scenes) if len(s.things) == 1])

    def update(step: int) -> Mapping[str, float]:
        generator = noise_at(step, seed=SEED)
        which = single[picks(len(single), batch, seed=SEED, step=step)].sort().values
        scenes = [pictures.scenes[i] for i in which.tolist()]
        shown, scenes = augmented(
            pictures.batch(which, side=SIDE), scenes, generator, styles=names.styles
        )
        concept, style = labels(scenes, names).to(where).unbind(1)
        shown = jittered(shown, generator).to(where).contiguous(memory_format=torch.channels_last)
        with halves(where):
            seen, drawn = net(shown)
        terms = {
            "concept": F.cross_entropy(seen.float(), concept, label_smoothing=0.05),
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
            "hit": (seen.argmax(1) == concept).float().mean().item(),
        }

    run.loop(update)
    net = net.cpu().eval().requires_grad_(False)
    return Judge(net, list(names.concepts), list(names.styles))


def labels(scenes: Sequence[Scene], names: Names) -> Tensor:
    """Numbers of the concept and of the style of single-thing scenes (N, 2); `IGNORED` for an unknown style."""
    return torch.tensor(
        [
            (
                names.concepts.index(scene.things[0].concept),
                names.styles.index(scene.style) if scene.style else IGNORED,
            )
            for scene in scenes
        ]
    )


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
