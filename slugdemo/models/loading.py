"""A model in memory: the host itself, and the CLIP that its gradients are taken of.

A Stable Diffusion or LLaVA folder carries one tower of some CLIP; the CLIP is found by comparing
towers, never by trusting a name. Knows loaders and towers; knows nothing of concepts or steps.
"""

import os
import shutil
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import constants, snapshot_download
from transformers import (
    AutoTokenizer,
    CLIPImageProcessor,
    CLIPModel,
)

from slugdemo import catalog, cost
from slugdemo import limits as public
from slugdemo.catalog import Model
from slugdemo.edit import Edit, apply, clip_name, qualified, same_model
from slugdemo.errors import SlugError
from slugdemo.models import checkpoint_files, folder_kinds, zerogpu
from slugdemo.models.base import building
from slugdemo.models.carried import Carried, exported_from
from slugdemo.models.clip import Clip
from slugdemo.models.diffusion import Diffusion
from slugdemo.models.llava import Llava
from slugdemo.models.sdxl import DiffusionXL

SPARE = 1.25  # memory for what is made of the weights, as a multiple of theirs
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# the published CLIP whose tower this is, by kind of host and width of the tower
CARRIED = {
    ("diffusion", 768): "ViT-L-14/openai",
    ("diffusion", 1024): "ViT-H-14/laion2b_s32b_b79k",
    ("diffusion", 1280): "ViT-bigG-14/laion2b_s39b_b160k",
    ("vlm", 1024): "ViT-L-14-336/openai",
}
FILES = ["*.json", "*.txt", "*.model", "*.jinja", "*model*.safetensors"]
NOT_FILES = ["*fp16*", "*non_ema*", "safety_checker/*.safetensors", "v1-5*", "v2-1*"]


Part = TypeVar("Part")


class TooLarge(SlugError):
    """The model does not fit into the memory that is free now."""


