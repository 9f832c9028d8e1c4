"""How layers are called, everywhere the same: in tables, on the page, in sentences. Strings only."""

import re

BLOCK = re.compile(r"(?:(?:text\.)?transformer\.res|trunk\.)blocks\.(\d+)\.(.+)")
MATRICES = {
    "attn.in_proj_weight": "attention q, k, v",
    "attn.out_proj.weight": "attention output",
    "mlp.c_fc.weight": "MLP input",
    "mlp.c_proj.weight": "MLP output",
    "mlp": "MLP",
    "ln_1.weight": "first norm",
    "ln_2.weight": "second norm",
    "norm1.weight": "first norm",  # from here on as timm names them, in SigLIP's vision tower
    "attn.qkv.weight": "attention q, k, v",
    "attn.proj.weight": "attention output",
    "norm2.weight": "second norm",
    "mlp.fc1.weight": "MLP input",
    "mlp.fc2.weight": "MLP output",
}
PLACES = {  # in a block, in the order of a forward pass
    "first norm": 0,
    "attention q, k, v": 1,
    "attention output": 2,
    "second norm": 3,
    "MLP": 4,
    "MLP input": 5,
    "MLP output": 6,
}
OTHERS = {
    "conv1.weight": "patch convolution",
    "proj": "projection",
    "text_projection": "projection",
    "ln_pre.weight": "norm before the blocks",
    "ln_post.weight": "norm after the blocks",
    "ln_final.weight": "norm after the blocks",
    "text.ln_final.weight": "norm after the blocks",
    "text.text_projection.weight": "projection",
    "trunk.patch_embed.proj.weight": "patch convolution",
    "trunk.norm.weight": "norm after the blocks",
    "trunk.attn_pool.q.weight": "pooling query",
    "trunk.attn_pool.kv.weight": "pooling keys and values",
    "trunk.attn_pool.proj.weight": "pooling output",
    "trunk.attn_pool.norm.weight": "pooling norm",
    "trunk.attn_pool.mlp": "pooling MLP",
    "trunk.attn_pool.mlp.fc1.weight": "pooling MLP input",
    "trunk.attn_pool.mlp.fc2.weight": "pooling MLP output",
}
FIRST = ("patch convolution", "norm before the blocks")
TOWERS = {"text": "Text", "vision": "Vision", "text_2": "Second text", "unet": "U-Net"}


def parted(layer: str) -> tuple[str, str]:
    """The part of a model that a layer belongs to, and its name within it.

    Takes part-qualified names and the plain names of open_clip's CLIP.
    """
    part, slash, rest = layer.partition("/")
    if slash:
        return part, rest
    return ("vision", layer[7:]) if layer.startswith("visual.") else ("text", layer)


def short(layer: str) -> str:
    """A layer's name within its tower: "layer 3 attention output", "projection"."""
    _, rest = parted(layer)
    if match := BLOCK.fullmatch(rest):
        return f"layer {match[1]} {MATRICES.get(match[2], match[2])}"
    return OTHERS.get(rest, rest.removesuffix(".weight"))


def label(layer: str) -> str:
    """A layer's name with its tower: "Text layer 3 attention output", "Vision projection"."""
    part, _ = parted(layer)
    return f"{TOWERS.get(part, part)} {short(layer)}"


def kind(layer: str) -> str:
    """What kind of layer it is: a value of `MATRICES`, "norm", "projection" or "patch convolution"."""
    _, rest = parted(layer)
    match = BLOCK.fullmatch(rest)
    name = MATRICES.get(match[2], match[2]) if match else OTHERS.get(rest, rest)
    return "norm" if "norm" in name else name


def depth(layer: str) -> tuple[int, int, int]:
    """Where in its tower it lies, for sorting: before, in or after the blocks; block; place."""
    _, rest = parted(layer)
    if match := BLOCK.fullmatch(rest):
        return 1, int(match[1]), PLACES.get(MATRICES.get(match[2], ""), len(PLACES))
    return (0 if OTHERS.get(rest) in FIRST else 2), 0, 0
