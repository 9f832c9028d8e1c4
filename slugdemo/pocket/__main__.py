"""`python -m slugdemo.pocket`: makes the pocket models and their example pictures, and reports on them."""

import json
from pathlib import Path
from typing import Annotated

import typer

import slugdemo  # noqa: F401  (declares torchvision's missing operators before anything imports it)
from slugdemo.errors import SlugError
from slugdemo.evaluation.judge import Judge
from slugdemo.models.diffusion import Diffusion
from slugdemo.pocket import examples, recipe, report, sheets
from slugdemo.pocket.names import UNSEEN
from slugdemo.pocket.world import Sprites

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False
)
ASSETS = Path(__file__).parents[2] / "assets"
SpriteFolder = Annotated[Path, typer.Option("--sprites", help="a folder <artist>/<name>.png")]
AssetFolder = Annotated[Path, typer.Option("--assets", help="where models/ and concepts/ lie")]


@app.command()
def train(
    part: Annotated[str, typer.Argument(help=f"all, or one of {', '.join(recipe.STEPS)}")],
    sprites: SpriteFolder,
    assets: AssetFolder = ASSETS,
    work: Annotated[Path, typer.Option(help="checkpoints, logs and rendered pictures")] = Path(
        ".pocket"
    ),
    steps: Annotated[int | None, typer.Option(help="steps of this part, else the recipe's")] = None,
    pictures: Annotated[
        int, typer.Option(help="pictures in the wide set; the calm one has two thirds")
    ] = recipe.PICTURES,
    without: Annotated[
        list[str] | None,
        typer.Option(help="what the reference models never see; may be repeated, else eight names"),
    ] = None,
) -> None:
    """Train one part, or all in order; goes on from the last checkpoint."""
    made = recipe.Recipe(
        sprites, assets / "models", work, pictures, without=tuple(without or UNSEEN)
    )
    made.small.known  # noqa: B018  (an unknown name is refused before hours of work)
    if part not in ("all", *recipe.STEPS):
        raise SlugError(f"There is no part {part!r}; choose all or {', '.join(recipe.STEPS)}.")
    for name in recipe.STEPS if part == "all" else [part]:
        made.train(name, steps)
    if part == "all":
        write_examples(sprites, assets)


@app.command(name="examples")
def write_examples(sprites: SpriteFolder, assets: AssetFolder = ASSETS) -> None:
    """Make, judge and record the example pictures of the three splits."""
    models = assets / "models"
    counts = examples.write(
        Diffusion.from_folder(models / "pocket-sd"),
        Judge.load(models / "judge"),
        assets / "concepts",
        groups=Sprites(sprites).groups,
    )
    for split, count in counts.items():
        typer.echo(f"{split}: kept {count['kept']} of {count['made']}")


@app.command(name="report")
def write_report(
    sprites: Annotated[Path | None, typer.Option(help="a folder <artist>/<name>.png")] = None,
    assets: AssetFolder = ASSETS,
    sheet: Annotated[
        Path | None, typer.Option("--sheets", help="write contact sheets there")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="for machines")] = False,
) -> None:
    """Print every figure of the committed models with n, interval and bar."""
    world = Sprites(sprites) if sprites else None
    figures, table = report.everything(assets, world)
    typer.echo(_json(figures) if as_json else _table(figures))
    if sheet:
        active = report.activations(assets, table)
        paths = sheets.write(sheet, world, table, active)
        typer.echo("\n".join(map(str, paths)), err=True)


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
