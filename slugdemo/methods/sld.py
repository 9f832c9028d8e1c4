"""SLD: guidance away from a text, elementwise and with momentum (arXiv 2211.05105).

Schramowski, Brack, Deiseroth, Kersting, CVPR 2023, eq. 3 to 8. Changes no weight. Knows a task and
a rule's hooks only.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from slugdemo.edit import Edit
from slugdemo.models.base import INFERENCE_RULES, Moment, Outputs, Rule
from slugdemo.task import Task

# the paper's Hyp-Strong: s_S, lambda, s_m, beta_m and the share of warm-up steps (7 of 50); its
# Hyp-Max (5000, 1, .5, .7, 0) forgets more but ruins the rest in a small model
SCALE, THRESHOLD, MOMENTUM, DECAY, WARMUP = 2000.0, 0.025, 0.5, 0.7, 0.14


def sld(task: Task) -> Edit:
    """The rule with the concept, in the words of a caption, as the text to keep away from."""
    params: dict[str, str | float] = {
        "text": task.concept.words,
        "scale": SCALE,
        "threshold": THRESHOLD,
        "momentum": MOMENTUM,
        "decay": DECAY,
        "warmup": WARMUP,
    }
    return task.edit({}, rule="sld", params=params)


class SafeGuidance(Rule):
    """e - g * strength * gamma, e the noise under guidance g, gamma the guidance to the text.

    gamma = mu (e_concept - e_blank) + s_m nu; mu = min(1, s_S |e_text - e_concept|) where
    e_text - e_concept < lambda, else 0; nu <- beta nu + (1 - beta) gamma. Strength 1 is the
    paper's. Without guidance there is no e_blank, and nothing happens.
    """

    def __init__(self, host: Any, params: Mapping[str, str | float], strength: float) -> None:  # noqa: ANN401
        self._host, self._strength = host, strength
        self._states = host.states([str(params["text"])])
        self._numbers = {key: float(value) for key, value in params.items() if key != "text"}
        self._nu: Tensor | None = None

    def begun(self) -> "SafeGuidance":
        """The rule with a momentum of its own."""
        run = copy.copy(self)
        run._nu = None
        return run

    def combine(self, output: Tensor, seen: Outputs, at: Moment) -> Tensor:
        """The output less the guidance towards the concept."""
        if seen.blank is None:
            return output
        concept = seen.predict(self._states.expand(len(output), -1, -1))
        text, blank, away = (
            self._host.schedule.epsilon(found, seen.latents, at.t)
            for found in (seen.text, seen.blank, concept)
        )
        gamma = self._gamma(text, blank, away)
        if at.step < self._numbers["warmup"] * at.steps:
            return output
        noise = self._host.schedule.epsilon(output, seen.latents, at.t)
        noise = noise - at.guidance * self._strength * gamma
        return self._host.schedule.output(noise, seen.latents, at.t)

    def _gamma(self, text: Tensor, blank: Tensor, concept: Tensor) -> Tensor:
        n = self._numbers
        apart = text - concept
        mu = (n["scale"] * apart.abs()).clamp(max=1)
        mu = torch.where(apart < n["threshold"], mu, torch.zeros_like(mu))
        nu = torch.zeros_like(text) if self._nu is None else self._nu
        gamma = mu * (concept - blank) + n["momentum"] * nu
        self._nu = n["decay"] * nu + (1 - n["decay"]) * gamma
        return gamma


INFERENCE_RULES["sld"] = SafeGuidance
