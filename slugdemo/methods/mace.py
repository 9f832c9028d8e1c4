"""MACE's closed forms: refinement and fusion (Lu et al., CVPR 2024, arXiv 2403.06135).

Knows a task's text states and a formula; draws nothing and trains nothing.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from slugdemo import catalog
from slugdemo.closed_form import regression
from slugdemo.edit import Edit
from slugdemo.task import Task
from slugdemo.text_projections import Tokens, View, guide, kept, moved, projections, tokens

RIDGE, PRESERVE = 10.0, 1.0


def mace(task: Task) -> Edit:
    """The two closed forms of MACE, for the concept's name and each of its synonyms:

    1. refinement: W_i = (l W + sum W c* c^T + p K)(l I + sum c c^T + p K)^-1 over all
       positions of prompts with the word, c* from the same prompts with the anchor instead;
    2. fusion: the W' nearest to each W_i on its own prompts, with the same l and p.

    Published: LoRA layers trained to lower the word's attention come between the two; l is 0 to
    1000 by concept, p K from caches of MS-COCO captions. Deviations: no LoRA, so this is the
    closed form only; l = 10 in both, as for "bird"; the anchor is the nearest name of the group;
    K is made of other names; also the pooled text embedding.
    """
    rest, anchor = kept(task), guide(task)
    words = [task.concept.name, *catalog.other_words(task.concept.name, descriptions=False)]
    several = [tokens(task, anchor, name=word, whole=True) for word in words]

    def move(view: View) -> Tensor:
        return fused([pairs.seen(view) for pairs in several], view(rest))

    return task.edit(moved(projections(task.model), move))


def fused(several: Sequence[Tokens], rest: Tensor) -> Tensor:
    """The move M (D, D) nearest to the refinement of each word on that word's own states."""
    sources = torch.cat([pairs.sources.double() for pairs in several])
    answers = torch.cat([_answers(pairs, rest) for pairs in several])
    return regression(sources, answers, rest, ridge=RIDGE, preserve=PRESERVE)


def _answers(pairs: Tokens, rest: Tensor) -> Tensor:
    """What a word's own refinement reads instead of its states: (N, D)."""
    refined = regression(*pairs, rest, ridge=RIDGE, preserve=PRESERVE)
    return pairs.sources.double() @ (torch.eye(len(refined)).double() + refined).T
