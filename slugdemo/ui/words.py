"""How layers and shares are called on the page; strings only."""

import re

BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)")
PARTS = {
    "attn.in_proj_weight": "attn.qkv",
    "attn.out_proj.weight": "attn.out",
    "mlp.c_fc.weight": "mlp.in",
    "mlp.c_proj.weight": "mlp.out",
    "ln_1.weight": "norm 1",
    "ln_2.weight": "norm 2",
}
REST = {
    "visual.conv1.weight": "patches",
    "visual.proj": "projection",
    "text_projection": "projection",
    "visual.ln_pre.weight": "norm in",
    "visual.ln_post.weight": "norm out",
    "ln_final.weight": "norm out",
}
KINDS = ("attn.qkv", "attn.out", "mlp.in", "mlp.out", "norm", "projection", "patches")


def short(layer: str) -> str:
    """A layer's name within its tower: "3 attn.out", "projection"."""
    name = layer.removeprefix("visual.")
    if match := BLOCK.fullmatch(name):
        return f"{match[1]} {PARTS.get(match[2], match[2])}"
    return REST.get(layer, layer.removesuffix(".weight"))


def kind(layer: str) -> str:
    """What kind of layer it is, one of `KINDS`."""
    name = short(layer)
    if name.endswith(" mlp"):
        return "mlp.in"  # both matrices as a group
    return next((one for one in KINDS if one in name), "projection")


def depth(layer: str) -> tuple[int, int, str]:
    """Where in its tower it lies, for sorting."""
    name = layer.removeprefix("visual.")
    if match := BLOCK.fullmatch(name):
        order = ["ln_1.weight", "attn.in_proj_weight", "attn.out_proj.weight", "ln_2.weight"]
        order += ["mlp.c_fc.weight", "mlp.c_proj.weight"]
        return 1, int(match[1]), str(order.index(match[2]) if match[2] in order else match[2])
    early = any(word in name for word in ("conv1", "ln_pre"))
    return (0 if early else 2), 0, name


def share(value: float) -> str:
    """A share as whole per cent, as "<1 %" where rounding would hide it."""
    if 0 < value < 0.005:
        return "<1 %"
    return f"{value:.0%}".replace("%", " %")


def change(before: float, after: float) -> str:
    """A difference of shares in points, with a true minus sign: "+3", "0"."""
    points = round(100 * (after - before))
    return f"{points:+d}".replace("-", "\u2212") if points else "0"
