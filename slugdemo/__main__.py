"""`python -m slugdemo`: the whole job without a browser.

Every command prints a table, or JSON with --json; progress goes to stderr, and what is wrong with
the input is one sentence and exit code 1.
"""

import io
import logging
import os
import sys
from collections.abc import Callable
from typing import Any

import typer

if "--download" not in sys.argv:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a hub that is slow or down holds nobody up

import slugdemo  # noqa: F401  (declares torchvision's missing operators before anything imports it)

# isort: split
from transformers.utils.logging import disable_progress_bar

from slugdemo.cli import attack, benchmark, find, measure, show
from slugdemo.cli.options import current
from slugdemo.errors import SlugError


class Sentences(typer.core.TyperGroup):
    """Commands whose SlugErrors become one sentence on stderr and exit code 1.

    Options that were renamed still work, and say what they are called now.
    """

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # noqa: ANN401
        """The command's name, itself, and its arguments under their present names."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command, current(name or "", rest)

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401
        """Runs the command; of what libraries say, only their errors get through."""
        for library in ("diffusers", "transformers", "root"):
            logging.getLogger(library).setLevel(logging.ERROR)
        disable_progress_bar()
        for stream in (sys.stdout, sys.stderr):  # letters that a terminal does not have are spelt
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            return super().invoke(ctx)
        except SlugError as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(1) from None


app = typer.Typer(
    cls=Sentences,
    add_completion=False,
    no_args_is_help=True,
    help="Make a model forget one concept: by one layer and one gradient (SLUG), or by other methods.",
    pretty_exceptions_enable=False,
)
bench = typer.Typer(no_args_is_help=True, help="Measure speed and quality, each against its bar.")
app.add_typer(bench, name="bench")
comparing = typer.Typer(no_args_is_help=True, help="Compare methods over many concepts.")
app.add_typer(comparing, name="benchmark")

FINDING = (find.models, find.concepts, find.methods, find.locate, find.sweep, find.erase)
USING = (show.apply, show.generate, show.classify, show.ask, attack.attacks, attack.attack)
command: Callable[..., None]
for command in (*FINDING, find.compare, *USING):
    app.command()(command)
for command in (measure.speed, measure.quality, measure.fullsize):
    bench.command()(command)
for command in (benchmark.run, benchmark.show, benchmark.atlas, benchmark.layers):
    comparing.command()(command)
comparing.command("many")(benchmark.several)

if __name__ == "__main__":
    app(prog_name="python -m slugdemo")
