"""What a U-Net reads of a prompt: its text projections, and the token states to move or to keep.

Knows a task's names, the prompts that hold them and the states of a diffusion model's text tower;
knows no formula. Token states are rows (N, D).
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slugdemo.concept import PLAIN, prompt, style_prompt
from slugdemo.errors import SlugError
from slugdemo.evaluation.prompt_set import spread
from slugdemo.models.diffusion import Diffusion
from slugdemo.task import Task
from slugdemo.weights import Weights

BLOCKS = ("down_blocks", "mid_block", "up_blocks")  # in the order of a forward pass
READS_TEXT = re.compile(
    r"(unet/(?:.+\.attn2|add_embedding\.pool))\.(?:to_)?(k|v)(?:_proj)?\.weight"
)
ROLES = {"k": "key", "v": "value"}
THINGS = 12  # prompts of things in which a style is looked for
KEPT = 96  # names of each domain whose prompts are kept, at most

View = Callable[[Tensor], Tensor]  # text states (..., D) -> what a projection reads of them


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


class Tokens(NamedTuple):
    """Token states of a concept, row by row beside what shall stand in their place: (N, D) each."""

    sources: Tensor
    targets: Tensor

    def seen(self, view: View) -> "Tokens":
        """Both as projections of this view read them."""
        return Tokens(view(self.sources), view(self.targets))


# ---- projections


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
    pooled = _normed(pool.norm1) if pool is not None and hasattr(pool, "norm1") else unchanged
    found = []
    for name, weight in model.named().items():
        if match := READS_TEXT.fullmatch(name):
            view = unchanged if ".attn2." in name else pooled
            found.append(Projection(name, weight.detach(), ROLES[match[2]], match[1], view))
    if not cross_attention(found):
        raise SlugError("This U-Net has no cross-attention in which a text could be edited.")
    return sorted(found, key=_place)


def cross_attention(every: Iterable[Projection]) -> list[Projection]:
    """Those of cross-attention proper: what methods edit that know no pooled text embedding."""
    return [found for found in every if found.block.endswith(".attn2")]


def _place(projection: Projection) -> int:
    return next((at for at, block in enumerate(BLOCKS) if f"/{block}" in projection.block), -1)


def _normed(norm: nn.Module) -> View:
    def view(states: Tensor) -> Tensor:
        with torch.no_grad():
            return norm(states)

    return view


def by_view(some: Iterable[Projection]) -> list[tuple[View, list[Projection]]]:
    """The projections in groups that read the same."""
    groups: dict[bool, list[Projection]] = {}
    for projection in some:
        groups.setdefault(projection.view is unchanged, []).append(projection)
    return [(group[0].view, group) for group in groups.values()]


def moved(some: Iterable[Projection], move: Callable[[View], Tensor]) -> Weights:
    """The change W M of each projection, by its name, in float32.

    `move` gives M (D, D) for what the projections of a view read; it is asked once for each view.
    """
    delta: dict[str, Tensor] = {}
    for view, group in by_view(some):
        found = move(view)
        delta |= {each.name: (each.weight.double() @ found).float() for each in group}
    return delta


# ---- prompts and token states


def guide(task: Task) -> str:
    """What the concept is to become: the task's anchor, else its `kin`."""
    return task.anchor or kin(task)


def kin(task: Task) -> str:
    """The preserved name whose prompt is most like the concept's, of its own group if it has one.

    Likeness is the cosine of the end tokens' states, less their mean over all names. Raises
    SlugError when there is no other name.
    """
    others = [name for name in task.eval_set.neighbours if name in task.preserved]
    others = [name for name in others or task.preserved if name != PLAIN]
    if not others:
        raise SlugError(f"There is no other name that could stand in for {task.concept.name!r}.")
    texts = [prompts(task, name)[0] for name in (task.concept.name, *others)]
    rows = torch.arange(len(texts))
    states = task.model.states(texts)[rows, task.model.ends(texts)]  # (N, D)
    states = F.normalize(states - states.mean(0), dim=-1)
    return others[int((states[1:] @ states[0]).argmax())]


