"""What a U-Net reads of a prompt: its text projections, and the token states to move or to keep.

Knows a task's names, the prompts that hold them and the text states of a diffusion model; knows
no formula. Token states are rows (N, D): the last token of the concept's name and all after it,
end tokens included, since a causal text tower tells them of the concept.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from slugdemo.concept import PLAIN, prompt, style_prompt
from slugdemo.errors import SlugError
from slugdemo.evaluation.prompt_set import spread
from slugdemo.models.diffusion import Diffusion
from slugdemo.task import Task
from slugdemo.weights import Weights

BLOCKS = ("down_blocks", "mid_block", "up_blocks")  # in the order of a forward pass
READS_TEXT = re.compile(r"(unet/(?:.+\.attn2|add_embedding\.pool))\.(?:to_)?(k|v)(?:_proj)?\.weight")
THINGS = 12  # prompts in which a style is looked for
KEPT = 96  # names whose prompts are kept

View = Callable[[Tensor], Tensor]  # text states (..., D) -> what a projection makes of them first


class Projection(NamedTuple):
    """One matrix (O, D) that reads the text: its part-qualified name, role and input.

    `role` is "key" or "value", `block` the module in which one key and one value belong together,
    `view` what is done to the states before they reach it (nothing, but for the pooled embedding).
    """

    name: str
    weight: Tensor
    role: str
    block: str
    view: View


def unchanged(states: Tensor) -> Tensor:
    """The view of a projection that reads the text states as they are."""
    return states


def projections(model: Diffusion) -> list[Projection]:
    """Every matrix of the U-Net that reads the text, in the order of a forward pass.

    These are the keys and values of cross-attention and, where the U-Net also has a pooled text
    embedding (`addition_embed_type="text"` of diffusers), the keys and values of its pooling,
    which come first. Raises SlugError for a U-Net without cross-attention.
    """
    pool = getattr(model.parts["unet"], "add_embedding", None)
    pooled = _normed(pool.norm1) if hasattr(pool, "norm1") else unchanged
    found = []
    for name, weight in model.named().items():
        if match := READS_TEXT.fullmatch(name):
            view = unchanged if ".attn2." in name else pooled
            role = {"k": "key", "v": "value"}[match[2]]
            found.append(Projection(name, weight.detach(), role, match[1], view))
    if not any(cross_attention(found)):
        raise SlugError("This U-Net has no cross-attention in which a text could be edited.")
    return sorted(found, key=_place)


def cross_attention(every: Iterable[Projection]) -> list[Projection]:
    """Those of cross-attention proper: what methods edit that know no pooled text embedding."""
    return [one for one in every if ".attn2" in one.block]


def _place(one: Projection) -> int:
    return next((at for at, block in enumerate(BLOCKS) if f"/{block}" in one.block), -1)


def _normed(norm: nn.Module) -> View:
    def view(states: Tensor) -> Tensor:
        with torch.no_grad():
            return norm(states)

    return view


def by_view(some: Iterable[Projection]) -> list[tuple[View, list[Projection]]]:
    """The projections in groups that read the same."""
    groups: dict[bool, list[Projection]] = {}
    for one in some:
        groups.setdefault(one.view is unchanged, []).append(one)
    return [(group[0].view, group) for group in groups.values()]


def moved(some: Iterable[Projection], move: Callable[[View], Tensor]) -> Weights:
    """The change W M of each projection, by its name, in float32.

    `move` gives M (D, D) for what the projections of a view read; it is asked once for each view.
    """
    delta = {}
    for view, group in by_view(some):
        found = move(view)
        delta |= {one.name: (one.weight.double() @ found).float() for one in group}
    return delta


@dataclass(frozen=True)
class Tokens:
    """Token states of a concept, row by row beside what shall stand in their place: (N, D) each."""

    sources: Tensor
    targets: Tensor


def prompts(task: Task, name: str) -> list[str]:
    """The prompts in which a name of the concept's domain is looked for.

    A thing alone and in every style; a style alone and on things spread over the whole list.
    """
    if task.concept.domain == "style":
        things = spread(task.eval_set.concepts, THINGS)
        return [_styled(name), *(prompt(thing, name) for thing in things)]
    styles = [style for style in task.eval_set.styles if style != PLAIN]
    return [prompt(name), *(prompt(name, style) for style in styles)]


def _styled(style: str) -> str:
    return "a picture" if style == PLAIN else style_prompt(style)


def tokens(
    task: Task, anchor: str, *, name: str = "", many: bool = True, start: str = "last word"
) -> Tokens:
    """The tokens from the concept's last word on, and those of the anchor in the same prompts.

    `name` is the word for the concept, its own name by default; `many` takes all of `prompts`,
    else the plain one. Each prompt's list is cut to the shorter of the two, as in DiffQuickFix.
    With `start` "first token" all tokens before that word come too, each beside its own place.
    """
    model, name = task.model, name or task.concept.name
    old, new = prompts(task, name), prompts(task, anchor)
    if not many:
        old, new = old[:1], new[:1]
    before, after = model.states(old), model.states(new)  # (P, T, D)
    sources, targets = [], []
    starts = last_of(model, old, name), last_of(model, new, anchor)
    for row, (at, to) in enumerate(zip(*starts, strict=True)):
        length = before.shape[1] - max(at, to)
        first = min(at, to) if start == "first token" else 0
        sources += [before[row, :first], before[row, at : at + length]]
        targets += [after[row, :first], after[row, to : to + length]]
    return Tokens(torch.cat(sources), torch.cat(targets))


def last_of(model: Diffusion, texts: Sequence[str], name: str | Sequence[str]) -> list[int]:
    """Where the last token of its name stands in each text; the last before the end where it is not.

    `name` is the name for all texts or one for each.
    """
    names = [name] * len(texts) if isinstance(name, str) else list(name)
    ids = model.tokens([*texts, *names])[0].tolist()
    ends = model.ends([*texts, *names]).tolist()
    found = []
    for at in range(len(texts)):
        row, end = ids[at], ends[at]
        own = ids[len(texts) + at][1 : ends[len(texts) + at]]
        places = [i for i in range(end) if own and row[i : i + len(own)] == own]
        found.append(places[0] + len(own) - 1 if places else max(end - 1, 0))
    return found


def kept(task: Task, *, count: int = KEPT) -> Tensor:
    """Token states (K, D) to keep: of other names, of the other domain and of the empty prompt.

    The names' own tokens from their last word on; of the empty prompt all.
    """
    others = [name for name in task.preserved if name != PLAIN]
    names = spread(others, min(count, len(others)))
    if task.concept.domain == "style":
        texts = [style_prompt(name) for name in names]
        beside = spread(task.eval_set.concepts, count)
        pairs = [*zip(texts, names, strict=True), *((prompt(thing), thing) for thing in beside)]
    else:
        texts = [prompt(name) for name in names]
        beside = [style for style in task.eval_set.styles if style != PLAIN]
        pairs = [*zip(texts, names, strict=True), *((style_prompt(look), look) for look in beside)]
    model = task.model
    states = model.states([text for text, _ in pairs])
    starts = last_of(model, [text for text, _ in pairs], [name for _, name in pairs])
    own = [row[at:] for row, at in zip(states, starts, strict=True)]
    return torch.cat([model.states([""])[0], *own])


def kin(task: Task) -> str:
    """The preserved name whose prompt is most like the concept's, of its own group if it has one.

    Likeness is the cosine of the end tokens' states, less the mean over all names.
    """
    others = [name for name in task.eval_set.neighbours if name in task.preserved]
    others = [name for name in others or task.preserved if name != PLAIN]
    if not others:
        raise SlugError(f"There is no other name that could stand in for {task.concept.name!r}.")
    write = _styled if task.concept.domain == "style" else prompt
    texts = [write(name) for name in (task.concept.name, *others)]
    model = task.model
    states = model.states(texts)[torch.arange(len(texts)), model.ends(texts)]  # (N, D)
    states = torch.nn.functional.normalize(states - states.mean(0), dim=-1)
    return others[int((states[1:] @ states[0]).argmax())]


def guide(task: Task) -> str:
    """What the concept is to become: the task's anchor, else its `kin`."""
    return task.anchor or kin(task)
