"""An edited model as a folder of its own format, for libraries that know nothing of us.

Works on files, not on models: the weight files that hold an edited tensor are rewritten with their
own names and types, everything else is copied byte by byte, and other copies of the unedited
weights (pickles, single-file checkpoints) stay behind. Knows nothing of hosts or pictures.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from slugdemo.edit import Edit, apply, part_of, within
from slugdemo.errors import SlugError
from slugdemo.models.carried import NOTE
from slugdemo.models.names import to_hf_text, to_hf_vision
from slugdemo.weights import Weights

WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".h5", ".onnx", ".gguf"}


@dataclass(frozen=True)
class Place:
    """Where a kind of folder keeps one part of a model, and under which names.

    `files` are patterns of the files that its library reads, the first that is there counts;
    `own` turns the names within the part into the folder's, and `prefix` is what may stand before
    those.
    """

    part: str
    folder: str
    files: tuple[str, ...]
    own: Callable[[Weights], Weights]
    prefix: str = ""


@dataclass(frozen=True)
class Format:
    """A kind of folder: the places of the parts that can be edited in it."""

    name: str
    places: tuple[Place, ...]

    @property
    def folders(self) -> set[str]:
        """The folders within that hold these parts; "" is the folder itself."""
        return {place.folder for place in self.places}


def _vision(weights: Weights) -> Weights:
    return {f"visual.{name}": tensor for name, tensor in weights.items()}


OPEN_CLIP_FILES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "model.safetensors",
    "*.safetensors",
)
HF_FILES = ("model*.safetensors",)
OPEN_CLIP = Format(
    "open_clip",
    (
        Place("text", "", OPEN_CLIP_FILES, dict),
        Place("vision", "", OPEN_CLIP_FILES, _vision),
    ),
)
CLIP = Format(
    "transformers CLIP",
    (
        Place("text", "", HF_FILES, to_hf_text, r"(text_model\.)?"),
        Place("vision", "", HF_FILES, lambda w: to_hf_vision(_vision(w)), r"(vision_model\.)?"),
    ),
)
TEXT = Place("text", "text_encoder", HF_FILES, to_hf_text, r"(text_model\.)?")
UNET = Place("unet", "unet", ("diffusion_pytorch_model*.safetensors",), dict)
TEXT_2 = Place("text_2", "text_encoder_2", HF_FILES, to_hf_text, r"(text_model\.)?")
STABLE_DIFFUSION = Format("Stable Diffusion", (TEXT, TEXT_2, UNET))
LLAVA = Format(
    "LLaVA",
    (
        Place(
            "vision",
            "",
            HF_FILES,
            lambda w: to_hf_vision(_vision(w)),
            r"(model\.)?vision_tower\.(vision_model\.)?",
        ),
    ),
)


def export(
    source: Path, edits: Sequence[Edit], out: Path, *, dtype: torch.dtype | None = None
) -> Path:
    """`out`, a new folder like `source` with the edits in its weights; whole or not there at all.

    `source` is an open_clip local-dir, a CLIP or LLaVA folder of transformers, or a Stable
    Diffusion folder of diffusers. With a `dtype` every weight of the folder is stored in it, after
    the edits were added in float32. Whether the edits were made for these weights is for the
    caller to check.
    Raises SlugError when the folder is of no such kind or holds no safetensors, when an edit
    changes what the folder does not have, when `out` exists, or when the disk is full.
    """
    form = kind(source)
    if not edits:
        raise SlugError("There is no edit to apply.")
    parts = {part for edit in edits for part in edit.parts}
    files = _weight_files(source, _places(source, form, parts))
    known = {name for names in files.values() for name in names}
    moved = [_translated(edit, form, known) for edit in edits]
    if os.path.lexists(out) or out.resolve().is_relative_to(source.resolve()):
        raise SlugError(f"{out} exists already or lies inside the model: choose a new folder.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    except OSError as error:
        raise SlugError(f"{out} cannot be written: {error.strerror}.") from error
    try:
        _fill(draft, source, files, moved, form)
        if dtype is not None:
            _cast(draft, dtype)
        (draft / NOTE).write_text(_notes(source, edits))
        draft.chmod(0o755)
        draft.rename(out)
    except (OSError, SafetensorError) as error:
        raise SlugError(f"{out} could not be written: {error}.") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return out


def _places(source: Path, form: Format, parts: set[str]) -> list[Place]:
    """The places of these parts that the folder has."""
    wanted = [place for place in form.places if place.part in parts]
    return [place for place in wanted if (source / place.folder).is_dir()]


def kind(source: Path) -> Format:
    """The format of a model's folder. Raises SlugError when it is none that can be written."""
    if (source / "model_index.json").is_file():
        return STABLE_DIFFUSION
    if (source / "open_clip_config.json").is_file():
        return OPEN_CLIP
    found = {"llava": LLAVA, "clip": CLIP}.get(_model_type(source / "config.json"))
    if found is None:
        raise SlugError(f"{source} is no folder of open_clip, CLIP, Stable Diffusion or LLaVA.")
    return found


