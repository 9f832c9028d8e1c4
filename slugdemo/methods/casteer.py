"""CASteer: cross-attention outputs are steered away from the concept (arXiv 2503.09630).

Gaintseva et al., 2025. Changes no weight; the steering vectors come from a few pictures that the
model itself draws with and without the concept. Knows a task and a rule's hooks only.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from slugdemo.concept import PLAIN, prompt
from slugdemo.edit import Edit
from slugdemo.models.base import INFERENCE_RULES, Moment, Rule
from slugdemo.task import Task
from slugdemo.weights import replaced

BETA = 2.0  # as published
PAIRS = 16  # prompts with the concept, and as many without
STEPS, GUIDANCE, SEED = 8, 2.0, 5_000_000  # of the pictures that the vectors are taken from

Vectors = dict[str, Tensor]  # name of a cross-attention -> (steps, C), of length 1


def casteer(task: Task) -> Edit:
    """The rule with pairs of prompts that differ in the concept alone."""
    pairs = _pairs(task)
    params: dict[str, str | float] = {
        "with": "\n".join(pair[0] for pair in pairs),
        "without": "\n".join(pair[1] for pair in pairs),
        "beta": BETA,
    }
    return task.edit({}, rule="casteer", params=params)


def _pairs(task: Task) -> list[tuple[str, str]]:
    name, names = task.concept.name, task.eval_set
    styles = list(names.styles) or [PLAIN]
    things = [thing for thing in names.concepts if thing != name] or [""]
    if task.concept.domain == "style":
        some = [things[at * len(things) // PAIRS] for at in range(PAIRS)]
        return [(prompt(thing, name), prompt(thing)) for thing in some]
    made = []
    for at in range(PAIRS):
        style, other = styles[at % len(styles)], things[at * len(things) // PAIRS]
        made.append((prompt(name, style), prompt(other, style)))
    return made


class Steered(Rule):
    """x - strength * beta * relu(x . v) v, then the old length, at every cross-attention's output.

    v = unit(mean with the concept - mean without it), one for each cross-attention and denoising
    step, of the mean over positions and pictures. Vectors are taken at 8 steps, and each step uses
    those of the nearest timestep. Only the half of the batch that reads the prompts is changed.
    Strength 1 is the paper's beta of 2.
    """

    def __init__(self, host: Any, params: Mapping[str, str | float], strength: float) -> None:  # noqa: ANN401
        texts = [str(params[key]).split("\n") for key in ("with", "without")]
        key = ("casteer", *(text for side in texts for text in side))
        self._vectors: Vectors = host.derived(key, lambda: vectors(host, *texts))
        self._timesteps = host.timesteps(STEPS).float()
        self._beta = strength * float(params["beta"])

    def unet(self, unet: nn.Module, at: Moment) -> nn.Module:
        """A twin whose cross-attentions turn away from the concept."""
        nearest = int((self._timesteps - at.t.float()).abs().argmin())
        steered = {
            f"{name}.to_out.1": Steer(own[nearest], self._beta, at.guided)
            for name, own in self._vectors.items()
        }
        return replaced(unet, steered)


class Steer(nn.Module):
    """The last module of a cross-attention, in place of its idle dropout."""

    def __init__(self, vector: Tensor, beta: float, guided: bool) -> None:
        super().__init__()
        self._vector, self._beta, self._guided = vector, beta, guided

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (N, positions, C); the first half of a guided batch stays as it is."""
        first = len(x) // 2 if self._guided else 0
        old = x[first:]
        v = self._vector.to(x)
        new = old - self._beta * torch.relu(old @ v)[..., None] * v
        new = new * (old.norm(dim=-1, keepdim=True) / new.norm(dim=-1, keepdim=True).clamp(1e-12))
        return torch.cat([x[:first], new])


class Recorder(nn.Module):
    """The mean output (C,) of a cross-attention over positions and pictures, kept at each call."""

    def __init__(self) -> None:
        super().__init__()
        self.means: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        """`x` itself; of a guided batch the half that reads the prompts counts."""
        self.means.append(x[len(x) // 2 :].mean((0, 1)))
        return x


class Recording(Rule):
    """Lets recorders listen to every cross-attention."""

    def __init__(self, recorders: Mapping[str, Recorder]) -> None:
        self._recorders = recorders

    def unet(self, unet: nn.Module, at: Moment) -> nn.Module:  # noqa: ARG002
        """A twin in which each recorder stands behind its cross-attention."""
        return replaced(unet, {f"{name}.to_out.1": r for name, r in self._recorders.items()})


def vectors(host: Any, having: Sequence[str], lacking: Sequence[str]) -> Vectors:  # noqa: ANN401
    """The steering vectors of two lists of prompts, from pictures that start from the same noise."""
    with_it, without = (_means(host, texts) for texts in (having, lacking))
    return {name: nn.functional.normalize(with_it[name] - without[name], dim=1) for name in with_it}


def _means(host: Any, prompts: Sequence[str]) -> Vectors:  # noqa: ANN401
    places = [name for name, _ in host.unet.named_modules() if name.endswith("attn2")]
    recorders = {name: Recorder() for name in places}
    host.following([Recording(recorders)]).denoise(
        host.states(prompts),
        host.states([""]),
        latents=host.noise([SEED + number for number in range(len(prompts))]),
        steps=STEPS,
        guidance=GUIDANCE,
    )
    return {name: torch.stack(recorder.means) for name, recorder in recorders.items()}


INFERENCE_RULES["casteer"] = Steered