def prompts(task: Task, name: str) -> list[str]:
    """The prompts in which a name of the concept's domain is looked for, the plain one first.

    A thing alone and in every style; a style alone and on things spread over the whole list.
    """
    if task.concept.domain == "style":
        alone = "a picture" if name == PLAIN else style_prompt(name)
        return [alone, *(prompt(thing, name) for thing in spread(task.eval_set.concepts, THINGS))]
    return [prompt(name), *(prompt(name, look) for look in _looks(task))]


def _looks(task: Task) -> list[str]:
    return [style for style in task.eval_set.styles if style != PLAIN]


def tokens(
    task: Task,
    anchor: str,
    *,
    name: str = "",
    many: bool = True,
    whole: bool = False,
    read: Callable[[Sequence[str]], Tensor] | None = None,
) -> Tokens:
    """The tokens from the concept's last word on, and those of the anchor in the same prompts.

    A causal text tower tells all these tokens of the concept, the end tokens included; the lists
    of each prompt are cut to the shorter, as in DiffQuickFix. `name` is the word for the concept,
    its own name by default; `many` takes all of `prompts`, else the plain one; `whole` adds the
    tokens before the word, each beside its own place; `read` gives the states (P, T, D) of
    prompts, those that the U-Net reads by default.
    """
    name, read = name or task.concept.name, read or task.model.states
    old, new = (prompts(task, word)[: None if many else 1] for word in (name, anchor))
    before, after = read(old), read(new)  # (P, T, D)
    starts = last_of(task.model, old, name), last_of(task.model, new, anchor)
    sources, targets = [], []
    for row, (at, to) in enumerate(zip(*starts, strict=True)):
        first = min(at, to) if whole else 0
        length = before.shape[1] - max(at, to)
        sources += [before[row, :first], before[row, at : at + length]]
        targets += [after[row, :first], after[row, to : to + length]]
    return Tokens(torch.cat(sources), torch.cat(targets))


def joined(several: Sequence[Tokens]) -> Tokens:
    """The tokens of several concepts, for one solve."""
    return Tokens(*(torch.cat(rows) for rows in zip(*several, strict=True)))


def last_of(model: Diffusion, texts: Sequence[str], name: str | Sequence[str]) -> list[int]:
    """Where the last token of a name stands in each text; the last before the end where it is not.

    `name` is the name for all texts or one for each.
    """
    words = [name] * len(texts) if isinstance(name, str) else list(name)
    ids = model.tokens([*texts, *words])[0].tolist()
    ends = model.ends([*texts, *words]).tolist()
    found = []
    for row, end, word, size in zip(
        ids, ends[: len(texts)], ids[len(texts) :], ends[len(texts) :], strict=False
    ):
        own = word[1:size]
        places = [at for at in range(end) if own and row[at : at + len(own)] == own]
        found.append(places[0] + len(own) - 1 if places else max(end - 1, 0))
    return found


def kept(task: Task) -> Tensor:
    """Token states (K, D) to keep: of other names, of the other domain and of the empty prompt.

    Each name's tokens in its plain prompt, from its last word on; all of the empty prompt.
    """
    others = [name for name in task.preserved if name != PLAIN]
    names = spread(others, min(KEPT, len(others)))
    texts = [prompts(task, name)[0] for name in names]
    if task.concept.domain == "style":
        beside = spread(task.eval_set.concepts, min(KEPT, len(task.eval_set.concepts)))
        texts += [prompt(thing) for thing in beside]
    else:
        beside = _looks(task)
        texts += [style_prompt(look) for look in beside]
    starts = last_of(task.model, texts, [*names, *beside])
    states = task.model.states(["", *texts])
    own = [row[at:] for row, at in zip(states[1:], starts, strict=True)]
    return torch.cat([states[0], *own])
