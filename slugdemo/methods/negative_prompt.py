"""Negative prompt: guidance away from the concept's name instead of from the empty prompt.

What users of Stable Diffusion try first; no paper. Changes no weight. Knows a task and a rule's
hooks only.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from slugdemo.edit import Edit
from slugdemo.models.base import INFERENCE_RULES, Moment, Outputs, Rule
from slugdemo.task import Task

NAME = "negative prompt"


def negative_prompt(task: Task) -> Edit:
    """The rule with the concept as its negative prompt, in the words of a caption."""
    return task.edit({}, rule=NAME, params={"text": task.concept.words})


class NegativePrompt(Rule):
    """e + (1 - g) * strength * (e_negative - e_blank), e the output under guidance g.

    At strength 1 this is g e_text + (1 - g) e_negative, the negative prompt of diffusers; other
    strengths go straight on, and rules of several concepts add up. Without guidance (g <= 1) there
    is no empty prompt to replace, and nothing happens.
    """

    def __init__(self, host: Any, params: Mapping[str, str | float], strength: float) -> None:  # noqa: ANN401
        self._states = host.states([str(params["text"])])
        self._strength = strength

    def combine(self, output: Tensor, seen: Outputs, at: Moment) -> Tensor:
        """The output with the negative prompt in place of the empty one."""
        if seen.blank is None:
            return output
        negative = seen.predict(self._states.expand(len(output), -1, -1))
        return output + (1 - at.guidance) * self._strength * (negative - seen.blank)


INFERENCE_RULES[NAME] = NegativePrompt
