"""The example pictures that the app ships: made by pocket-sd, judged, kept or dropped, and recorded one by one."""

import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from slugdemo.evaluation.judge import Judge
from slugdemo.evaluation.prompt_set import DENOISING, GUIDANCE
from slugdemo.models.diffusion import Diffusion
from slugdemo.pocket.words import STYLE_WORDS, SYNONYMS, prompt

FIRST_SEED = {"forget": 1_000_000, "retain": 2_000_000, "test": 3_000_000}
SHOWN = 60  # concepts that the app offers to forget: characters first
EACH = {"forget": 2, "retain": 1, "test": 2}  # pictures of each of those concepts in each style
QUALITY = 92  # of the WebP files


@dataclass(frozen=True)
class Order:
    """One picture to make."""

    prompt: str
    concept: str
    style: str
    seed: int


def shown(groups: dict[str, str], concepts: Sequence[str]) -> list[str]:
    """The concepts that the app offers to forget: all characters, then objects spread evenly over the list."""
    characters = [c for c in concepts if groups.get(c) == "character"]
    others = [c for c in concepts if c not in characters]
    count = min(len(others), SHOWN - len(characters))
    return characters + [others[int(i)] for i in np.linspace(0, len(others) - 1, count).round()]


def orders(split: str, judge: Judge, taught: Sequence[str]) -> list[Order]:
    """What to make for a split; the three splits never share a seed."""
    pairs = [(c, s) for c in taught for s in judge.styles for _ in range(EACH[split])]
    return [Order(prompt(c, s), c, s, FIRST_SEED[split] + i) for i, (c, s) in enumerate(pairs)]


def made(
    model: Diffusion, judge: Judge, wanted: Sequence[Order], *, batch: int = 32
) -> Iterator[dict]:
    """One row a picture, in order: the record of how it was made and what the judge sees in it."""
    for start in range(0, len(wanted), batch):
        some = wanted[start : start + batch]
        pictures = model.generate(
            [o.prompt for o in some],
            seeds=[o.seed for o in some],
            steps=DENOISING,
            guidance=GUIDANCE,
        )
        packed = [_webp(picture) for picture in pictures]
        seen = judge(
            [Image.open(io.BytesIO(webp)) for webp in packed]
        )  # the picture that is shipped
        for i, (order, webp) in enumerate(zip(some, packed, strict=True)):
            yield {
                **asdict(order),
                "judge_concept": judge.concepts[int(seen.concept[i].argmax())],
                "judge_concept_p": float(seen.concept[i].max()),
                "judge_style": judge.styles[int(seen.style[i].argmax())],
                "judge_style_p": float(seen.style[i].max()),
                "webp": webp,
            }


def _webp(picture: Image.Image) -> bytes:
    packed = io.BytesIO()
    picture.save(packed, "webp", quality=QUALITY, method=6)
    return packed.getvalue()


def write(
    model: Diffusion, judge: Judge, folder: Path, *, groups: dict[str, str]
) -> dict[str, dict[str, int]]:
    """Make the three splits as parquet files and their counts; returns {split: {"made": n, "kept": n}}."""
    folder.mkdir(parents=True, exist_ok=True)
    names = shown(groups, judge.concepts)
    counts = {}
    for split in FIRST_SEED:
        rows = pd.DataFrame(made(model, judge, orders(split, judge, names)))
        kept = rows[(rows.judge_concept == rows["concept"]) & (rows.judge_style == rows["style"])]
        counts[split] = {"made": len(rows), "kept": len(kept)}
        half = folder / f"{split}.{os.getpid()}.part"
        kept.reset_index(drop=True).to_parquet(half, compression="zstd")
        os.replace(half, folder / f"{split}.parquet")
    (folder / "counts.json").write_text(json.dumps(counts, indent=1))
    listing = [_entry(c, groups, forgettable=c in names) for c in judge.concepts]
    listing += [
        {
            "name": s,
            "kind": "style",
            "group": "style",
            "forgettable": s != "plain",
            "synonyms": STYLE_WORDS.get(s, []),
            "descriptions": [],
        }
        for s in judge.styles
    ]
    (folder / "concepts.json").write_text(json.dumps(listing, indent=1))
    return counts


def _entry(concept: str, groups: dict[str, str], *, forgettable: bool) -> dict:
    words = SYNONYMS.get(concept, [])
    described = [w for w in words if w.split()[0] in ("a", "an", "the", "what")]
    return {
        "name": concept,
        "kind": "character" if groups.get(concept) == "character" else "object",
        "group": groups.get(concept, "thing"),
        "forgettable": forgettable,
        "synonyms": [w for w in words if w not in described],
        "descriptions": described,
    }
