"""SEOT: the concept's share of a prompt's end tokens is damped (arXiv 2402.05375).

Li, van de Weijer, Hu, Khan, Hou, Wang, Yang, ICLR 2024, soft-weighted regularisation. Changes no
weight. It is told where the concept stands in a prompt: a paraphrase passes, and prompts without
the name are left as they are, so that it keeps the rest by construction. Knows a task and a rule's
hooks only.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from slugdemo.edit import Edit
from slugdemo.models.base import INFERENCE_RULES, Moment, Rule
from slugdemo.task import Task

START = 0.2  # the share of steps before it sets in, as published


def seot(task: Task) -> Edit:
    """The rule for prompts in which the concept is named."""
    return task.edit({}, rule="seot", params={"name": task.concept.name, "start": START})


class SoftWeighted(Rule):
    """In the states of a prompt that names the concept, the strongest shared directions vanish.

    chi stacks the states of the name's tokens and of all tokens from the first end token on; with
    chi = U S V^T its singular values become s * exp(-a s). The strength is the paper's a (there 1),
    which damps the larger ones first.
    """

    def __init__(self, host: Any, params: Mapping[str, str | float], strength: float) -> None:  # noqa: ANN401
        self._host, self._strength = host, strength
        self._name, self._start = str(params["name"]), float(params["start"])
        self._damped: Tensor | None = None

    def begun(self) -> "SoftWeighted":
        """The rule with the damped states of one run."""
        run = copy.copy(self)
        run._damped = None
        return run

    def conditions(self, states: Tensor, blank: Tensor, at: Moment) -> tuple[Tensor, Tensor]:
        """The prompts' states, damped once the first steps are over."""
        if at.ids is None or at.step < self._start * at.steps:
            return states, blank
        if self._damped is None:
            self._damped = self._all(states, at.ids)
        return self._damped, blank

    def _all(self, states: Tensor, ids: Tensor) -> Tensor:
        named = self._host.spots(ids, self._name)  # (N, T)
        places = torch.arange(ids.shape[1], device=ids.device)
        chosen = named | (places >= self._host.ends_of(ids)[:, None])
        result = states.clone()
        for row in named.any(1).nonzero().flatten().tolist():
            result[row, chosen[row]] = damped(states[row, chosen[row]], self._strength)
        return result


def damped(chi: Tensor, strength: float) -> Tensor:
    """chi (n, D) with its singular values s replaced by s * exp(-strength * s)."""
    u, s, v = torch.linalg.svd(chi.float(), full_matrices=False)
    return ((u * (s * torch.exp(-strength * s))) @ v).to(chi.dtype)


INFERENCE_RULES["seot"] = SoftWeighted
