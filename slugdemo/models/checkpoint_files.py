"""What lies in a model's folder: which weight files are read, whether they are whole, how large.

Reads the heads of safetensors files and no tensor, so gigabytes are looked through in no time.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path

from slugdemo.errors import SlugError

OPEN_CLIP = (  # in the order in which open_clip looks for them
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "model.safetensors",
)
PLAIN = ("model.safetensors", "diffusion_pytorch_model.safetensors")
IGNORED = ("safety_checker",)  # a part of a pipeline that may be missing
HEAD = 8  # bytes that say how long the head is
LONGEST = 100_000_000  # bytes of a head, as safetensors itself has it


def files(folder: Path) -> list[Path]:
    """The weight files that are read when the model in `folder` is opened.

    Raises SlugError when one of them is missing, or when there are only pickled weights.
    """
    index = read(folder / "model_index.json")
    if not index:
        return _weights(folder)
    parts = [name for name, kind in index.items() if isinstance(kind, list) and kind[0]]
    there = [folder / name for name in parts if name not in IGNORED and _has_weights(folder / name)]
    absent = [name for name in parts if name not in IGNORED and not (folder / name).is_dir()]
    if absent:
        raise SlugError(f"{folder.name} is not complete: its part {absent[0]} is missing.")
    return [file for part in there for file in _weights(part)]


def check(folder: Path) -> None:
    """Raises SlugError when a weight file in `folder` is missing, cut off or no safetensors file."""
    for file in files(folder):
        head(file)


def numbers(folder: Path) -> int:
    """How many numbers the model in `folder` has. Raises SlugError as `check` does."""
    return sum(
        math.prod(tensor["shape"])
        for file in files(folder)
        for name, tensor in head(file).items()
        if name != "__metadata__"
    )


def head(file: Path) -> dict:
    """The head of a safetensors file: names, types, shapes and places of its tensors.

    Raises SlugError when the file is not one or does not hold all that its head promises.
    """
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(HEAD), "little")
            found = dict(json.loads(stream.read(length if 0 < length < LONGEST else 0)))
        ends = [one["data_offsets"][1] for name, one in found.items() if name != "__metadata__"]
        missing = HEAD + length + max(ends, default=0) - file.stat().st_size
    except (
        OSError,
        ValueError,
        AttributeError,
        KeyError,
        TypeError,
        IndexError,
        RecursionError,
    ) as error:
        raise SlugError(f"{_named(file)} is damaged or no safetensors file.") from error
    if missing:
        raise SlugError(
            f"{_named(file)} is not whole ({missing / 1e6:+.1f} MB are missing): fetch it again."
        )
    return found


def read(file: Path) -> dict:
    """The JSON object in a file; empty when there is none."""
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _weights(folder: Path) -> list[Path]:
    names = OPEN_CLIP if (folder / "open_clip_config.json").is_file() else PLAIN
    for name in names:
        if (folder / name).is_file() and not _preferred(folder, name):
            return [folder / name]
        if shards := sorted({*read(folder / f"{name}.index.json").get("weight_map", {}).values()}):
            return _there([folder / shard for shard in shards])
    if any(_pickles(folder)):
        raise SlugError(
            f"{folder.name} has only pickled weights for its library, which can run programs and are not opened: "
            "save the model as safetensors first."
        )
    raise SlugError(f"{folder.name} is not complete: there are no safetensors weights in it.")


def _there(shards: list[Path]) -> list[Path]:
    for shard in shards:
        if not shard.is_file():
            raise SlugError(f"{_named(shard)} is missing, so the model is not complete.")
    return shards


def _has_weights(folder: Path) -> bool:
    """Whether a part of a pipeline is a network: tokenizers and schedulers have another config."""
    return (folder / "config.json").is_file() or not folder.is_dir()


def _pickles(folder: Path, stem: str = "*") -> Iterator[Path]:
    for suffix in ("bin", "pt", "pth", "ckpt"):
        yield from folder.glob(f"{stem}.{suffix}")


def _preferred(folder: Path, name: str) -> bool:
    """Whether open_clip would open a pickled file rather than the safetensors of this name."""
    pickled = any(_pickles(folder, "open_clip_pytorch_model"))
    return name == "model.safetensors" and pickled and (folder / "open_clip_config.json").is_file()


def _named(file: Path) -> str:
    return f"{file.parent.name}/{file.name}"
