"""MACE's closed forms: refinement and fusion (Lu et al., CVPR 2024, arXiv 2403.06135)."""
import torch
from torch import Tensor
from slugdemo import catalog
from slugdemo.closed_form import regression
from slugdemo.edit import Edit
from slugdemo.task import Task
from slugdemo.text_projections import Tokens, View, guide, kept, moved, projections, tokens

RIDGE, FUSION_RIDGE, PRESERVE = 10.0, 10.0, 1.0

def mace(task: Task) -> Edit:
    rest, anchor = kept(task), guide(task)
    names = [task.concept.name, *synonyms(task)]
    several = [tokens(task, anchor, name=name, start="first token") for name in names]

    def move(view: View) -> Tensor:
        seen = [Tokens(view(pairs.sources), view(pairs.targets)) for pairs in several]
        return fused(seen, view(rest))

    return task.edit(moved(projections(task.model), move))

def synonyms(task: Task) -> list[str]:
    for entry in catalog.listing():
        if entry["name"] == task.concept.name:
            return list(entry.get("synonyms", ()))
    return []

def fused(several, rest: Tensor) -> Tensor:
    refined = [regression(p.sources, p.targets, rest, ridge=RIDGE, preserve=PRESERVE) for p in several]
    sources = torch.cat([p.sources.double() for p in several])
    answers = torch.cat([p.sources.double() @ (torch.eye(len(m)).double() + m).T for p, m in zip(several, refined, strict=True)])
    return regression(sources, answers, rest, ridge=FUSION_RIDGE, preserve=PRESERVE)