def _model_type(config: Path) -> str:
    try:
        return json.loads(config.read_text()).get("model_type", "")
    except (OSError, ValueError):
        return ""


Files = dict[Path, dict[str, str]]  # {file: {"part/own name": name on disk}}


def _weight_files(source: Path, places: Iterable[Place]) -> Files:
    """The files to rewrite, each with the tensors of the places in it."""
    files: Files = {}
    for place in places:
        folder = source / place.folder
        found = next((f for pattern in place.files if (f := sorted(folder.glob(pattern)))), [])
        if not found:
            raise SlugError(
                f"{folder} holds no safetensors weights, and pickled ones are not opened: "
                "save the model as safetensors first."
            )
        for file in found:
            files.setdefault(file, {}).update(_names(file, place))
    return files


def _names(file: Path, place: Place) -> dict[str, str]:
    pattern = re.compile(place.prefix + "(?P<name>.+)")
    try:
        with safe_open(file, "pt") as stored:
            matches = {name: pattern.fullmatch(name) for name in stored.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise SlugError(f"{file.name} cannot be read as a safetensors file: {error}.") from error
    return {f"{place.part}/{match['name']}": name for name, match in matches.items() if match}


def _translated(edit: Edit, form: Format, known: set[str]) -> Edit:
    """The edit under the folder's own names; SlugError when it changes what is not there."""
    if edit.rule:
        raise SlugError(
            f"The edit of {edit.concept!r} changes no weight: it is a rule ({edit.rule}) that is "
            "followed while pictures are made, and no folder of weights can hold it."
        )
    delta: dict[str, Tensor] = {}
    for name, tensor in edit.delta.items():
        place = next((place for place in form.places if place.part == part_of(name)), None)
        own = place.own({within(name): tensor}) if place else {}
        own = {f"{part_of(name)}/{inner}": tensor for inner, tensor in own.items()}
        if not own or not own.keys() <= known:
            raise SlugError(
                f"The edit of {edit.concept!r} changes {name}, which this {form.name} folder "
                "does not hold: leave it out, or export the model that it belongs to."
            )
        delta |= own
    return replace(edit, delta=delta)


def _fill(draft: Path, source: Path, files: Files, edits: Sequence[Edit], form: Format) -> None:
    rewritten = {file.parent for file in files}
    for file in _copied(source, form, rewritten):
        target = draft / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    for file, names in files.items():
        target = draft / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        _rewrite(file, target, names, edits)


def _copied(source: Path, form: Format, rewritten: set[Path]) -> list[Path]:
    """All files but hidden ones and those that hold, or may hold, the unedited part."""
    files = []
    for file in sorted(source.rglob("*")):
        inside = file.relative_to(source).parts
        whole = "" not in form.folders and file.parent == source  # a checkpoint in a single file
        heavy = file.suffix in WEIGHTS or file.name.endswith(".bin.index.json")
        hidden = any(name.startswith(".") for name in inside)
        stale = heavy and (whole or file.parent in rewritten)
        if file.is_file() and not hidden and not stale and inside != (NOTE,):
            files.append(file)
    return files


def _rewrite(file: Path, target: Path, names: dict[str, str], edits: Sequence[Edit]) -> None:
    """`target`: the file with its own names, types and metadata, and the edited tensors in it."""
    wanted = {name for edit in edits for name in edit.delta} & names.keys()
    here = [replace(e, delta={n: t for n, t in e.delta.items() if n in names}) for e in edits]
    with safe_open(file, "pt") as stored:
        changed = apply({name: stored.get_tensor(names[name]) for name in wanted}, here)
        if not changed:
            shutil.copyfile(file, target)
            return
        tensors: dict[str, Tensor] = {n: stored.get_tensor(n) for n in stored.keys()}  # noqa: SIM118
        metadata = stored.metadata()
    tensors |= {names[name]: tensor.contiguous() for name, tensor in changed.items()}
    save_file(tensors, target, metadata)


def _cast(folder: Path, dtype: torch.dtype) -> None:
    """Stores the numbers of every safetensors file in another type; pickled copies go."""
    for file in sorted(folder.rglob("*")):
        if file.suffix != ".safetensors":
            if file.suffix in WEIGHTS:
                file.unlink()
            continue
        with safe_open(file, "pt") as stored:
            held, metadata = {n: stored.get_tensor(n) for n in stored.keys()}, stored.metadata()  # noqa: SIM118
        cast = {n: t.to(dtype) if t.is_floating_point() else t for n, t in held.items()}
        save_file(cast, file, metadata)


def _notes(source: Path, edits: Sequence[Edit]) -> str:
    """What the new folder says of itself: the edits that the source held before, and the new."""
    try:
        before = json.loads((source / NOTE).read_text())
    except (OSError, ValueError):
        before = []
    return json.dumps([*before, *(_noted(edit) for edit in edits)], indent=1)


def _noted(edit: Edit) -> dict[str, str | float | None]:
    return {
        "concept": edit.concept,
        "method": edit.method,
        "strength": edit.strength,
        "lambda": edit.lam if edit.lam == edit.lam else None,
        **edit.about,
    }
