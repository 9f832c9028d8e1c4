"""What lies in a model's folder: which weight files are read, whether they are whole, how large.

Reads the heads of safetensors files and no tensor, so gigabytes are looked through in no time.
Knows files and nothing of the models in them.
"""

import json
import math
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slugdemo.errors import SlugError
from slugdemo.files import no_pointer

OPEN_CLIP = (  # in the order in which open_clip looks for them
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "model.safetensors",
)
STEMS = ("model", "diffusion_pytorch_model")  # of a part's weights, in transformers and diffusers
VARIANTS = (".fp16", ".bf16", "")  # between a stem and its number or suffix
OPTIONAL = ("safety_checker", "feature_extractor", "image_encoder")  # parts that may be missing
HEAD = 8  # bytes that say how long the head is
LONGEST = 100_000_000  # bytes of a head, as safetensors itself has it
TOKENIZERS = (  # any one of these sets is a whole tokenizer
    ("tokenizer.json",),
    ("vocab.json", "merges.txt"),
    ("tokenizer.model",),
    ("spiece.model",),
    ("sentencepiece.bpe.model",),
    ("vocab.txt",),
)


def files(folder: Path) -> list[Path]:
    """The weight files that are read when the model in `folder` is opened.

    Raises SlugError when one of them is missing, or when there are only pickled weights.
    """
    if not (folder / "model_index.json").is_file():
        return _weights(folder)
    names = parts(folder)
    absent = [name for name in names if name not in OPTIONAL and not (folder / name).is_dir()]
    if absent:
        raise SlugError(f"{folder.name} is not complete: its part {absent[0]} is missing.")
    there = [folder / name for name in names if (folder / name / "config.json").is_file()]
    return [file for part in there if part.name not in OPTIONAL for file in _weights(part)]


def of_part(folder: Path, part: str) -> list[Path]:
    """The weight files of one part of a pipeline; none where it has no such part.

    Raises SlugError as `files`.
    """
    return [file for file in files(folder) if file.parent == folder / part]


def parts(folder: Path) -> list[str]:
    """The names of the parts that a pipeline's folder says it has; none for other folders."""
    index = read(folder / "model_index.json")
    return [name for name, kind in index.items() if isinstance(kind, list) and kind and kind[0]]


def check(folder: Path) -> None:
    """Raises SlugError when a file that is needed is missing, cut off or only stands for another.

    Looks at weights, tokenizers and every git-lfs pointer.
    """
    for file in sorted(folder.rglob("*")):
        if not any(name.startswith(".") for name in file.relative_to(folder).parts):
            no_pointer(file)
    for file in files(folder):
        head(file)
    names = [name for name in parts(folder) if name.startswith("tokenizer")]
    for tokenizer in [folder / name for name in names] or [folder]:
        check_tokenizer(tokenizer)


def check_tokenizer(folder: Path) -> None:
    """Raises SlugError when the tokenizer that belongs into `folder` is not there.

    Without its files transformers makes an empty one, which reads every text as nothing.
    """
    config = read(folder / "open_clip_config.json")
    if config and "hf_tokenizer_name" not in config.get("model_cfg", {}).get("text_cfg", {}):
        return  # open_clip's own tokenizer, which is part of its library
    if not any(all((folder / file).is_file() for file in group) for group in TOKENIZERS):
        raise SlugError(
            f"{folder} has no tokenizer: tokenizer.json is missing, and so are vocab.json with "
            "merges.txt. Copy them from the model that this one was trained from."
        )


def numbers(folder: Path) -> int:
    """How many numbers the model in `folder` has. Raises SlugError when a file is not whole."""
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
    no_pointer(file)
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(HEAD), "little")
            found = dict(json.loads(stream.read(length if 0 < length < LONGEST else 0)))
        ends = [entry["data_offsets"][1] for name, entry in found.items() if name != "__metadata__"]
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


