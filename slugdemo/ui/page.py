"""The page: which blocks there are, where they stand, and how it is served."""

import os
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
import plotly

from slugdemo.ui import events, forget
from slugdemo.ui.state import AppState, freed
from slugdemo.ui.tasks import Tasks
from slugdemo.ui.view import LARGEST_SEED

PLOTLY = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
ASSETS = Path(__file__).parents[2] / "assets"
WAITING = 128  # questions in line, of all visitors; the next is told to come back
PLAIN = {"container": False, "show_label": False}  # the label stays for screen readers
STYLE = ASSETS / "app.css"  # as a link: css_paths would rewrite its selectors
WAKING = {"text": "Waking up…", "share": None, "tone": "busy"}
HEADS = {
    "forget": ("Forget", "What should it forget?", ""),
    "map": (
        "Locate",
        "Which layer holds it?",
        '<button class="small" data-act="guess" title="Predict the layer before you see it">'
        "Guess</button>"
        '<button class="small" data-act="axes" title="Scale, alignment, granularity">Axes</button>'
        '<button class="small" data-act="layers">Table</button>',
    ),
    "see": (
        "See",
        "What does it do now?",
        '<button class="small" data-act="bring" title="Attacks on the edit that is open">'
        "Try to bring it back</button>",
    ),
    "curve": (
        "Step",
        "How far should we go?",
        '<button class="small" data-act="sum" title="The formula with its numbers">Formula</button>'
        '<button class="small" data-act="points">Table</button>',
    ),
    "compare": (
        "Compare",
        "Is that better than the field's other methods?",
        '<button class="small" data-act="gone">Is it gone?</button>'
        '<button class="small" data-act="published">Published</button>'
        '<button class="small" data-act="compareTable">Save as CSV</button>',
    ),
    "atlas": (
        "Atlas",
        "Which layers hold what, and who is lost with whom?",
        '<button class="small" data-act="atlasTable">Save as CSV</button>',
    ),
    "gone": (
        "Is it gone?",
        "What brings it back, by method: before → after each attack, in per cent",
        '<button class="small" data-act="compare">Methods</button>'
        '<button class="small" data-act="goneTable">Table</button>',
    ),
    "ladder": (
        "Ladder",
        "The same seed, step by step",
        '<button class="small" data-act="rungs">Table</button>'
        '<button class="small" data-act="again" title="Compute it again and compare with what came '
        'with the app">Again</button>',
    ),
}
CALLS = {
    "choice": ("model", "concept", "method"),
    "map": ("layer", "turn"),
    "curve": ("step",),
    "ladder": ("step", "again"),
    "see": ("picture",),
    "tray": ("switch", "drop", "rename"),
    "export": ("fetch",),
    "compare": ("show", "run", "open", "many", "detail", "features"),
    "atlas": ("show", "open"),
    "gone": ("show", "open", "run"),
    "attack": ("show", "run"),
}
SPACE = re.compile(r"[\w.-]+/[\w.-]+")
HIDDEN = (
    "comparison",
    "again",
    "choices",
    "pin",
    "export",
    "attack",
    "live",
    "updates",
)  # dialogs show them, or other blocks
SCRIPTS = (
    "app.js",
    "plots.js",
    "choice.js",
    "compare.js",
    "atlas.js",
    "gone.js",
    "export.js",
    "lesson.js",
)
BRAND = (
    '<header class="brand"><h1>slugdemo</h1><nav aria-label="Views">'
    '<button class="view chosen" data-act="erase">Erase</button>'
    '<button class="view" data-act="compare">Compare</button>'
    '<button class="view" data-act="atlas">Atlas</button></nav>'
    '<button class="small" data-act="story">Story</button>'
    '<button class="small" data-act="project" aria-label="Stage: projector mode">Stage</button>'
    '<button class="small" data-act="help" aria-label="Keys">?</button></header>'
)


def theme() -> gr.themes.Base:
    """Gradio's plainest theme with the fonts that the visitor's machine has."""
    fonts = ["system-ui", "-apple-system", "Segoe UI", "sans-serif"]
    return gr.themes.Base(
        neutral_hue="stone",
        primary_hue="emerald",
        font=fonts,
        font_mono=["ui-monospace", "monospace"],
        text_size="sm",
        spacing_size="sm",
        radius_size="md",
    )


def widget(name: str, value: Any = None, *, template: str = "") -> gr.HTML:  # noqa: ANN401
    """One block that the page's own script draws from plain data, or that is just its template."""
    title, question, extra = HEADS.get(name, ("", "", ""))
    inner = f"<span>{title} <small>{question}</small></span><span class='acts'>{extra}</span>"
    head = f"<h2>{inner}</h2>" if title else ""
    calls = ", ".join(f"{call}: d => trigger('{call}', d)" for call in CALLS.get(name, ()))
    scripts = [f'<script src="gradio_api/file={path.as_posix()}"></script>' for path in served()]
    return gr.HTML(
        value,
        html_template=template
        or f'<section class="{name}">{head}<div class="body"></div></section>',
        js_on_load=f"slug.mount('{name}', element, props, watch, {{{calls}}});",
        head="".join(scripts),
        apply_default_css=False,
        elem_id=name,
        elem_classes="unseen" if name in HIDDEN else None,
    )


def served() -> list[Path]:
    """The scripts that the page loads, all from this machine."""
    return [PLOTLY, *(ASSETS / name for name in SCRIPTS)]


@dataclass(frozen=True)
class Page:
    """The blocks of one page by their names."""

    blocks: dict[str, Any]

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401
        return self.blocks[name]

    def changing(self, *, controls: bool = True) -> list[Any]:
        """What an event may change. The fewer the faster: gradio makes every output anew at each
        update, so all that this page draws itself comes as one."""
        names = ("updates", "layers", "words", "seed", "own")
        return [self[name] for name in names[: None if controls else 1]]


