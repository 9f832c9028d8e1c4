"""Which kind of model a folder holds, or why it cannot be opened.

Reads configs and heads of weight files; opens no model.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from slugdemo.errors import SlugError
from slugdemo.models import checkpoint_files
from slugdemo.models.names import ACTIVATIONS

XL = "StableDiffusionXLPipeline"
PIPELINES = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", XL)
CONDITIONS = {"T5EncoderModel": "T5", "UMT5EncoderModel": "T5"}  # encoders that cannot be edited
MODEL_TYPES = {"clip": "zero-shot", "llava": "vlm"}  # of transformers
PICTURE_KEYS = "model.diffusion_model."  # begin the names in a single-file checkpoint


def kind_of(folder: Path) -> str:
    """The kind of model in a folder, "" for none that can be opened (see `refusal`)."""
    if (folder / "model_index.json").is_file():
        return "diffusion" if not refusal(folder) else ""
    if (folder / "open_clip_config.json").is_file():
        return "zero-shot"
    return MODEL_TYPES.get(checkpoint_files.read(folder / "config.json").get("model_type", ""), "")


def refusal(path: Path) -> str:
    """Why a model's folder or file cannot be opened, in a sentence; "" when it can be or is none."""
    if path.is_file():
        return _single_file(path)
    index = checkpoint_files.read(path / "model_index.json")
    if index:
        return _pipeline_refusal(path, index)
    if (path / "open_clip_config.json").is_file() or not path.is_dir():
        return ""
    config = checkpoint_files.read(path / "config.json")
    kind = config.get("model_type", "")
    if kind == "clip":
        towers = (config.get(f"{tower}_config") or {} for tower in ("text", "vision"))
        acts = [tower.get("hidden_act", "quick_gelu") for tower in towers]
        return activation_refusal(path.name, acts)
    if kind and kind not in MODEL_TYPES:
        return (
            f"{path.name} holds a model of the type {kind}; of transformers' models "
            f"{_listed(MODEL_TYPES)} are supported."
        )
    single = [file for file in sorted(path.glob("*.safetensors")) if not kind]
    return next((why for file in single if (why := _single_file(file))), "")


def activation_refusal(name: str, activations: Iterable[str]) -> str:
    """Why a CLIP with these activations cannot be opened, in a sentence; "" when it can be."""
    others = [activation for activation in activations if activation not in ACTIVATIONS]
    if not others:
        return ""
    return f"{name} computes with the activation {others[0]}; {_listed(ACTIVATIONS)} are supported."


def _listed(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _pipeline_refusal(folder: Path, index: Mapping) -> str:
    name = index.get("_class_name", "")
    if name not in PIPELINES:
        return (
            f"{folder.name} is a pipeline of the class {name or 'that its model_index.json omits'}; "
            f"supported are {_listed(PIPELINES)}.{_encoders(index)}"
        )
    channels = checkpoint_files.read(folder / "unet/config.json").get("in_channels", 4)
    latent = checkpoint_files.read(folder / "vae/config.json").get("latent_channels", 4)
    if channels != latent:
        return (
            f"The U-Net of {folder.name} reads {channels} channels and its VAE makes {latent}: it "
            "is made for inpainting or for another input than a prompt, which is not supported."
        )
    return ""


def _encoders(index: Mapping) -> str:
    """Which text encoders a pipeline of another class has, and which of them SLUG could edit."""
    kinds = {n: kind[1] for n, kind in index.items() if n.startswith("text_encoder") and kind}
    towers = [name for name, kind in kinds.items() if kind and "CLIP" in kind]
    others = [f"{name} ({CONDITIONS[kind]})" for name, kind in kinds.items() if kind in CONDITIONS]
    if not others:
        return ""
    told = f" Its {', '.join(others)} is no tower of a CLIP and cannot be edited"
    return (
        f"{told}; {_listed(towers)} could, but nothing here draws with them."
        if towers
        else f"{told}."
    )


def _single_file(file: Path) -> str:
    if file.suffix == ".ckpt":
        return f"{file.name} is a pickled checkpoint, which can run programs and is not opened."
    if file.suffix != ".safetensors":
        return ""
    try:
        names = checkpoint_files.head(file)
    except SlugError as problem:
        return str(problem)
    if not any(name.startswith(PICTURE_KEYS) for name in names):
        return ""
    kind = XL if any("conditioner." in n for n in names) else PIPELINES[0]
    return (
        f"{file.name} holds a whole model in a single file; make a folder of it once: "
        f'python -c "from diffusers import {kind} as P; '
        f"P.from_single_file('{file}').save_pretrained('{file.with_suffix('')}')\""
    )
