"""The training loop all pocket models share: resumable after a kill at any moment, logged, seeded by step.

Knows modules, optimisers and files; nothing of what is trained.
"""

import json
import math
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slugdemo.errors import SlugError

SAVE_EVERY = 120.0  # seconds between checkpoints
Numbers = Mapping[str, float]


@dataclass
class Run:
    """One training run in its own folder: `checkpoint.pt`, `log.jsonl`, and what it is made of."""

    folder: Path
    config: Mapping[str, Any]  # a checkpoint of another configuration is refused
    steps: int
    parts: Mapping[str, Any]  # whatever has state_dict / load_state_dict
    seconds: float = 0.0
    _saved: float = field(default_factory=time.monotonic)

    def resume(self) -> int:
        """The step to go on from, 0 for a fresh run; raises SlugError for a checkpoint of another configuration."""
        file = self.folder / "checkpoint.pt"
        if not file.is_file():
            return 0
        kept = torch.load(file, weights_only=True, map_location="cpu")
        if kept["config"] != json.dumps(self.config, sort_keys=True):
            raise SlugError(
                f"{file} belongs to another configuration; move it away or choose another --work folder."
            )
        for name, part in self.parts.items():
            part.load_state_dict(kept["parts"][name])
        self.seconds = kept["seconds"]
        return kept["step"]

    def save(self, step: int) -> None:
        """Write the checkpoint beside the old one, then swap: a kill leaves one whole file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        half = self.folder / f"checkpoint.{os.getpid()}.part"
        torch.save(
            {
                "config": json.dumps(self.config, sort_keys=True),
                "step": step,
                "seconds": self.seconds,
                "parts": {name: part.state_dict() for name, part in self.parts.items()},
            },
            half,
        )
        os.replace(half, self.folder / "checkpoint.pt")
        self._saved = time.monotonic()

    def log(self, step: int, numbers: Numbers, speed: float) -> None:
        """One line of JSON in `log.jsonl` and on standard output."""
        row = {
            "step": step,
            "of": self.steps,
            "seconds": round(self.seconds),
            "s_per_step": round(speed, 3),
            **{name: round(value, 4) for name, value in numbers.items()},
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "log.jsonl").open("a") as lines:
            lines.write(json.dumps(row) + "\n")
        print(self.folder.name, json.dumps(row), flush=True)

    def loop(self, update: Callable[[int], Numbers], *, every: int = 25) -> None:
        """Call `update(step)` for every step left, averaging what it returns over `every` steps for the log."""
        start, began = self.resume(), time.monotonic()
        sums: dict[str, float] = {}
        for step in range(start, self.steps):
            for name, value in update(step).items():
                sums[name] = sums.get(name, 0.0) + value
            if (step + 1) % every == 0 or step + 1 == self.steps:
                spent, count = time.monotonic() - began, (step + 1 - start) % every or every
                self.seconds, began = self.seconds + spent, time.monotonic()
                self.log(
                    step + 1, {name: total / count for name, total in sums.items()}, spent / count
                )
                sums = {}
                if time.monotonic() - self._saved > SAVE_EVERY:
                    self.save(step + 1)
        self.save(self.steps)


def warm_cosine(step: int, steps: int, *, warmup: int = 100, floor: float = 0.02) -> float:
    """Learning-rate factor: linear warm-up, then half a cosine down to `floor`."""
    if step < warmup:
        return (step + 1) / warmup
    return floor + (1 - floor) * 0.5 * (
        1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))
    )


def set_rate(optimiser: torch.optim.Optimizer, factor: float) -> None:
    """Scale every group's learning rate to `factor` times its `initial_lr` (its first one)."""
    for group in optimiser.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor


def picks(count: int, size: int, *, seed: int, step: int) -> Tensor:
    """Indices of batch `step` of an endless shuffled pass over `count` items, (size,): seeded, resumable."""
    epoch, place = divmod(step * size, count)
    order = torch.cat(
        [torch.randperm(count, generator=_at(seed, epoch + i)) for i in range(size // count + 2)]
    )
    return order[place : place + size]


def _at(seed: int, place: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1_000_003 + place)


def noise_at(step: int, *, seed: int) -> torch.Generator:
    """The generator of one step: the same after a resume as without one."""
    return _at(seed + 17, step)


class Average(nn.Module):
    """Exponential moving average of a module's parameters (EMA), itself resumable."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        super().__init__()
        self.decay, self._names = decay, [n for n, _ in module.named_parameters()]
        for name, value in module.named_parameters():
            self.register_buffer(name.replace(".", "/"), value.detach().clone())

    @torch.no_grad()
    def follow(self, module: nn.Module, step: int) -> None:
        """Move towards the module; early steps follow faster."""
        keep = min(self.decay, (1 + step) / (10 + step))
        mine = [self._buffers[name.replace(".", "/")] for name in self._names]
        torch._foreach_lerp_(mine, [p.detach() for p in module.parameters()], 1 - keep)

    @torch.no_grad()
    def put_into(self, module: nn.Module, names: Iterable[str] = ()) -> None:
        """Overwrite the module's parameters, or those named, with the average."""
        for name in names or self._names:
            module.get_parameter(name).copy_(self._buffers[name.replace(".", "/")])


def learn(
    student: nn.Module,
    rates: Mapping[str, torch.optim.Optimizer],
    terms: Callable[[int], dict[str, Tensor]],
    shares: Mapping[str, float],
    folder: Path,
    steps: int,
    *,
    config: Mapping[str, Any],
) -> None:
    """Descend the sum of `terms(step)`, each times its share; the student ends with its average weights (EMA).

    `config` is what a checkpoint must agree with, beside the number of weights.
    """
    mean = Average(student, 0.998)
    run = Run(
        folder,
        {**config, "weights": sum(p.numel() for p in student.parameters())},
        steps,
        {"student": student, **rates, "mean": mean},
    )

    def update(step: int) -> Mapping[str, float]:
        now = terms(step)
        descend(
            sum(share * now[name] for name, share in shares.items()), student, rates, step, steps
        )
        mean.follow(student, step)
        return {name: value.item() for name, value in now.items()}

    run.loop(update)
    mean.put_into(student)


def descend(
    loss: Tensor,
    learner: nn.Module,
    rates: Mapping[str, torch.optim.Optimizer],
    step: int,
    steps: int,
) -> None:
    """One step of every optimiser at its warmed-up, cosine-shaped rate; gradients clipped to norm 2."""
    for optimiser in rates.values():
        set_rate(optimiser, warm_cosine(step, steps, warmup=60))
        optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(learner.parameters(), 2.0)
    for optimiser in rates.values():
        optimiser.step()


def hardware() -> str:
    """Processor, threads or GPU, and versions, for a model card."""
    where = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"CPU, {torch.get_num_threads()} threads"
    )
    return f"{where}; Python {platform.python_version()}, torch {torch.__version__}"


def device() -> torch.device:
    """A CUDA GPU when there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def halves(where: torch.device) -> torch.autocast:
    """bf16 autocast where the hardware multiplies bf16, else a no-op context."""
    able = (
        where.type == "cuda"
        or torch.cpu._is_avx512_bf16_supported()
        or torch.cpu._is_amx_tile_supported()
    )
    return torch.autocast(where.type, torch.bfloat16, enabled=able)


def faster(module: nn.Module, steps: int) -> None:
    """Compile the module's forward in place for a long run, where a compiler is at hand; names stay as they are."""
    if steps >= 300 and (torch.cuda.is_available() or shutil.which("g++")):
        module.compile(dynamic=False)
