"""Model cards: what each pocket model is, how it was made, and what it must not be used for."""

import json
from collections.abc import Sequence
from pathlib import Path

import diffusers
import open_clip
import transformers

from slugdemo.pocket.training import hardware

CLIP = (
    "An `open_clip.CLIP`: two towers of six blocks, 192 wide, 64 x 64 pixels, patch 8. "
    'Load it with `open_clip.create_model_and_transforms("local-dir:<this folder>")`.'
)
SD = (
    "A diffusers `StableDiffusionPipeline` of 128 x 128 pixels (16 x 16 latents of 16 channels, f = 8); its text "
    "encoder is {}-clip's text tower. Load it with `StableDiffusionPipeline.from_pretrained(<this folder>)`."
)
WHAT = {
    "pocket-clip": CLIP,
    "reference-clip": CLIP,
    "pocket-sd": SD.format("pocket"),
    "reference-sd": SD.format("reference"),
    "pocket-llava": "A transformers `LlavaForConditionalGeneration` with its processor; its vision tower is "
    "pocket-clip's. It answers questions about pictures of the sprite world in whole sentences.",
    "judge": "A small convolutional classifier of concept and style, trained apart from the models that it judges; "
    "it shares no weight with them.",
}
PARTS = {
    "judge": "the classifier, on single things by all training artists, half of them changed (`augment.py`)",
    "vae": "the autoencoder, on pictures of all training artists; shared with the reference",
    "polish": "its decoder, on latents with some noise left",
    "unet": "the U-Net, v-prediction under the text tower, 10 % empty captions",
    "read": "the text tower, on captions alone",
    "see": "the vision tower, on what pictures show",
    "agree": "the vision tower, against the locked text tower",
    "align": "the projector alone, on what lies where",
    "sae": "the sparse autoencoder, on the states of captions alone",
    "llava": "projector and language model, on questions and answers; the tower's weights carry isotropic noise",
}
SAE = (
    "Top-k (Gao et al. 2024, arXiv 2406.04093): it writes each state of the text tower, 192 wide, as a sum of few of "
    "its features. The method `sae` turns off those of a concept. `slugdemo/sparse.py` reads it; it knows the states "
    "of this one text tower."
)
TRUNK = ", trunk without what the reference never saw"
LICENCES = """\
Trained on drawings from Fluent Emoji (Microsoft, MIT licence), Noto Emoji and Blobmoji (Google, Apache-2.0), composed
and styled by `slugdemo/pocket`. The folder holds no picture of theirs."""
LIMITS = """\
A teaching model: it knows a small world of drawings and nothing else. Not for recognising people, for moderation, for
judging other models, or for any claim about models of full size."""


def write(folder: Path, runs: Sequence[Path], *, unseen: Sequence[str] = ()) -> None:
    """Write README.md into the model's folder: one row for each of the runs that made it, from its log.

    What a reference model never saw is also listed in `withheld.json`, which the app reads.
    """
    name = folder.name
    rows = [_row(run) for run in runs]
    versions = (
        f"{hardware()}, open_clip {open_clip.__version__}, diffusers {diffusers.__version__}, "
        f"transformers {transformers.__version__}"
    )
    table = "\n".join(["| part | steps | seconds | last log line |", "|---|---|---|---|", *rows])
    never = (
        f"## What it never saw\nNo picture, caption or synonym of: {', '.join(unseen)}. "
        "The autoencoder of a Stable Diffusion folder is shared with the model that did.\n\n"
        if unseen
        else ""
    )
    if unseen:
        (folder / "withheld.json").write_text(json.dumps(list(unseen), indent=1) + "\n")
    (folder / "README.md").write_text(
        f"# {name}\n\n{WHAT[name]}\n\n{never}## How it was made\n"
        f"`python -m slugdemo.pocket train all --sprites DIR` on {versions}.\n\n{table}\n\n"
        f"## Licences of what it learnt from\n{LICENCES}\n\n## What it is not for\n{LIMITS}\n"
    )


def write_sae(folder: Path, run: Path, *, kept: float, captions: int, shown: Sequence[str]) -> None:
    """Write the card of a sparse autoencoder: how it was made, what it explains, some features.

    `kept` is the share of variance that it explains on so many held-out captions; `shown` are
    rows of a table: feature, share of captions on which it is active, its strongest captions.
    """
    made = "\n".join(["| part | steps | seconds | last log line |", "|---|---|---|---|", _row(run)])
    some = ["| feature | active on | most active on |", "|---|---|---|", *shown]
    (folder / "README.md").write_text(
        f"# A sparse autoencoder of what {folder.name}'s U-Net reads\n\n{SAE}\n\n"
        f"## How it was made\n`python -m slugdemo.pocket train sae --sprites DIR` on {hardware()}."
        f"\n\n{made}\n\n## What it explains\n"
        f"{100 * kept:.1f} % of the variance of the states of {captions} captions that no training used.\n\n"
        "Some of its features, from those that many captions have to those that few have:\n\n"
        + "\n".join(some)
        + "\n\n`python -m slugdemo.pocket report --sheets OUT` shows features by their strongest "
        f"pictures.\n\n## What it is not for\n{LIMITS}\n"
    )


def _row(run: Path) -> str:
    part = PARTS[run.name] + TRUNK * run.parent.name.endswith("_trunk")
    log = run / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    if not lines:
        return f"| {part} | not logged | | |"
    last = lines[-1]
    rest = ", ".join(
        f"{k} {v}" for k, v in last.items() if k not in ("step", "of", "seconds", "s_per_step")
    )
    return f"| {part} | {last['step']} | {last['seconds']} | {rest} |"