def layout(state: AppState) -> Page:
    """The blocks, in the order of the five questions; called inside gr.Blocks."""
    at: dict[str, Any] = {}
    with gr.Row(elem_id="bar"):
        at["brand"] = widget("brand", template=BRAND)
        at["choice"] = widget("choice")
        at["all"] = gr.Button("Find layer and step", variant="primary", elem_id="find-all")
        at["status"] = widget("status", WAKING)
        at["stop"] = gr.Button("Stop", elem_id="stop")
    with gr.Column(elem_id="cards"):
        with gr.Column(elem_id="forget-card", elem_classes="card"):
            at["forget"] = widget("forget")
            _mine(at)
        with gr.Column(elem_id="locate-card", elem_classes="card"):
            at["map"] = widget("map")
            at["layers"] = gr.Dropdown([], label="Layer", elem_id="layer", **PLAIN)
            at["again"] = widget("again")
        _see(at)
        _step(at)
        with gr.Column(elem_id="ladder-card", elem_classes="card"):
            at["ladder"] = widget("ladder")
    with gr.Column(elem_id="compare-card", elem_classes="card"):
        at["compare"] = widget("compare")
    with gr.Column(elem_id="atlas-card", elem_classes="card"):
        at["atlas"] = widget("atlas")
    with gr.Column(elem_id="gone-card", elem_classes="card"):
        at["gone"] = widget("gone")
    _foot(at, state)
    return Page(at)


def _mine(at: dict[str, Any]) -> None:
    """A concept of one's own: a name, and pictures that are given or drawn."""
    with gr.Row(elem_id="mine-row"):
        at["mine"] = gr.Textbox(
            label="A concept of your own",
            placeholder="your own…",
            elem_id="mine",
            max_length=80,
            **PLAIN,
        )
        at["give"] = gr.UploadButton(
            "Upload", file_count="multiple", file_types=["image"], elem_id="give"
        )
        at["draw"] = gr.Button("Draw", elem_id="draw")


def _see(at: dict[str, Any]) -> None:
    with gr.Column(elem_id="see-card", elem_classes="card"):
        at["see"] = widget("see")
        with gr.Row(elem_id="ask"):
            at["words"] = gr.Textbox(
                label="Prompt", elem_id="words", max_length=400, scale=4, **PLAIN
            )
            at["seed"] = gr.Number(
                0,
                label="Seed",
                elem_id="seed",
                precision=0,
                minimum=0,
                maximum=LARGEST_SEED,
                **PLAIN,
            )
            at["own"] = gr.UploadButton("Own picture", file_types=["image"], elem_id="own")
        at["collateral"] = widget("collateral")


def _step(at: dict[str, Any]) -> None:
    with gr.Column(elem_id="step-card", elem_classes="card"):
        at["curve"] = widget("curve")
        with gr.Row(elem_id="go"):
            at["find"] = gr.Button("Find the step", elem_id="find")
            at["controls"] = gr.Button("Controls", elem_id="controls")
        at["comparison"] = widget("comparison")


def _foot(at: dict[str, Any], state: AppState) -> None:
    with gr.Row(elem_id="foot"):
        at["tray"] = widget("tray", {"rows": [], "note": ""})
        at["keep"] = gr.Button("Keep", elem_id="keep")
        at["undo"] = gr.Button("Undo", elem_id="undo")
        at["pinned"] = gr.Button("Pin A", elem_id="pinned")
        at["open"] = gr.UploadButton(
            "Open edit", file_types=[".safetensors"], elem_id="open", size="lg"
        )
        at["away"] = gr.HTML(
            '<button type="button" class="lg" id="away">Take away</button>',
            js_on_load="element.querySelector('button').onclick = () => slug.acts.away();",
            apply_default_css=False,
            elem_id="away-box",
        )
        at["link"] = gr.Button("Copy link", elem_id="link")
        at["file"] = gr.DownloadButton("File", elem_id="file", visible="hidden")
    at["choices"] = widget("choices", forget.choices(state))
    at["pin"] = widget("pin", {})
    at["attack"] = widget("attack", {})
    at["live"] = widget("live", {})
    at["export"] = widget("export", {})
    at["updates"] = widget("updates", {})  # what all others show now, by name


def build(state: AppState, tasks: Tasks | None = None) -> gr.Blocks:
    """The whole page with its events; launching is the caller's, as is closing the `tasks`."""
    gr.set_static_paths([*served(), STYLE])
    with gr.Blocks(
        title="slugdemo", analytics_enabled=False, fill_width=True, delete_cache=(3600, 7200)
    ) as demo:
        events.connect(demo, layout(state), state, tasks or Tasks(partial(freed, state)))
    return demo.queue(max_size=WAITING, default_concurrency_limit=2)


def space() -> str:
    """What a page in a Hugging Face Space must know to make links to it: the Space's name."""
    name = os.environ.get("SPACE_ID", "")
    return f'<meta name="space" content="{name}">' if SPACE.fullmatch(name) else ""


def launch(demo: gr.Blocks, **where: Any) -> Any:  # noqa: ANN401
    """Serves the page; `where` says host, port and root path, as gradio names them."""
    return demo.launch(
        theme=theme(),
        head=f'<link rel="stylesheet" href="gradio_api/file={STYLE.as_posix()}">{space()}',
        ssr_mode=False,
        pwa=False,
        run_history=False,
        show_error=False,
        strict_cors=True,
        enable_monitoring=False,
        max_file_size="20mb",
        share=False,
        state_session_capacity=200,
        footer_links=[],
        mcp_server=bool(os.environ.get("SLUG_MCP")),
        **where,
    )
