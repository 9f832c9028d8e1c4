"""DiffQuickFix: a closed form in one text layer (Basu et al., ICLR 2024, arXiv 2310.13730).

Knows a task and the first block of CLIP's text tower; draws nothing.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from slugdemo.closed_form import regression
from slugdemo.edit import Edit, of_part
from slugdemo.task import Task
from slugdemo.text_projections import guide, tokens
from slugdemo.weights import Weights

BLOCK = "transformer.resblocks.0."
LAYER = f"{BLOCK}attn.out_proj.weight"
RIDGE = 1.0


def diffquickfix(task: Task) -> Edit:
    """W' = (l W + sum v k^T)(l I + sum k k^T)^-1 for the output matrix W of the first attention:

    k are its inputs at the concept's last word and at all tokens after it, v = W k' with the
    anchor's inputs k' at the matching places (without the bias, which is added anyway).

    Published: 4 templates, l = .01. Deviations: our prompts; the anchor is the nearest name of
    the group; l = 1, since with .01 other names go as well on pocket-sd.
    """
    model = task.model
    text = of_part(model.named(), "text")
    heads = model.parts["text"].config.num_attention_heads

    def read(prompts: Sequence[str]) -> Tensor:
        return attended(text, model.tokens(prompts)[0], heads=heads)

    pairs = tokens(task, guide(task), read=read)
    move = regression(*pairs, pairs.sources[:0], ridge=RIDGE)
    return task.edit({f"text/{LAYER}": (text[LAYER].detach().double() @ move).float()})


@torch.no_grad()
def attended(text: Weights, ids: Tensor, *, heads: int) -> Tensor:
    """What the first attention of a text tower gives to its output matrix: (N, T, W).

    `text` holds the tower's tensors as open_clip names them, `ids` are token ids (N, T).
    """
    x = text["token_embedding.weight"][ids] + text["positional_embedding"][: ids.shape[1]]
    norm = [text[f"{BLOCK}ln_1.{kind}"] for kind in ("weight", "bias")]
    x = F.layer_norm(x, x.shape[-1:], *norm)
    joined = F.linear(x, text[f"{BLOCK}attn.in_proj_weight"], text[f"{BLOCK}attn.in_proj_bias"])
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in joined.chunk(3, -1))
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # (N, heads, T, W / heads)
    return mixed.transpose(1, 2).flatten(2)
