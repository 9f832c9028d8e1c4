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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from slugdemo.edit import Edit, apply
from slugdemo.errors import SlugError
from slugdemo.models.names import to_hf_text, to_hf_vision
from slugdemo.models.tower import translated
from slugdemo.weights import Weights

WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".h5", ".onnx", ".gguf"}
NOTE = "slugdemo.json"  # says in the new folder what was done


@dataclass(frozen=True)
class Format:
    """Where a kind of folder keeps CLIP's weights, and under which names.

    `files` are patterns of the files that its library reads, the first that is there counts;
    `own` turns canonical names into the folder's, and `prefix` is what may stand before those.
    """

    name: str
    part: str
    files: tuple[str, ...]
    own: Callable[[Weights], Weights]
    prefix: str


OPEN_CLIP = Format(
    "open_clip",
    "",
    (
        "open_clip_model.safetensors",
        "open_clip_pytorch_model.safetensors",
        "model.safetensors",
        "*.safetensors",
    ),
    dict,
    "",
)
DIFFUSERS = Format(
    "Stable Diffusion", "text_encoder", ("model*.safetensors",), to_hf_text, r"(text_model\.)?"
)
LLAVA = Format(
    "LLaVA",
    "",
    ("model*.safetensors",),
    to_hf_vision,
    r"(model\.)?vision_tower\.(vision_model\.)?",
)


def export(source: Path, edits: Sequence[Edit], out: Path) -> Path:
    """`out`, a new folder like `source` with the edits in its weights; whole or not there at all.

    `source` is an open_clip local-dir, a diffusers Stable Diffusion folder or a LLaVA folder of
    transformers. Whether the edits were made for these weights is for the caller to check.
    Raises SlugError when the folder is of no such kind or holds no safetensors, when an edit
    changes what the folder does not have, when `out` exists, or when the disk is full.
    """
    form = kind(source)
    files = _weight_files(source, form)
    _check(edits, form, files)
    if os.path.lexists(out) or out.resolve().is_relative_to(source.resolve()):
        raise SlugError(f"{out} exists already or lies inside the model: choose a new folder.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    except OSError as error:
        raise SlugError(f"{out} cannot be written: {error.strerror}.") from error
    try:
        _fill(draft, source, form, files, edits)
        draft.chmod(0o755)
        draft.rename(out)
    except (OSError, SafetensorError) as error:
        raise SlugError(f"{out} could not be written: {error}.") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return out


def kind(source: Path) -> Format:
    """The format of a model's folder. Raises SlugError when it is none of the three."""
    if (source / "model_index.json").is_file():
        return DIFFUSERS
    if (source / "open_clip_config.json").is_file():
        return OPEN_CLIP
    if _model_type(source / "config.json") == "llava":
        return LLAVA
    raise SlugError(f"{source} is no folder of open_clip, Stable Diffusion or LLaVA.")


def _model_type(config: Path) -> str:
    try:
        return json.loads(config.read_text()).get("model_type", "")
    except (OSError, ValueError):
        return ""


def _weight_files(source: Path, form: Format) -> dict[Path, dict[str, str]]:
    """The files to rewrite, each with its tensors of CLIP: {name in the edits: name on disk}."""
    for pattern in form.files:
        if found := sorted((source / form.part).glob(pattern)):
            return {file: _names(file, form) for file in found}
    raise SlugError(
        f"{source / form.part} holds no safetensors weights, and pickled ones are not opened: "
        "save the model as safetensors first."
    )


def _names(file: Path, form: Format) -> dict[str, str]:
    pattern = re.compile(form.prefix + "(?P<name>.+)")
    try:
        with safe_open(file, "pt") as stored:
            matches = {name: pattern.fullmatch(name) for name in stored.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise SlugError(f"{file.name} cannot be read as a safetensors file: {error}.") from error
    return {match["name"]: name for name, match in matches.items() if match}


def _check(edits: Sequence[Edit], form: Format, files: dict[Path, dict[str, str]]) -> None:
    known = {name for names in files.values() for name in names}
    if not edits:
        raise SlugError("There is no edit to apply.")
    for edit in edits:
        for name, tensor in edit.direction.items():
            own = form.own({name: tensor})
            if not own or not own.keys() <= known:
                raise SlugError(
                    f"The edit of {edit.concept!r} changes {name}, which this {form.name} folder "
                    "does not hold: leave it out, or export the model that it belongs to."
                )


def _fill(
    draft: Path,
    source: Path,
    form: Format,
    files: dict[Path, dict[str, str]],
    edits: Sequence[Edit],
) -> None:
    for file in _copied(source, form):
        target = draft / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    for file, names in files.items():
        target = draft / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        _rewrite(file, target, names, edits, form)
    (draft / NOTE).write_text(json.dumps([_noted(edit) for edit in edits], indent=1))


def _copied(source: Path, form: Format) -> list[Path]:
    """All files but hidden ones and those that hold, or may hold, the unedited tower."""
    files = []
    for file in sorted(source.rglob("*")):
        inside = file.relative_to(source).parts
        other = form is DIFFUSERS and len(inside) > 1 and inside[0] != form.part
        heavy = file.suffix in WEIGHTS or file.name.endswith(".bin.index.json")
        hidden = any(name.startswith(".") for name in inside)
        if file.is_file() and not hidden and (other or not heavy):
            files.append(file)
    return files


def _rewrite(
    file: Path, target: Path, names: dict[str, str], edits: Sequence[Edit], form: Format
) -> None:
    """`target`: the file with its own names, types and metadata, and the edited tensors in it."""
    with safe_open(file, "pt") as stored:
        tower = {name: stored.get_tensor(names[name]) for name in names}
        changed = apply(tower, translated(edits, form.own, tower))
        if not changed:
            shutil.copyfile(file, target)
            return
        tensors: dict[str, Tensor] = {n: stored.get_tensor(n) for n in stored.keys()}  # noqa: SIM118
        metadata = stored.metadata()
    tensors |= {names[name]: tensor.contiguous() for name, tensor in changed.items()}
    save_file(tensors, target, metadata)


def _noted(edit: Edit) -> dict[str, str | float | None]:
    return {
        "concept": edit.concept,
        "layer": edit.layer,
        "step": edit.step,
        "lambda": edit.lam if edit.lam == edit.lam else None,
        **edit.about,
    }
