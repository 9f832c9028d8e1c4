"""`python -m slugdemo.pocket`: makes the pocket models and their example pictures, and reports on them."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

import slugdemo  # noqa: F401  (declares torchvision's missing operators before anything imports it)
from slugdemo.errors import SlugError
from slugdemo.evaluation.judge import Judge
from slugdemo.models.diffusion import Diffusion
from slugdemo.pocket import recipe, report, sheets
from slugdemo.pocket.world import Sprites

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False
)
ASSETS = Path(__file__).parents[2] / "assets"


class Part(StrEnum):
    """What can be trained."""

    clip = "clip"
    judge = "judge"
    vae = "vae"
    unet = "unet"
    polish = "polish"
    llava = "llava"
    all = "all"


SpriteFolder = Annotated[Path, typer.Option("--sprites", help="a folder <hand>/<name>.png")]
Hands = Annotated[list[str] | None, typer.Option(help="learn from this hand only; may be repeated")]
Albums = Annotated[
    list[int] | None,
    typer.Option(help="seed of the wide album, another one for fresh pictures; may be repeated"),
]
AssetFolder = Annotated[Path, typer.Option("--assets", help="where models/ and concepts/ lie")]


@app.command()
def train(
    part: Part,
    sprites: SpriteFolder,
    assets: AssetFolder = ASSETS,
    work: Annotated[Path, typer.Option(help="checkpoints, logs and rendered albums")] = Path(
        ".pocket"
    ),
    steps: Annotated[int | None, typer.Option(help="steps of this part, else the recipe's")] = None,
    pictures: Annotated[
        int, typer.Option(help="pictures in the rendered albums")
    ] = recipe.PICTURES,
    onward: Annotated[
        bool, typer.Option("--onward", help="start from the weights in assets")
    ] = False,
    hand: Hands = None,
    album: Albums = None,
) -> None:
    """Train one part, or all in order; goes on from the last checkpoint."""
    kitchen = recipe.Kitchen(
        Sprites(sprites),
        assets / "models",
        work,
        pictures,
        onward,
        tuple(hand or ()),
        tuple(album or ()),
    )
    for name in recipe.STEPS if part is Part.all else [part.value]:
        getattr(kitchen, name)(steps or recipe.STEPS[name])
    if part is Part.all:
        examples(sprites, assets)


@app.command()
def examples(sprites: SpriteFolder, assets: AssetFolder = ASSETS) -> None:
    """Make, judge and record the example pictures of the three splits."""
    from slugdemo.pocket import pictures

    models = assets / "models"
    counts = pictures.write(
        Diffusion.from_folder(models / "pocket-sd"),
        Judge.load(models / "judge"),
        assets / "concepts",
        groups=Sprites(sprites).groups,
    )
    for split, count in counts.items():
        typer.echo(f"{split}: kept {count['kept']} of {count['made']}")


@app.command(name="report")
def report_(
    sprites: Annotated[Path | None, typer.Option(help="a folder <hand>/<name>.png")] = None,
    assets: AssetFolder = ASSETS,
    sheet: Annotated[
        Path | None, typer.Option("--sheets", help="write contact sheets there")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="for machines")] = False,
) -> None:
    """Print every figure of the committed models with n, interval and bar."""
    models = assets / "models"
    judge, host = Judge.load(models / "judge"), Diffusion.from_folder(models / "pocket-sd")
    clip = report.ZeroShot.load(models / "pocket-clip", judge)
    world = Sprites(sprites) if sprites else None
    figures = list(report.on_world(world, clip, judge)) if world else []
    if (assets / "concepts" / "test.parquet").is_file():
        figures += report.on_shipped(pd.read_parquet(assets / "concepts" / "test.parquet"), clip)
    agreed, table = report.on_prompts(host, judge)
    figures += [*agreed, report.sampling(host, judge.concepts), *report.towers(models, clip, host)]
    asked = world and (models / "pocket-llava").is_dir()
    figures += [
        *(report.on_questions(models / "pocket-llava", world) if asked else []),
        *report.sizes(assets),
    ]
    typer.echo(_json(figures) if as_json else _table(figures))
    if sheet:
        typer.echo("\n".join(str(path) for path in sheets.write(sheet, world, table)), err=True)


def _table(figures: list[report.Figure]) -> str:
    lines = [f"{'figure':66} {'value':>9} {'95 % interval':>17} {'n':>6} {'bar':>9}"]
    for f in figures:
        low, high = f.interval
        span = f"{low:.3f} .. {high:.3f}" if f.n else ""
        bar = "" if f.bar is None else f"{'<=' if f.less else '>='} {f.bar:g}"
        mark = {None: "", True: "met", False: "MISSED"}[f.met]
        lines.append(
            f"{f.name:66} {f.value:>9.3g} {span:>17} {f.n or '':>6} {bar:>9} {f.unit} {mark}".rstrip()
        )
    return "\n".join(lines)


def _json(figures: list[report.Figure]) -> str:
    return json.dumps(
        [{**f.__dict__, "interval": f.interval, "met": f.met} for f in figures], indent=1
    )


if __name__ == "__main__":
    try:
        app(standalone_mode=True)
    except SlugError as problem:
        typer.echo(str(problem), err=True)
        raise SystemExit(1) from None
