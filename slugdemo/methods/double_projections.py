"""Double projections: erase towards what is kept, in its null space (arXiv 2604.10032, CVPR 2026)."""
import torch
from torch import Tensor
from slugdemo.closed_form import projector, span
from slugdemo.edit import Edit
from slugdemo.task import Task
from slugdemo.text_projections import guide, kept, moved, projections, tokens

SHARE = 0.99

def double_projections(task: Task) -> Edit:
    pairs, rest = tokens(task, guide(task), many=MANY), kept(task)
    return task.edit(
        moved(
            projections(task.model),
            lambda view: move(view(pairs.sources), view(pairs.targets), view(rest)),
        )
    )

def move(concept: Tensor, anchors: Tensor, preserved: Tensor) -> Tensor:
    c = concept.double()
    goal = c @ projector(span(anchors, share=SS))  # c* = S (S^T S)^+ S^T c
    beyond = torch.eye(c.shape[1]).double() - projector(span(preserved, share=SHARE))
    x = c @ beyond
    return (goal - c).T @ torch.linalg.pinv(x, rtol=RTOL).T @ beyond
RTOL=.1
MANY=False
SS=1.0