@contextmanager
def standard(folder: Path) -> Iterator[Path]:
    """The folder with its weights under the names that its library looks for.

    Half-precision variants ("model.fp16.safetensors") and shards without their index go by their
    own names and would not be found: the folder is then one of links, for as long as this lasts.
    """
    inside = [folder / name for name in parts(folder)]
    added = {part: names for part in [*inside, folder] if (names := _other_names(part))}
    if not added:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="slugdemo-") as place:
        twin = Path(place) / folder.name
        _link(folder, twin, added)
        yield twin


def _link(folder: Path, twin: Path, added: dict[Path, dict[str, Path | str]]) -> None:
    twin.mkdir()
    for path in folder.iterdir():
        if path in added:
            _link(path, twin / path.name, added)
        else:
            (twin / path.name).symlink_to(path.resolve())
    for name, source in added.get(folder, {}).items():
        if isinstance(source, Path):
            (twin / name).symlink_to(source.resolve())
        else:
            (twin / name).write_text(source)


def _other_names(part: Path) -> dict[str, Path | str]:
    """What is missing in a part for its library to find the weights there: a file or its text."""
    if not (part / "config.json").is_file():
        return {}
    try:
        found = _weights(part)
    except SlugError:
        return {}  # said when they are checked
    for stem in STEMS:
        plain = f"{stem}.safetensors"
        if (part / plain).is_file() or (part / f"{plain}.index.json").is_file():
            return {}
        if len(found) == 1 and found[0].name in {f"{stem}{v}.safetensors" for v in VARIANTS}:
            return {plain: found[0]}
        if found[0].name.startswith(f"{stem}.") or found[0].name.startswith(f"{stem}-"):
            places = {n: file.name for file in found for n in head(file) if n != "__metadata__"}
            return {f"{plain}.index.json": json.dumps({"metadata": {}, "weight_map": places})}
    return {}


def _weights(folder: Path) -> list[Path]:
    open_clip = (folder / "open_clip_config.json").is_file()
    for name in OPEN_CLIP if open_clip else [f"{stem}.safetensors" for stem in STEMS]:
        if (folder / name).is_file() and not _preferred(folder, name):
            return [folder / name]
        if shards := sorted({*read(folder / f"{name}.index.json").get("weight_map", {}).values()}):
            return _there([folder / shard for shard in shards])
    for stem in () if open_clip else STEMS:
        for variant in VARIANTS:
            if found := _variant(folder, stem + variant):
                return found
    if any(_pickles(folder)):
        raise SlugError(
            f"{folder.name} has only pickled weights for its library, which can run programs and are not opened: "
            "save the model as safetensors first."
        )
    raise SlugError(f"{folder.name} is not complete: there are no safetensors weights in it.")


def _variant(folder: Path, stem: str) -> list[Path]:
    """The weights of this stem without an index: one file or all shards; none when there are none."""
    if (folder / f"{stem}.safetensors").is_file():
        return [folder / f"{stem}.safetensors"]
    begin, dot, variant = stem.partition(".")
    number = r"-\d{5}-of-(\d{5})"
    for before, after in ((stem, ""), (begin, dot + variant)):
        pattern = re.compile(re.escape(before) + number + re.escape(after) + r"\.safetensors")
        matches = [match for file in folder.iterdir() if (match := pattern.fullmatch(file.name))]
        if matches:
            last = matches[0][1]
            every = range(1, int(last) + 1)
            return _there(
                [folder / f"{before}-{n:05d}-of-{last}{after}.safetensors" for n in every]
            )
    return []


def _there(shards: list[Path]) -> list[Path]:
    for shard in shards:
        if not shard.is_file():
            raise SlugError(f"{_named(shard)} is missing, so the model is not complete.")
    return shards


def _pickles(folder: Path, stem: str = "*") -> Iterator[Path]:
    for suffix in ("bin", "pt", "pth", "ckpt"):
        yield from folder.glob(f"{stem}.{suffix}")


def _preferred(folder: Path, name: str) -> bool:
    """Whether open_clip would open a pickled file rather than the safetensors of this name."""
    pickled = any(_pickles(folder, "open_clip_pytorch_model"))
    return name == "model.safetensors" and pickled and (folder / "open_clip_config.json").is_file()


def _named(file: Path) -> str:
    return f"{file.parent.name}/{file.name}"