@dataclass(eq=False)
class Opened:
    """A model to work with; its parts are read from disk when they are first needed.

    `mixed`: a Stable Diffusion in float32 makes its pictures with products in bfloat16.
    `kept` holds what was made of it for one concept and serves the next ones too.
    """

    model: Model
    device: str = "cpu"
    dtype: str = field(default_factory=lambda: chosen())
    download: bool = False
    mixed: bool = False
    kept: dict[Hashable, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """ "zero-shot", "diffusion" or "vlm"."""
        return self.model.kind

    @cached_property
    def host(self) -> Any:  # noqa: ANN401
        """The model itself, a Diffusion or a Llava, or what lends it a GPU.

        Raises ValueError for a CLIP, which needs pictures to be a host; SlugError when its files
        are not whole; TooLarge when it does not fit.
        """
        if self.kind == "zero-shot":
            raise ValueError(f"{self.model.name} is a CLIP: hosts.zero_shot.ZeroShot makes a host")
        return zerogpu.lent(self.model.name, self._plain)

    @cached_property
    def _plain(self) -> Diffusion | Llava:
        check_room(self.model, self.device, self.dtype)
        folder = self.model.folder or _fetched(self.model)
        checkpoint_files.check(folder)
        dtype = DTYPES[self.dtype]
        with building(), checkpoint_files.standard(folder) as whole:
            if self.kind == "vlm":
                return Llava.from_folder(whole, device=self.device, dtype=dtype)
            kind = _pipeline_class(folder)
            return kind.from_folder(whole, device=self.device, dtype=dtype, mixed=self.mixed)

    @cached_property
    def clip(self) -> Clip:
        """The CLIP that gradients are taken of: the model itself, or the one that it carries.

        Raises SlugError when no CLIP can be found whose tower is the host's, or its files are not
        whole; TooLarge when it does not fit.
        """
        if self.kind == "zero-shot":
            check_room(self.model, self.device)
            return _on(_clip(self.model), self.device)
        return self._found(Carried.of(self._plain))

    @cached_property
    def digest(self) -> str:
        """The identity of its weights in results: that of its CLIP, and of its U-Net."""
        unet = f" {self.host.unet_digest[:16]}" if self.kind == "diffusion" else ""
        return f"{self.clip.digest[:16]}{unet}"

    def edited(self, edits: Sequence[Edit]) -> "Opened":
        """The same model with edits in it, as a model to work with; this one stays as it is."""
        twin = replace(self, kept={})
        weights = {qualified(name): tensor for name, tensor in self.clip.named().items()}
        moved = apply(weights, edits)
        twin.clip = self.clip.edited({clip_name(name): t for name, t in moved.items()})
        if self.kind != "zero-shot":
            twin.host = self.host.edited(edits)
        return twin

    @cached_property
    def clip_2(self) -> Clip | None:
        """The CLIP of a second text tower; None for models with one. Raises as `clip` does."""
        if self.kind != "diffusion" or not isinstance(self._plain, DiffusionXL):
            return None
        return self._found(Carried.second(self._plain))

    def _found(self, carried: Carried) -> Clip:
        here = [model for model in catalog.local() if model.kind == "zero-shot"]
        alike = [model for model in here if _width(model.folder, self.kind) == carried.width]
        root, differences, tried = exported_from(self.model.folder), {}, ""
        for name, clip in self._offered(alike, carried):
            if isinstance(clip, SlugError) and any(model.name == name for model in alike):
                differences[name] = f"cannot be compared ({str(clip).removesuffix('.')})"
                continue
            if isinstance(clip, SlugError):
                tried = f" {clip}"
                continue
            differences[name] = carried.differs(clip)
            if not differences[name]:
                return _on(clip, self.device)
            if same_model(root, clip.digest) and not carried.shaped_unlike(clip):
                grafted = clip.edited(carried.canonical())
                return _on(replace(grafted, name=self.model.name), self.device)
        if root and not tried:
            tried = (
                " It holds edits that were made for the CLIP with the weights "
                f"{root[:12]}, which is not here: put its folder into the folder that "
                "SLUGDEMO_MODELS names, and this one can be edited again."
            )
        raise SlugError(_no_clip(self.model.name, differences, tried))

    def _offered(
        self, alike: Sequence[Model], carried: Carried
    ) -> Iterator[tuple[str, Clip | SlugError]]:
        """The CLIPs whose tower it may be, here and then at the hub; or why one cannot be had."""
        for model in alike:
            try:
                yield model.name, _clip(model)
            except SlugError as problem:
                yield model.name, problem
        if name := CARRIED.get((self.kind, carried.width)):
            try:
                yield name, opened(name, download=self.download).clip
            except SlugError as problem:
                yield name, problem


def _pipeline_class(folder: Path) -> type[Diffusion]:
    pipeline = checkpoint_files.read(folder / "model_index.json").get("_class_name")
    return DiffusionXL if pipeline == folder_kinds.XL else Diffusion


def _no_clip(name: str, differences: Mapping[str, str], tried: str) -> str:
    """Why no CLIP was found whose tower a model carries, in a sentence or some."""
    told = "; ".join(f"that of {other} {why}" for other, why in differences.items())
    began = f"No CLIP here has the tower that {name} carries{': ' if told else ''}{told}."
    if tried:
        return began + tried
    if not told:
        return (
            f"{began} Put the open_clip folder it comes from into the folder that SLUGDEMO_MODELS "
            "names."
        )
    return (
        f"{began} Gradients need both towers of one CLIP, so a tower that was trained further by "
        "itself has none: use the model that it was trained from, or put the CLIP with this tower "
        "into the folder that SLUGDEMO_MODELS names."
    )


def opened(name: str, *, device: str = "cpu", dtype: str = "", download: bool = False) -> Opened:
    """The model of this name, ready to be read; its host in `dtype`, its CLIP in float32.

    Without a `dtype` SLUGDEMO_DTYPE counts, else float32, and then pictures are made with products
    in bfloat16 on a CPU that is made for them. Raises SlugError for an unknown name or
    type, on a public server for a model that is not listed, and for one that must be fetched
    first when `download` is not asked for: the message tells size, time and memory.
    """
    free = not (dtype or os.environ.get("SLUGDEMO_DTYPE")) and device == "cpu"
    dtype = chosen(dtype)
    if public.limits() and name not in {model.name for model in catalog.local()}:
        raise SlugError("This server offers the models on its list, and opens no others.")
    model = catalog.find(name)
    if model.place == "hub" and not download:
        size = (
            f"At the hub it has about {model.bytes / 1e9:.1f} GB ({model.minutes:.0f} minutes at "
            f"100 Mbit/s), and it takes {needed(model, dtype)} of memory"
        )
        raise SlugError(
            f"{name} is not on this machine. {size if model.bytes else 'Its size is not known'}: "
            "allow the download, or put its folder into the folder that SLUGDEMO_MODELS names."
        )
    return Opened(model, device, dtype, download, free and cost.multiplies_bfloat16())


def chosen(dtype: str = "") -> str:
    """The type of a host's numbers: the one given, that of SLUGDEMO_DTYPE, or float32."""
    dtype = dtype or os.environ.get("SLUGDEMO_DTYPE", "float32")
    if dtype not in DTYPES:
        raise SlugError(f"SLUGDEMO_DTYPE is one of {', '.join(DTYPES)}, not {dtype!r}.")
    return dtype


def needed(model: Model, dtype: str = "float32") -> str:
    """The memory that a model takes, in words. Raises SlugError when its folder is not whole."""
    return f"{_need(model, dtype) / 1e9:.1f} GB"


def _need(model: Model, dtype: str) -> float:
    return SPARE * catalog.memory(model, each=DTYPES[dtype].itemsize)


def check_room(model: Model, device: str = "cpu", dtype: str = "float32") -> None:
    """Raises TooLarge unless the model fits into the memory that is free on the device.

    Raises SlugError when its files are not whole, or the disk has no room for fetching it.
    """
    need, free = _need(model, dtype), cost.available(device)
    if need > free:
        raise TooLarge(
            f"{model.name} takes {needed(model, dtype)} of memory in {dtype}, and "
            f"{free / 1e9:.1f} GB are free on {device}: end other programs, choose a smaller "
            "model, or set SLUGDEMO_DTYPE to bfloat16."
        )
    if model.place == "hub" and model.bytes > (room := _disk()):
        raise SlugError(
            f"{model.name} has {model.bytes / 1e9:.1f} GB, and the disk of the hub's cache has "
            f"{room / 1e9:.1f} GB left: make room, or let HF_HOME name another place."
        )


def _disk() -> int:
    """The bytes that are left where the hub's library keeps its files."""
    place = Path(constants.HF_HUB_CACHE)
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def fitting(make: Callable[[], Part], drop: Callable[[], bool]) -> Part:
    """What `make` makes; as often as that is too large, `drop` lets go of something first.

    `drop` says whether there was anything left to let go of.
    """
    while True:
        try:
            return make()
        except TooLarge:
            if not drop():
                raise


def _fetched(model: Model) -> Path:
    try:
        return Path(snapshot_download(model.hub, allow_patterns=FILES, ignore_patterns=NOT_FILES))
    except Exception as error:  # no network, no access, no disk: many kinds by many libraries
        said = str(error).strip().split("\n")[0]
        raise SlugError(
            f"{model.name} could not be fetched from the hub: {said} What has arrived is kept: try "
            "again later, and it goes on from there."
        ) from error


@building()
def _clip(model: Model) -> Clip:
    if model.folder is None:
        name, tag = model.name.split("/", 1)
        return replace(Clip.from_name(name, pretrained=tag), name=model.name)
    checkpoint_files.check(model.folder)
    if (model.folder / "open_clip_config.json").is_file():
        return replace(Clip.from_folder(model.folder), name=model.name)
    local = {"local_files_only": True}
    try:
        with checkpoint_files.standard(model.folder) as whole:
            clip = CLIPModel.from_pretrained(whole, use_safetensors=True, **local)
        tokenizer = AutoTokenizer.from_pretrained(model.folder, **local)
        processor = CLIPImageProcessor.from_pretrained(model.folder, **local)
    except Exception as error:  # many kinds, by many libraries
        raise SlugError(f"{model.folder} is not a whole CLIP folder: {error}") from error
    if len(tokenizer) > clip.config.text_config.vocab_size:
        raise SlugError(
            f"The tokenizer in {model.folder} has {len(tokenizer)} tokens and the model "
            f"{clip.config.text_config.vocab_size}: it is another model's."
        )
    return Clip.from_hf(clip, tokenizer, processor, name=model.name)


def _on(clip: Clip, device: str) -> Clip:
    return clip if device == "cpu" else replace(clip, model=clip.model.to(device))


def _width(folder: Path | None, kind: str) -> int:
    """The width of the tower in a CLIP folder that a host of this kind would carry."""
    side = "text" if kind == "diffusion" else "vision"
    if folder is None:
        return 0
    ours = (
        catalog.config(folder, "open_clip_config.json").get("model_cfg", {}).get(f"{side}_cfg", {})
    )
    return ours.get("width") or catalog.config(folder).get(f"{side}_config", {}).get(
        "hidden_size", 0
    )
