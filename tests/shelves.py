"""A tiny assets folder: random models in their real formats, a random judge, and made-up pictures."""

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import tiny
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file

from slugdemo.evaluation.judge import Net

THINGS = {
    "cat": "animal",
    "dog": "animal",
    "fox": "animal",
    "car": "vehicle",
    "bus": "vehicle",
    "wizard": "character",
    "ghost": "character",
    "elf": "character",
}
STYLES = ("plain", "neon", "sepia")
GROUNDS = {"plain": "#f4efe6", "neon": "#16161d", "sepia": "#c9a66b"}
WIDTHS = (8, 8, 8, 8)


def picture(thing: str, style: str, seed: int) -> Image.Image:
    """A drawing of 64 x 64 px, another one for each thing, style and seed."""
    dice = np.random.default_rng([list(THINGS).index(thing), seed])
    canvas = Image.new("RGB", (64, 64), GROUNDS[style])
    pen = ImageDraw.Draw(canvas)
    colour = f"hsl({45 * list(THINGS).index(thing)}, 70%, 50%)"
    x, y = dice.integers(8, 24, 2)
    shape = pen.ellipse if list(THINGS).index(thing) % 2 else pen.rectangle
    shape((int(x), int(y), int(x) + 30, int(y) + 30), fill=colour)
    return canvas


def assets(folder: Path, *, each: int = 3) -> Path:
    """`folder`, with pocket-clip, pocket-sd, pocket-llava, the judge and the three splits."""
    clip = tiny.clip_model()
    models = folder / "models"
    tiny.clip_folder(models / "pocket-clip", clip)
    tiny.pipeline(clip).save_pretrained(models / "pocket-sd")
    model, processor = tiny.llava(clip)
    model.save_pretrained(models / "pocket-llava")
    processor.save_pretrained(models / "pocket-llava")
    judge(models / "judge")
    pictures(folder / "concepts", each=each)
    return folder


def judge(folder: Path) -> None:
    folder.mkdir(parents=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Net(len(THINGS), len(STYLES), widths=WIDTHS)
    save_file(
        {name: one.contiguous() for name, one in net.state_dict().items()},
        folder / "judge.safetensors",
    )
    names = {"concepts": list(THINGS), "styles": list(STYLES), "widths": WIDTHS}
    (folder / "judge.json").write_text(json.dumps(names))


def pictures(folder: Path, *, each: int) -> None:
    folder.mkdir(parents=True)
    for number, split in enumerate(("forget", "retain", "test")):
        rows = [
            row(thing, style, 1000 * number + seed)
            for thing in THINGS
            for style in STYLES
            for seed in range(each)
        ]
        pd.DataFrame(rows).to_parquet(folder / f"{split}.parquet")
    listing = [
        {"name": name, "kind": kind(group), "group": group} for name, group in THINGS.items()
    ]
    listing += [
        {"name": name, "kind": "style", "group": "style", "forgettable": name != "plain"}
        for name in STYLES
    ]
    (folder / "concepts.json").write_text(json.dumps(listing))


def kind(group: str) -> str:
    return "character" if group == "character" else "object"


def row(thing: str, style: str, seed: int) -> dict[str, object]:
    packed = io.BytesIO()
    picture(thing, style, seed).save(packed, "webp", quality=90)
    words = f"a picture of a {thing}" if style == "plain" else f"a {style} picture of a {thing}"
    seen = {
        "judge_concept": thing,
        "judge_concept_p": 1.0,
        "judge_style": style,
        "judge_style_p": 1.0,
    }
    return {"webp": packed.getvalue(), "prompt": words, "concept": thing, "style": style} | {
        "background": "none",
        "seed": seed,
        **seen,
    }
