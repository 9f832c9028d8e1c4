"""Pictures of noise, and the containers that people keep such pictures in."""

import io
import json
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image


def picture(seed: int = 0, size: tuple[int, int] = (20, 16)) -> Image.Image:
    noise = torch.randint(256, (*size[::-1], 3), generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(noise.byte().numpy())


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    packed = io.BytesIO()
    image.save(packed, kind, **options)
    return packed.getvalue()


def make_tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def a_shard(path: Path) -> Path:
    """As img2dataset writes it: jpg, json and txt for each key."""
    files = {}
    for number, caption in enumerate(("a cat", "a dog on a mat", "Cat_food, yellow")):
        key = f"{number:09d}"
        facts = {"caption": caption, "key": key, "status": "success", "style": "sketch"}
        files[f"{key}.png"] = encoded(picture(number))
        files[f"{key}.json"] = json.dumps(facts).encode()
        files[f"{key}.txt"] = caption.encode()
    return make_tar(path, files)


def a_split(path: Path, rows: list[tuple[str, str]]) -> None:
    table = {
        "webp": [encoded(picture(n), "WEBP", lossless=True) for n in range(len(rows))],
        "prompt": [f"a {concept} in {style}" for concept, style in rows],
        "concept": [concept for concept, _ in rows],
        "style": [style for _, style in rows],
        "seed": list(range(len(rows))),
    }
    pq.write_table(pa.table(table), path)


def make_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def make_folder(path: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path
