"""UCE: unified concept editing (Gandikota et al., WACV 2024, arXiv 2308.14761).

Knows a task's text states and a formula; draws nothing.
"""

from collections.abc import Sequence

from slugdemo.closed_form import regression
from slugdemo.edit import Edit
from slugdemo.task import Task
from slugdemo.text_projections import guide, joined, kept, moved, projections, tokens

RIDGE, ERASE, PRESERVE = 10.0, 1.0, 1.0


def uce(task: Task) -> Edit:
    """W' = (l W + s_e sum W c_g c_e^T + s_p sum W c_p c_p^T) G^-1 for every projection of the text,

    G = l I + s_e sum c_e c_e^T + s_p sum c_p c_p^T: c_e are token states of the concept,
    c_g those of its guide in the same prompts, c_p those of what is kept.

    Published: the last token alone, the guide "" for objects, l = .5, keys and values of
    cross-attention. Deviations: all tokens from the concept's last word on; the guide is the
    nearest name of its group (with "" a style stays); l = 10, as in UnlearnCanvas for objects;
    also the pooled text embedding, where the U-Net has one, without which styles stay.
    """
    return uce_together([task])


def uce_together(tasks: Sequence[Task]) -> Edit:
    """The one solve for the concepts of several tasks: the sums over c_e run over all of them."""
    task = tasks[0]
    pairs, rest = joined([tokens(some, guide(some)) for some in tasks]), kept(task)
    return task.edit(
        moved(
            projections(task.model),
            lambda view: regression(
                *pairs.seen(view), view(rest), ridge=RIDGE, erase=ERASE, preserve=PRESERVE
            ),
        )
    )
