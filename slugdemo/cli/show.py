"""The commands that use an edit: apply, generate, classify, ask."""

from pathlib import Path
from typing import Annotated

import torch
import typer
from PIL.Image import Image

from slugdemo import catalog, export, files, images, lora
from slugdemo.cli.options import (
    Device,
    Download,
    Edits,
    Json,
    ModelName,
    Pictures,
    edits,
    once,
    opening,
    put,
    say,
    table,
)
from slugdemo.concept import prompt
from slugdemo.errors import SlugError
from slugdemo.evaluation.prompt_set import DENOISING, GUIDANCE
from slugdemo.models.loading import Opened
from slugdemo.models.zero_shot import ZeroShot

BEST = 5  # classes that are shown of each picture


def apply(
    model: ModelName,
    edit: Annotated[list[Path], typer.Option("--edit", help="an edit file; several add up")],
    out: Annotated[
        Path, typer.Option(help="the new folder; NAME.safetensors for a LoRA-style file")
    ],
    half: Annotated[bool, typer.Option("--half", help="a folder with 16-bit numbers")] = False,
    device: Device = "",
    as_json: Json = False,
) -> None:
    """Write the edited model as a folder of its own format, or the edits for ComfyUI and A1111."""
    if out.suffix == lora.SUFFIX:
        _lora(model, edit, files.writable(out), device, as_json=as_json)
        return
    out = files.new_folder(out)
    here = opening(model, device, download=False)
    if here.model.folder is None:
        raise SlugError(f"{model} lies in a cache, not in a folder of its own; save it as here.")
    made = edits(here, edit)
    folder = export.export(here.model.folder, made, out, dtype=torch.float16 if half else None)
    many = "1 edit" if len(made) == 1 else f"{len(made)} edits"
    facts = {
        "model": model,
        "out": folder,
        "edits": [[e.concept, e.method, e.layer, e.strength] for e in made],
    }
    put(facts, text=f"{folder} is {model} with {many}.", as_json=as_json)


def _lora(model: str, paths: list[Path], out: Path, device: str, *, as_json: bool) -> None:
    here = _needs(
        opening(model, device, download=False), "diffusion", "is no model of ComfyUI or A1111"
    )
    made = edits(here, paths)
    lora.save(out, made, here.host.named())
    facts = {"model": model, "out": out, "edits": [[e.concept, e.method, e.layer] for e in made]}
    put(facts, text=f"{out} is read by ComfyUI, A1111 and InvokeAI as a LoRA.", as_json=as_json)


def generate(
    model: ModelName,
    words: Annotated[list[str], typer.Option("--prompt", help="may be given several times")],
    out: Annotated[Path, typer.Option(help="the folder for the pictures")],
    edit: Edits = None,
    seed: Annotated[int, typer.Option(help="of the noise of the first picture")] = 0,
    count: Annotated[int, typer.Option(min=1, help="pictures of each prompt")] = 1,
    steps: Annotated[int, typer.Option(help="denoising steps")] = DENOISING,
    guidance: Annotated[float, typer.Option(help="how strictly the prompt is followed")] = GUIDANCE,
    device: Device = "",
    download: Download = False,
    as_json: Json = False,
) -> None:
    """Draw pictures with Stable Diffusion, before and after edits from the same noise."""
    out = files.writable_folder(out)
    here = _needs(opening(model, device, download=download), "diffusion", "draws no pictures")
    shots = [(text, seed + at) for text in words for at in range(count)]
    sets = [[], edits(here, edit)] if edit else [[]]
    rows = here.host.ladder(
        [text for text, _ in shots],
        sets,
        seeds=[number for _, number in shots],
        steps=steps,
        guidance=guidance,
        progress=lambda done, total: say(f"denoising step {done} of {total}"),
    )
    facts = []
    for row, when in zip(rows, ("before", "after"), strict=False):
        for at, (picture, (text, number)) in enumerate(zip(row, shots, strict=True)):
            path = out / f"{at:03d}-{when}.png"
            _write(picture, path)
            facts.append({"file": path, "when": when, "prompt": text, "seed": number})
    put(facts, text=table(facts, ["file", "when", "seed", "prompt"]), as_json=as_json)


def classify(
    model: ModelName,
    picture: Pictures,
    classes: Annotated[
        list[str] | None, typer.Option("--class", help="may be given several times")
    ] = None,
    edit: Edits = None,
    device: Device = "",
    download: Download = False,
    as_json: Json = False,
) -> None:
    """Sort pictures into classes with CLIP, before and after edits."""
    here = _needs(opening(model, device, download=download), "zero-shot", "sorts no pictures")
    names = once(classes or []) or catalog.names("concept")
    if not names:
        raise SlugError("Name at least one class with --class.")
    pixels = torch.stack([here.clip.transform(images.read(path)) for path in picture])
    prompts = {name: [prompt(name)] for name in names}
    host = ZeroShot.of(here.clip, prompts, pixels=pixels, labels=[""] * len(picture))
    before, after = host.probabilities(), host.edited(edits(here, edit)).probabilities()
    facts = [
        {"picture": path, "class": names[at], "before": before[n, at].item()}
        | ({"after": after[n, at].item()} if edit else {})
        for n, path in enumerate(picture)
        for at in before[n].topk(min(BEST, len(names))).indices.tolist()
    ]
    columns = ["picture", "class", "before", *(["after"] if edit else [])]
    put(facts, text=table(facts, columns), as_json=as_json)


def ask(
    model: ModelName,
    picture: Pictures,
    question: Annotated[str, typer.Option(help="about each picture")] = "What is in this picture?",
    edit: Edits = None,
    device: Device = "",
    download: Download = False,
    as_json: Json = False,
) -> None:
    """Ask a LLaVA model about pictures, before and after edits."""
    here = _needs(opening(model, device, download=download), "vlm", "answers no questions")
    shown = [images.read(path) for path in picture]
    before = here.host.answer(shown, [question] * len(shown))
    after = here.host.edited(edits(here, edit)).answer(shown, [question] * len(shown))
    facts = [
        {"picture": path, "before": old} | ({"after": new} if edit else {})
        for path, old, new in zip(picture, before, after, strict=True)
    ]
    columns = ["picture", "before", *(["after"] if edit else [])]
    put(facts, text=table(facts, columns), as_json=as_json)


def _needs(here: Opened, kind: str, otherwise: str) -> Opened:
    if here.kind != kind:
        fit = ", ".join(model.name for model in catalog.models() if model.kind == kind)
        raise SlugError(f"{here.model.name} {otherwise}; choose one of {fit}.")
    return here


def _write(picture: Image, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    except OSError as error:
        raise SlugError(f"{path} cannot be written: {error.strerror}.") from error
