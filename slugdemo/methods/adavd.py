"""AdaVD: values in cross-attention without their part along the concept's (arXiv 2412.06143).

Wang, Li, Li, Guo, Liu, Zhang, CVPR 2025. Changes no weight. Knows a task and a rule's hooks only.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from slugdemo.edit import Edit
from slugdemo.models.base import INFERENCE_RULES, Moment, Rule
from slugdemo.task import Task
from slugdemo.weights import replaced


def adavd(task: Task) -> Edit:
    """The rule for the value of the concept's last token."""
    params = {"text": task.concept.words, "name": task.concept.name}
    return task.edit({}, rule="adavd", params=params)


class Decomposed(Rule):
    """V - strength * (V . v / v . v) v for every token but the first, wherever the U-Net reads text.

    v is the value of the concept's last token in its caption. Only the half of the batch that
    reads the prompts is changed. Strength 1 is the paper's without its optional gate.

    Deviations: the paper's code joins both halves and all heads into one vector before the dot
    product, this does not; U-Nets that also pool the text into their time embedding (pocket-sd)
    are changed there too, without which styles survive.
    """

    def __init__(self, host: Any, params: Mapping[str, str | float], strength: float) -> None:  # noqa: ANN401
        text = [str(params["text"])]
        named = host.spots(host.tokens(text)[0], str(params["name"]))[0].nonzero()
        last = int(named[-1]) if len(named) else int(host.ends(text)) - 1
        self._state = host.states(text)[0, last]
        self._strength = strength

    def unet(self, unet: nn.Module, at: Moment) -> nn.Module:
        """A twin that reads values off the concept's."""
        states = {
            f"{name}.to_v": self._state
            for name, _ in unet.named_modules()
            if name.endswith("attn2")
        }
        if unet.config.addition_embed_type == "text":  # pocket-sd reads the prompt here as well
            states["add_embedding.pool.v_proj"] = unet.add_embedding.norm1(self._state)
        values = {
            name: Values(unet.get_submodule(name), state, self._strength, at.guided)
            for name, state in states.items()
        }
        return replaced(unet, values)


class Values(nn.Module):
    """The values (N, T, C) of a cross-attention without their part along that of one state."""

    def __init__(self, value: nn.Module, state: Tensor, strength: float, guided: bool) -> None:
        super().__init__()
        self._value, self._state = value, state
        self._strength, self._guided = strength, guided

    def forward(self, states: Tensor) -> Tensor:
        """The values of states (N, T, D); the first half of a guided batch stays as it is."""
        values = self._value(states)
        first = len(values) // 2 if self._guided else 0
        along = self._value(self._state)  # (C,)
        shares = values[first:, 1:] @ along / (along @ along)
        kept = values.clone()
        kept[first:, 1:] -= self._strength * shares[..., None] * along
        return kept


INFERENCE_RULES["adavd"] = Decomposed
