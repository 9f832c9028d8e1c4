"""The names of one CLIP in two formats: open_clip (canonical here) and transformers 5.

Knows names, shapes and configurations; knows nothing of edits, pictures or pipelines.
open_clip keeps q, k and v in one `in_proj` tensor and its projections as (width, D) matrices;
transformers has three tensors and `nn.Linear` projections (D, width). All translations are
linear, so they serve weights, gradients and differences of weights alike.
"""

import re
from collections.abc import Callable

import open_clip
from open_clip.transformer import QuickGELU
from torch import Tensor, cat, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel

from slugdemo.weights import Weights

TEXT = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
    "text_projection": "text_projection.weight",
}
VISION = {
    "visual.class_embedding": "embeddings.class_embedding",
    "visual.conv1.weight": "embeddings.patch_embedding.weight",
    "visual.positional_embedding": "embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "pre_layrnorm.weight",
    "visual.ln_pre.bias": "pre_layrnorm.bias",
    "visual.ln_post.weight": "post_layernorm.weight",
    "visual.ln_post.bias": "post_layernorm.bias",
    "visual.proj": "visual_projection.weight",
}
BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
TRANSPOSED = {"text_projection", "visual.proj"}
TOWERLESS = {"logit_scale", "logit_bias"}
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {  # by transformers' names
    "quick_gelu": QuickGELU,
    "gelu": nn.GELU,
    "gelu_pytorch_tanh": lambda: nn.GELU(approximate="tanh"),
}


def to_hf_text(weights: Weights) -> Weights:
    """The text-tower tensors of `weights` under the names of `CLIPTextModel`.

    Takes canonical names, any part of a CLIP; tensors of the vision tower and the logit scale
    are left out. `text_projection` becomes `text_projection.weight` (D, width), the name it has
    in `CLIPTextModelWithProjection` and `CLIPModel`. The tensors are views, nothing is copied.
    Raises ValueError for a name that no CLIP has.
    """
    return _to_hf({name: weights[name] for name in weights if _tower(name) == "text"}, TEXT)


def to_hf_vision(weights: Weights) -> Weights:
    """The vision-tower tensors of `weights` under the names of `CLIPVisionModel`.

    As `to_hf_text`; `visual.proj` becomes `visual_projection.weight` (D, width).
    """
    return _to_hf({name: weights[name] for name in weights if _tower(name) == "vision"}, VISION)


def from_hf_text(weights: Weights) -> Weights:
    """The canonical names of text-tower tensors named as in `CLIPTextModel`: undoes `to_hf_text`.

    q, k and v are joined into one new `in_proj` tensor; raises ValueError when one is missing.
    """
    return _from_hf(weights, TEXT, "")


def from_hf_vision(weights: Weights) -> Weights:
    """The canonical names of vision-tower tensors named as in `CLIPVisionModel`."""
    return _from_hf(weights, VISION, "visual.")


def text_name(name: str) -> str:
    """The canonical name of what `CLIPTextModel` calls `name`; q, k and v have one in common."""
    return _canonical(name, TEXT, "")


def vision_name(name: str) -> str:
    """The canonical name of what `CLIPVisionModel` calls `name`."""
    return _canonical(name, VISION, "visual.")


def activation(module: nn.Module) -> str:
    """transformers' name of an activation; that of its class where transformers has none."""
    kind = type(module).__name__
    if kind == "QuickGELU":
        return "quick_gelu"
    if kind == "GELUTanh" or getattr(module, "approximate", "none") == "tanh":
        return "gelu_pytorch_tanh"
    return "gelu" if kind in ("GELU", "GELUActivation") else kind


def text_shape(clip_model: open_clip.CLIP) -> dict[str, int | float | str]:
    """What `CLIPTextConfig` says of the blocks of a text tower: sizes, heads, activation, eps.

    Raises ValueError for blocks that transformers' CLIP does not have.
    """
    eps = clip_model.ln_final.eps
    return {**_block_config(clip_model.transformer), "layer_norm_eps": eps}


def vision_shape(clip_model: open_clip.CLIP) -> dict[str, int | float | str]:
    """As `text_shape`, for the vision tower and `CLIPVisionConfig`."""
    visual = clip_model.visual
    return {**_block_config(visual.transformer), "layer_norm_eps": visual.ln_post.eps}


def text_model(clip_model: open_clip.CLIP, *, eos: int | None = None) -> CLIPTextModel:
    """The text tower of an open_clip CLIP as a transformers `CLIPTextModel` with equal features.

    `eos` is the id of the end token, at which transformers pools; by default the tower's own
    `text_eos_id` when it pools there, else the last id of the vocabulary: open_clip's `argmax`
    pooling reads the largest id of a prompt, which is the end token because it is the last.
    The weights are copies. Raises ValueError for a tower that `CLIPTextModel` cannot express.
    """
    if clip_model.attn_mask is None or clip_model.text_pool_type not in ("argmax", "eos"):
        raise ValueError(
            "CLIPTextModel is causal and pools at the end token; this tower has "
            f"mask {clip_model.attn_mask is not None} and pooling {clip_model.text_pool_type!r}"
        )
    last = clip_model.vocab_size - 1
    if eos is None:
        eos = clip_model.text_eos_id if clip_model.text_pool_type == "eos" else last
    tensors = to_hf_text(clip_model.state_dict())
    config = CLIPTextConfig(
        **text_shape(clip_model),
        vocab_size=clip_model.vocab_size,
        max_position_embeddings=clip_model.context_length,
        projection_dim=tensors["text_projection.weight"].shape[0],
        bos_token_id=last - 1,
        eos_token_id=eos,
        pad_token_id=eos,
    )
    return _filled(CLIPTextModel(config), tensors)


