"""A CLIP tower as a chain of stages, so that a pass can start in the middle.

Knows open_clip's blocks and nothing of edits or concepts. Three facts save work and change no
answer: causal attention makes everything after a prompt's end token void, so prompts are cut
there; it makes the same of words that many prompts begin with ("a picture of a"), so this is done
once; and a tower reads one token in the end, so its last block need not finish the others.
Towers of other builds are one single stage: just as right, without the savings.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import open_clip
import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

TOWERS = ("vision", "text")


class Begun(NamedTuple):
    """Prompts with a common beginning: its P tokens (1, P) and their own rest (N, S), or the
    activations of these (1, P, W) and (N, S, W)."""

    head: Tensor
    tail: Tensor


@dataclass(frozen=True)
class Stage:
    """One step of a tower: (x, rows) -> x, where `rows` (N,) is the token that is read at last.

    `prefixes` are the beginnings of the names of the tensors that it uses. Text stages before the
    last attention also take, and then yield, a `Begun`.
    """

    prefixes: tuple[str, ...]
    run: Callable[[Any, Tensor], Any]


def chain(model: nn.Module, tower: str) -> list[Stage]:
    """The stages of one tower ("vision" or "text") of an open_clip model, in order.

    Each block is two stages, attention and MLP; the last one yields features (N, D), not yet of
    unit norm. Raises ValueError for another tower.
    """
    if tower not in TOWERS:
        raise ValueError(f"tower {tower!r} is none of {TOWERS}")
    if tower == "vision":
        return _vision(model) if _plain_vision(model) else [_whole(model.encode_image)]
    return _text(model) if _plain_text(model) else [_whole(model.encode_text)]


def prepare(model: nn.Module, tower: str, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """What the chain starts from: pixels (N, 3, H, W) or tokens (N, T), and the rows (N,)."""
    if tower == "vision" or not _plain_text(model):
        return inputs, inputs.new_zeros(len(inputs), dtype=torch.long)
    largest = model.text_pool_type == "argmax"  # the end token has the largest id, or is named
    ends = inputs if largest else (inputs == model.text_eos_id).int()
    rows = ends.argmax(-1)  # the first of equals, as in open_clip
    return inputs[:, : int(rows.max()) + 1], rows


def alike(model: nn.Module, tower: str, rows: Tensor, size: int) -> Iterator[tuple[Tensor, slice]]:
    """At most `size` items at once, prompts of like length together: which, and their tokens.

    The tokens beyond are void for these items, as long as the chain is then run to its end.
    """
    if tower == "vision" or not _plain_text(model):
        for which in torch.arange(len(rows), device=rows.device).split(size):
            yield which, slice(None)
        return
    for which in rows.argsort(stable=True).split(size):
        yield which, slice(int(rows[which].max()) + 1)


def begun(tokens: Tensor, x: Tensor, rows: Tensor) -> Tensor | Begun:
    """`x` of plain prompts with these tokens (N, T) before any stage up to the last attention,
    parted where the prompts part, at the latest before the tokens that are read."""
    same = (tokens == tokens[:1]).all(0)
    shared = min(int(same.cumprod(0).sum()), int(rows.min()))
    return Begun(x[:1, :shared], x[:, shared:]) if shared else x


def advance(stages: Iterable[Stage], x: Tensor | Begun, rows: Tensor) -> Tensor:
    """`x` after all of `stages`; a `Begun` must go to the end."""
    for stage in stages:
        x = stage.run(x, rows)
    return x


def first_reader(stages: Sequence[Stage], names: Iterable[str]) -> int:
    """The index of the first stage that uses one of the tensors; len(stages) when none does."""
    names = tuple(names)
    for index, stage in enumerate(stages):
        if any(name.startswith(stage.prefixes) for name in names):
            return index
    return len(stages)


def _whole(encode: Callable[[Tensor], Tensor]) -> Stage:
    return Stage(("",), lambda x, rows: encode(x))  # noqa: ARG005


def _plain_vision(model: nn.Module) -> bool:
    visual = model.visual
    if not isinstance(visual, VisionTransformer) or visual.attn_pool is not None:
        return False
    return visual.pool_type == "tok" and _plain(visual.transformer)


def _plain_text(model: nn.Module) -> bool:
    if not isinstance(model, open_clip.CLIP) or model.attn_mask is None:
        return False
    return model.text_pool_type in ("argmax", "eos") and _plain(model.transformer)


def _plain(transformer: nn.Module) -> bool:
    blocks = transformer.resblocks
    return transformer.batch_first and all(
        type(block) is ResidualAttentionBlock for block in blocks
    )


def _vision(model: nn.Module) -> list[Stage]:
    visual = model.visual
    stem = Stage(
        (
            "visual.conv1.",
            "visual.class_embedding",
            "visual.positional_embedding",
            "visual.ln_pre.",
        ),
        lambda pixels, rows: visual._embeds(pixels),  # noqa: ARG005
    )

    def head(x: Tensor, rows: Tensor) -> Tensor:  # noqa: ARG001
        pooled = visual.ln_post(x[:, 0])  # (N, 1, W) -> (N, W)
        return pooled if visual.proj is None else pooled @ visual.proj

    blocks = _blocks(visual.transformer, "visual.", None)
    return [stem, *blocks, Stage(("visual.ln_post.", "visual.proj"), head)]


def _text(model: nn.Module) -> list[Stage]:
    def placed(tokens: Tensor, at: int = 0) -> Tensor:
        places = model.positional_embedding[at : at + tokens.shape[1]]
        return model.token_embedding(tokens) + places

    def stem(tokens: Tensor | Begun, rows: Tensor) -> Tensor | Begun:  # noqa: ARG001
        if isinstance(tokens, Begun):
            return Begun(placed(tokens.head), placed(tokens.tail, tokens.head.shape[1]))
        return placed(tokens)

    def head(x: Tensor, rows: Tensor) -> Tensor:  # noqa: ARG001
        pooled, projection = model.ln_final(x[:, 0]), model.text_projection
        if isinstance(projection, nn.Linear):
            return projection(pooled)
        return pooled if projection is None else pooled @ projection

    blocks = _blocks(model.transformer, "", model.attn_mask)
    first = Stage(("token_embedding.", "positional_embedding"), stem)
    return [first, *blocks, Stage(("ln_final.", "text_projection"), head)]


def _blocks(transformer: nn.Module, prefix: str, mask: Tensor | None) -> list[Stage]:
    stages, last = [], len(transformer.resblocks) - 1
    for index, block in enumerate(transformer.resblocks):
        name = f"{prefix}transformer.resblocks.{index}."
        attend = _attend_from_one if index == last else _attend
        parts = tuple(name + part for part in ("ln_1.", "attn.", "ls_1."))
        stages.append(Stage(parts, partial(attend, block, mask)))
        parts = tuple(name + part for part in ("ln_2.", "mlp.", "ls_2."))
        stages.append(Stage(parts, partial(_think, block)))
    return stages


def _attend(block: nn.Module, mask: Tensor | None, x: Any, rows: Tensor) -> Any:  # noqa: ANN401, ARG001
    if isinstance(x, Begun) and mask is not None:
        head, tail = (_parted(block, part) for part in x)
        at, end = x.head.shape[1], x.head.shape[1] + x.tail.shape[1]
        seen = _attended(block, head.queries, head, mask[:at, :at])
        own = _attended(block, tail.queries, _continued(head, tail), mask[at:end, :end])
        return Begun(x.head + block.ls_1(seen), x.tail + block.ls_1(own))
    if mask is not None:
        mask = mask[: x.shape[1], : x.shape[1]]
    return x + block.ls_1(block.attention(block.ln_1(x), attn_mask=mask))  # (N, T, W)


def _attend_from_one(block: nn.Module, mask: Tensor | None, x: Any, rows: Tensor) -> Tensor:  # noqa: ANN401
    """Attention of the last block, for the one token of each item that is read: (N, 1, W)."""
    each = torch.arange(len(rows), device=rows.device)
    if isinstance(x, Begun) and mask is not None:
        head, tail = (_parted(block, part) for part in x)
        at, end = rows - x.head.shape[1], x.head.shape[1] + x.tail.shape[1]
        asking = tail.queries[each, :, at][:, :, None]
        out = _attended(block, asking, _continued(head, tail), mask[rows, :end][:, None, None])
        return x.tail[each, at][:, None] + block.ls_1(out)
    seen = block.ln_1(x)
    if mask is not None:
        mask = mask[rows, : seen.shape[1]].repeat_interleave(block.attn.num_heads, 0)[:, None]
    out = block.attention(seen[each, rows][:, None], seen, seen, attn_mask=mask)
    return x[each, rows][:, None] + block.ls_1(out)


class Parted(NamedTuple):
    """What attention makes of its input, for each head: (N, H, T, W / H) each."""

    queries: Tensor
    keys: Tensor
    values: Tensor


def _parted(block: nn.Module, x: Tensor) -> Parted:
    attn = block.attn
    made = F.linear(block.ln_1(x), attn.in_proj_weight, attn.in_proj_bias).chunk(3, -1)
    return Parted(*(each.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2) for each in made))


def _continued(head: Parted, tail: Parted) -> Parted:
    """Keys and values of whole prompts; those of their common beginning were made once."""
    keys, values = (
        torch.cat((first.expand(len(rest), -1, -1, -1), rest), 2)
        for first, rest in zip(head[1:], tail[1:], strict=True)
    )
    return Parted(tail.queries, keys, values)


def _attended(block: nn.Module, queries: Tensor, x: Parted, mask: Tensor) -> Tensor:
    """What these queries find in the keys and values, through the block's projection: (N, Q, W)."""
    mask = mask.to(queries.dtype)
    out = F.scaled_dot_product_attention(queries, x.keys, x.values, attn_mask=mask)
    return block.attn.out_proj(out.transpose(1, 2).flatten(2))


def _think(block: nn.Module, x: Any, rows: Tensor) -> Any:  # noqa: ANN401
    if isinstance(x, Begun):
        return Begun(*(_think(block, part, rows) for part in x))
    return x + block.ls_2(block.mlp(block.ln_2(x)))  # (N, T, W)
