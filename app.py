"""slugdemo's page: `python app.py`. Options -> World -> ui -> launch."""

import argparse
import os
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

with suppress(ImportError):  # in a ZeroGPU Space, where it must come before torch
    import spaces  # noqa: F401

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from gradio import Blocks
from starlette.middleware import Middleware

from slugdemo import limits as public
from slugdemo.ui import example, jobs, page, relief
from slugdemo.ui.session import World

HERE = Path(__file__).parent


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--assets", type=Path, default=HERE / "assets", help="models and pictures")
    parser.add_argument("--models", help="a folder of more models, like SLUGDEMO_MODELS")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "slugdemo")
    parser.add_argument("--host", default=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"))
    parser.add_argument("--port", type=int, default=int(os.environ.get("PORT", "7860")))
    parser.add_argument("--root-path", default=None, help="when served below a path")
    return parser


def opened(demo: Blocks) -> dict[str, Any]:
    """What else is to be said at the launch of a server that is open to all; else nothing."""
    limits = public.limits()
    if limits is None:
        return {}
    os.environ.pop("SLUG_MCP", None)
    demo.queue(max_size=limits.queue, default_concurrency_limit=2)
    return {"app_kwargs": {"middleware": [Middleware(public.Gate, limits=limits)]}}


def main() -> None:
    """Opens the page and keeps it open."""
    relief.thrifty()
    jobs.share_cores()
    given = parser().parse_args()
    if given.models:
        os.environ["SLUGDEMO_MODELS"] = given.models
    os.environ["SLUGDEMO_ASSETS"] = str(given.assets)
    world = World.at(given.assets, given.cache)
    threading.Thread(target=example.warm, args=(world,), daemon=True).start()
    demo = page.build(world)
    where = {"server_name": given.host, "server_port": given.port, "root_path": given.root_path}
    page.launch(demo, **where, **opened(demo))


if __name__ == "__main__":
    main()
