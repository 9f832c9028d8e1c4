"""LocoEdit: a closed form in a few neighbouring layers (Basu et al., ICML 2024, arXiv 2405.01008).

Knows a task's text states and a formula; draws nothing.
"""

from collections.abc import Sequence

from slugdemo.closed_form import regression
from slugdemo.edit import Edit
from slugdemo.task import Task
from slugdemo.text_projections import (
    Projection,
    cross_attention,
    guide,
    moved,
    projections,
    tokens,
)

START, LENGTH, RIDGE = 8 / 16, 4 / 16, 10.0


def locoedit(task: Task) -> Edit:
    """W'^T = (X^T X + l I)^-1 (X^T Y W^T + l W^T) for a window of layers in a forward pass:

    X holds the concept's token states and Y the anchor's, (N, D) each.

    Published: layers 8 to 11 of the 16 of Stable Diffusion 1.5, l = .01. Deviations: the same
    share of the layers there are; l = 10, which moves a third as far for the same effect; the
    anchor is the nearest name of the group; also the pooled text embedding, which no window of
    cross-attention reaches.
    """
    pairs = tokens(task, guide(task), many=False)
    chosen = window(projections(task.model))
    return task.edit(
        moved(
            chosen, lambda view: regression(*pairs.seen(view), view(pairs.sources[:0]), ridge=RIDGE)
        )
    )


def window(every: Sequence[Projection]) -> list[Projection]:
    """The projections of the window's layers, and of the pooled embedding if there is one."""
    local = cross_attention(every)
    blocks = list(dict.fromkeys(each.block for each in local))
    first = int(START * len(blocks))
    chosen = blocks[first : first + max(1, round(LENGTH * len(blocks)))]
    return [each for each in every if each.block in chosen or each not in local]
