"""Model cards: what each pocket model is, how it was made, and what it must not be used for."""

import json
from pathlib import Path

import diffusers
import open_clip
import transformers

from slugdemo.pocket.training import hardware

WHAT = {
    "pocket-clip": "An `open_clip.CLIP`: two towers of six blocks, 192 wide, 64 x 64 pixels, patch 8. "
    'Load it with `open_clip.create_model_and_transforms("local-dir:<this folder>")`.',
    "pocket-sd": "A diffusers `StableDiffusionPipeline` of 64 x 64 pixels; its text encoder is pocket-clip's text "
    "tower. Load it with `StableDiffusionPipeline.from_pretrained(<this folder>)`.",
    "pocket-llava": "A transformers `LlavaForConditionalGeneration` with its processor; its vision tower is "
    "pocket-clip's. It answers questions about pictures of the sprite world in whole sentences.",
    "judge": "A small convolutional classifier of concept and style, trained apart from the models that it judges; "
    "it shares no weight with them.",
}
LICENCES = """\
Trained on drawings from Fluent Emoji (Microsoft, MIT licence), Noto Emoji and Blobmoji (Google, Apache-2.0), composed
and styled by `slugdemo/pocket`. The folder holds no picture of theirs."""
LIMITS = """\
A teaching model: it knows a small world of drawings and nothing else. Not for recognising people, for moderation, for
judging other models, or for any claim about models of full size."""


def write(folder: Path, runs: list[Path]) -> None:
    """Write README.md into the model's folder from the logs of the runs that made it."""
    name = folder.name
    rows = [_row(run) for run in runs]
    versions = (
        f"{hardware()}, open_clip {open_clip.__version__}, diffusers {diffusers.__version__}, "
        f"transformers {transformers.__version__}"
    )
    table = "\n".join(["| part | steps | seconds | last log line |", "|---|---|---|---|", *rows])
    (folder / "README.md").write_text(
        f"# {name}\n\n{WHAT[name]}\n\n## How it was made\n"
        f"`python -m slugdemo.pocket train` on {versions}.\n\n{table}\n\n"
        f"## Licences of what it learnt from\n{LICENCES}\n\n## What it is not for\n{LIMITS}\n"
    )


def _row(run: Path) -> str:
    log = run / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    if not lines:
        return f"| {run.name} | not logged | | |"
    last = lines[-1]
    rest = ", ".join(
        f"{k} {v}" for k, v in last.items() if k not in ("step", "of", "seconds", "s_per_step")
    )
    return f"| {run.name} | {last['step']} | {last['seconds']} | {rest} |"
