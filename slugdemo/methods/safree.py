"""SAFREE: tokens that carry the concept are projected off its subspace (arXiv 2410.12761).

Yoon, Yu, Patil, Yao, Bansal, ICLR 2025. Changes no weight and no prompt by name: it looks which
tokens bring a prompt near the concept. Knows a task and a rule's hooks only.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from slugdemo.concept import named
from slugdemo.edit import Edit
from slugdemo.models.base import INFERENCE_RULES, Moment, Rule
from slugdemo.task import Task

ALPHA = 0.01  # how much farther than the others a masked prompt must lie, as published
MIDDLE, SLOPE = 3.0, 2.5  # t and k of the self-validation; t is published as 5.333
LONGEST = 1.0  # the largest share of steps with filtered states; 10 of 50 are published


def safree(task: Task) -> Edit:
    """The rule for the subspace that the concept's name and caption span."""
    name = task.concept.name
    texts = [name, named(name), task.concept.words]
    params: dict[str, str | float] = {
        "texts": "\n".join(dict.fromkeys(texts)),
        "alpha": ALPHA,
        "middle": MIDDLE,
        "slope": SLOPE,
        "longest": LONGEST,
    }
    return task.edit({}, rule="safree", params=params)


class Filtered(Rule):
    """e + strength * ((I - P_C) P_I e - e) for a prompt's triggers and end tokens, in early steps.

    P_C projects onto the span of the concept's pooled states, P_I onto that of the prompt's own,
    one for each token left out. A token is a trigger when the prompt without it lies farther from
    P_C than 1 + alpha times the mean of the other distances. With b = 1 - mean cosine between the
    prompt's states and their projections, the first round(longest * steps * sigmoid(2 k (10 b - t)))
    steps read the filtered states (self-validating filtering).

    Deviations: end tokens of a prompt with a trigger are filtered too, as they carry the concept on
    (published: triggers alone, which changes nothing in a small model); t is 3 and longest 1
    (5.333 and 10 of 50 steps, and one step more); latents are not re-weighted by Fourier bands.
    """

    def __init__(self, host: Any, params: Mapping[str, str | float], strength: float) -> None:  # noqa: ANN401
        self._host, self._strength = host, strength
        self._numbers = {key: float(value) for key, value in params.items() if key != "texts"}
        ids = host.tokens(str(params["texts"]).split("\n"))[0]
        self._concept = projection(host.pooled(ids, torch.zeros_like(ids, dtype=torch.bool)))
        self._filtered: tuple[Tensor, Tensor] | None = None  # (N, T, D), (N,)

    def begun(self) -> "Filtered":
        """The rule with the filtered states of one run."""
        run = copy.copy(self)
        run._filtered = None
        return run

    def conditions(self, states: Tensor, blank: Tensor, at: Moment) -> tuple[Tensor, Tensor]:
        """The prompts' states, filtered for as many steps as each prompt needs."""
        if at.ids is None:
            return states, blank
        if self._filtered is None:
            rows = [self._row(row, own) for row, own in zip(states, at.ids, strict=True)]
            shares = torch.tensor([share for _, share in rows], device=states.device)
            self._filtered = torch.stack([found for found, _ in rows]), shares
        found, shares = self._filtered
        still = at.step < (shares * at.steps).round()
        return torch.where(still[:, None, None], found, states), blank

    def _row(self, states: Tensor, ids: Tensor) -> tuple[Tensor, float]:
        """The filtered states (T, D) of one prompt, and for which share of steps they hold."""
        end = int(self._host.ends_of(ids[None]))
        if end < 2:  # the empty prompt
            return states, 0.0
        masked = torch.zeros(end - 1, len(ids), dtype=torch.bool, device=ids.device)
        masked[range(end - 1), range(1, end)] = True
        pooled = self._host.pooled(ids.expand(end - 1, -1), masked).float()  # (n, D)
        triggers = far(pooled, self._concept, self._numbers["alpha"])
        e = states.float()
        projected = e @ projection(pooled) @ (torch.eye(e.shape[1]).to(e) - self._concept)
        b = 1 - torch.cosine_similarity(e[: end + 1], projected[: end + 1]).mean()
        n = self._numbers
        share = n["longest"] * torch.sigmoid(2 * n["slope"] * (10 * b - n["middle"]))
        chosen = torch.arange(len(ids), device=ids.device) >= end  # what sums the prompt up
        chosen[1:end] = triggers
        found = torch.where(chosen[:, None], e + self._strength * (projected - e), e)
        return (found.to(states.dtype) if triggers.any() else states), float(share)


def projection(rows: Tensor) -> Tensor:
    """The orthogonal projection (D, D) onto the span of rows (n, D)."""
    return torch.linalg.pinv(rows.float()) @ rows.float()


def far(pooled: Tensor, concept: Tensor, alpha: float) -> Tensor:
    """Which of the masked prompts (n, D) lie far from a subspace, (1 + alpha) x the others' mean."""
    away = (pooled - pooled @ concept).norm(dim=1)
    count = len(away)
    if count < 2:
        return torch.ones(count, dtype=torch.bool, device=away.device)
    others = (away.sum() - away) / (count - 1)
    return away >= (1 + alpha) * others


INFERENCE_RULES["safree"] = Filtered