def vision_model(clip_model: open_clip.CLIP) -> CLIPVisionModel:
    """The vision tower of an open_clip CLIP as a transformers `CLIPVisionModel`.

    Its `pooler_output` (N, width) is what open_clip multiplies by `visual.proj`. The weights are
    copies. Raises ValueError for a tower that `CLIPVisionModel` cannot express.
    """
    visual = clip_model.visual
    if getattr(visual, "pool_type", None) != "tok":
        raise ValueError(f"CLIPVisionModel pools the class token; this tower is {type(visual)}")
    if len({*visual.image_size}) > 1 or len({*visual.patch_size}) > 1:
        raise ValueError(f"needs squares: image {visual.image_size}, patch {visual.patch_size}")
    tensors = to_hf_vision(clip_model.state_dict())
    config = CLIPVisionConfig(
        **vision_shape(clip_model),
        image_size=visual.image_size[0],
        patch_size=visual.patch_size[0],
        projection_dim=tensors["visual_projection.weight"].shape[0],
    )
    return _filled(CLIPVisionModel(config), tensors)


def _tower(name: str) -> str | None:
    if name in TOWERLESS:
        return None
    return "vision" if name.startswith("visual.") else "text"


def _to_hf(weights: Weights, table: dict[str, str]) -> Weights:
    translated = {}
    for name, tensor in weights.items():
        if name in table:
            translated[table[name]] = tensor.T if name in TRANSPOSED else tensor
        else:
            translated |= _block_to_hf(name, tensor)
    return translated


def _block_to_hf(name: str, tensor: Tensor) -> Weights:
    match = re.fullmatch(r"(?:visual\.)?transformer\.resblocks\.(\d+)\.(.+)[._](weight|bias)", name)
    block, part, kind = match.groups() if match else (None, None, None)
    layer = f"encoder.layers.{block}"
    if part == "attn.in_proj":
        parts = zip("qkv", tensor.chunk(3), strict=True)  # 3 x (width, width) or 3 x (width,)
        return {f"{layer}.self_attn.{letter}_proj.{kind}": third for letter, third in parts}
    if part in BLOCK:
        return {f"{layer}.{BLOCK[part]}.{kind}": tensor}
    raise ValueError(f"{name!r} is not a tensor that both open_clip and transformers have")


def _from_hf(weights: Weights, table: dict[str, str], prefix: str) -> Weights:
    canonical = {}
    for name, tensor in weights.items():
        ours = _canonical(name, table, prefix)
        if ours in TRANSPOSED:
            canonical[ours] = tensor.T
        elif ".attn.in_proj_" not in ours:
            canonical[ours] = tensor
        elif ours not in canonical:
            canonical[ours] = _joined(name, weights)
    return canonical


def _canonical(name: str, table: dict[str, str], prefix: str) -> str:
    back = {theirs: ours for ours, theirs in table.items()}
    return back.get(name) or _block_from_hf(name, prefix)


def _block_from_hf(name: str, prefix: str) -> str:
    match = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
    block, part, kind = match.groups() if match else (None, None, None)
    layer = f"{prefix}transformer.resblocks.{block}"
    if part in {f"self_attn.{letter}_proj" for letter in "qkv"}:
        return f"{layer}.attn.in_proj_{kind}"
    back = {theirs: ours for ours, theirs in BLOCK.items()}
    if part in back:
        return f"{layer}.{back[part]}.{kind}"
    raise ValueError(f"{name!r} is not a tensor that both open_clip and transformers have")


def _joined(name: str, weights: Weights) -> Tensor:
    names = [re.sub(r"[qkv]_proj", f"{letter}_proj", name) for letter in "qkv"]
    if missing := [name for name in names if name not in weights]:
        raise ValueError(f"in_proj needs q, k and v together; {missing} came without {name!r}")
    return cat([weights[name] for name in names])  # (3 width, width) or (3 width,)


def _block_config(transformer: nn.Module) -> dict[str, int | str]:
    block = transformer.resblocks[0]
    name = activation(block.mlp.gelu)
    if name not in ACTIVATIONS:
        raise ValueError(f"activation {block.mlp.gelu} is none of {sorted(ACTIVATIONS)}")
    return {
        "hidden_size": transformer.width,
        "num_hidden_layers": len(transformer.resblocks),
        "num_attention_heads": block.attn.num_heads,
        "intermediate_size": block.mlp.c_fc.out_features,
        "hidden_act": name,
    }


def _filled(model: nn.Module, tensors: Weights) -> nn.Module:
    names = set(model.state_dict())
    if missing := names - set(tensors):
        raise ValueError(f"{type(model).__name__} needs {sorted(missing)}, which the tower lacks")
    dtype = tensors["encoder.layers.0.mlp.fc1.weight"].dtype
    model.to(dtype).load_state_dict({name: tensors[name] for name in names})
    return model.eval()
