"""slugdemo's page: `python app.py`. Options -> state -> page -> launch."""

import ctypes
import os
import socket
import sys
import tempfile
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any

with suppress(ImportError):  # in a ZeroGPU Space, where it must come before torch
    import spaces  # noqa: F401

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import typer
from gradio import Blocks
from starlette.middleware import Middleware

from slugdemo import catalog
from slugdemo import limits as public
from slugdemo.errors import SlugError
from slugdemo.ui import callbacks, page, tasks
from slugdemo.ui.state import AppState, freed
from slugdemo.ui.workers import Workers, usual

HERE = Path(__file__).parent
ARENAS, M_ARENA_MAX = 2, -8  # how many, and what glibc's malloc.h calls the setting
PORT, CACHE = 7860, Path(tempfile.gettempdir()) / "slugdemo"


def opened(demo: Blocks) -> dict[str, Any]:
    """What else is to be said at the launch of a server that is open to all; else nothing."""
    limits = public.limits()
    if limits is None:
        return {}
    os.environ.pop("SLUG_MCP", None)
    demo.queue(max_size=limits.queue, default_concurrency_limit=2)
    return {"app_kwargs": {"middleware": [Middleware(public.Gate, limits=limits)]}}


def thrifty() -> None:
    """Gives the C library few arenas, where it has any: it would make one for each of a server's
    many threads, and each would keep room for the most that its thread ever needed."""
    if sys.platform == "linux":
        with suppress(AttributeError):  # another C library than glibc
            ctypes.CDLL(None).mallopt(M_ARENA_MAX, ARENAS)


def check_free(host: str, port: int) -> None:
    """Ends the program with a sentence when another one listens on the port."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            said = f"Port {port} of {host} cannot be used: {error.strerror}. Choose another one "
            typer.echo(said + "with --port, or end the program that uses it.", err=True)
            raise typer.Exit(1) from error


def below(path: str) -> str | None:
    """The path that the page is served below, as gradio wants it: "/demo" for "demo"."""
    bare = path.strip().strip("/")
    return path.rstrip("/") if "://" in path else f"/{bare}" if bare else None


def main(
    assets: Annotated[
        Path, typer.Option(help="models and pictures", envvar="SLUGDEMO_ASSETS")
    ] = HERE / "assets",
    models: Annotated[
        Path | None, typer.Option(help="a folder of more models", envvar="SLUGDEMO_MODELS")
    ] = None,
    cache: Annotated[
        Path, typer.Option(help="where gradients are remembered", envvar="SLUGDEMO_CACHE")
    ] = CACHE,
    host: Annotated[
        str, typer.Option(help="the address to listen on", envvar="GRADIO_SERVER_NAME")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="the port to listen on", envvar=["GRADIO_SERVER_PORT", "PORT"])
    ] = PORT,
    root_path: Annotated[
        str, typer.Option(help="where it is served below a path", envvar="GRADIO_ROOT_PATH")
    ] = "",
    workers: Annotated[
        int | None,
        typer.Option(
            help="processes for what takes long, 0 for none; by default 2, or 0 below 6 GB of free memory",
            envvar="SLUGDEMO_WORKERS",
            min=0,
            max=64,
        ),
    ] = None,
) -> None:
    """Open the page and keep it open."""
    thrifty()
    tasks.share_cores()
    check_free(host, port)
    if models:
        os.environ["SLUGDEMO_MODELS"] = str(models)
    os.environ["SLUGDEMO_ASSETS"], os.environ["SLUGDEMO_CACHE"] = str(assets), str(cache)
    try:
        catalog.check()
        public.limits()
    except SlugError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
    state = AppState(workers=Workers(usual() if workers is None else workers))
    threading.Thread(target=callbacks.warm, args=(state,), daemon=True).start()
    work = tasks.Tasks(partial(freed, state), places=max(tasks.PLACES, state.workers.count))
    demo = page.build(state, work)
    where = {"server_name": host, "server_port": port, "root_path": below(root_path)}
    try:
        page.launch(demo, **where, **opened(demo))
    finally:
        work.close()
        state.workers.close()


if __name__ == "__main__":
    typer.run(main)
