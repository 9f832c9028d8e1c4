"""The page: which blocks there are, where they stand, and how it is served."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import plotly

from slugdemo.ui import forget, wires
from slugdemo.ui.session import LARGEST_SEED, View, World

PLOTLY = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
ASSETS = Path(__file__).parents[2] / "assets"
PLAIN = {"container": False, "show_label": False}  # the label stays for screen readers
STYLE = ASSETS / "app.css"  # as a link: css_paths would rewrite its selectors
WAKING = {"text": "Waking up…", "share": None, "tone": "busy"}
HEADS = {
    "forget": ("Forget", "What should it forget?", ""),
    "map": (
        "Locate",
        "Which layer holds it?",
        '<button class="small" data-act="turn" title="Signed or absolute alignment">±</button>'
        '<button class="small" data-act="layers">Table</button>',
    ),
    "see": ("See", "What does it do now?", ""),
    "curve": (
        "Step",
        "How far should we go?",
        '<button class="small" data-act="points">Table</button>',
    ),
    "ladder": ("Ladder", "The same seed, step by step", ""),
}
CALLS = {
    "map": "{layer: d => trigger('layer', d), turn: d => trigger('turn', d)}",
    "curve": "{step: d => trigger('step', d)}",
    "ladder": "{step: d => trigger('step', d)}",
    "see": "{picture: d => trigger('picture', d)}",
    "tray": "{switch: d => trigger('switch', d), drop: d => trigger('drop', d)}",
}
BRAND = (
    '<header class="brand"><b>slugdemo</b><span>one layer, one step, one thing forgotten</span>'
    '<button class="small" data-act="story">Story</button>'
    '<button class="small" data-act="project" aria-label="Projector mode">Stage</button>'
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
    scripts = [f'<script src="gradio_api/file={path.as_posix()}"></script>' for path in served()]
    return gr.HTML(
        value,
        html_template=template
        or f'<section class="{name}">{head}<div class="body"></div></section>',
        js_on_load=f"slug.mount('{name}', element, props, watch, {CALLS.get(name, '{}')});",
        head="".join(scripts),
        apply_default_css=False,
        elem_id=name,
    )


def served() -> list[Path]:
    """The two scripts that the page loads, both from this machine."""
    return [PLOTLY, ASSETS / "app.js"]


@dataclass(frozen=True)
class Page:
    """The blocks of one page by their names."""

    blocks: dict[str, Any]

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401
        return self.blocks[name]


def layout(world: World) -> Page:
    """The blocks, in the order of the five questions; called inside gr.Blocks."""
    at: dict[str, Any] = {"view": gr.State(View())}
    with gr.Row(elem_id="bar"):
        at["brand"] = widget("brand", template=BRAND)
        at["model"] = gr.Dropdown(
            forget.models(world), label="Model", elem_id="model", filterable=False, **PLAIN
        )
        at["concept"] = gr.Dropdown(
            forget.concepts(world), label="Concept", elem_id="concept", **PLAIN
        )
        at["all"] = gr.Button("Find layer and step", variant="primary", elem_id="find-all")
        at["status"] = widget("status", WAKING)
        at["stop"] = gr.Button("Stop", elem_id="stop")
    with gr.Column(elem_id="board"):
        with gr.Column(elem_id="forget-card", elem_classes="card"):
            at["forget"] = widget("forget")
        with gr.Column(elem_id="locate-card", elem_classes="card"):
            at["map"] = widget("map")
            at["layers"] = gr.Dropdown([], label="Layer", elem_id="layer", **PLAIN)
        _see(at)
        _step(at)
        with gr.Column(elem_id="ladder-card", elem_classes="card"):
            at["ladder"] = widget("ladder")
    _foot(at)
    return Page(at)


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
            at["controls"] = gr.Button("Compare", elem_id="controls")
        at["compare"] = widget("compare")


def _foot(at: dict[str, Any]) -> None:
    with gr.Row(elem_id="foot"):
        at["tray"] = widget("tray", {"rows": [], "note": ""})
        at["keep"] = gr.Button("Keep this edit", elem_id="keep")
        at["save"] = gr.Button("Download edit", elem_id="save")
        at["link"] = gr.Button("Copy link", elem_id="link")
        at["file"] = gr.DownloadButton("File", elem_id="file", visible="hidden")


def build(world: World) -> gr.Blocks:
    """The whole page, wired; launching is the caller's."""
    gr.set_static_paths([*served(), STYLE])
    with gr.Blocks(
        title="slugdemo", analytics_enabled=False, fill_width=True, delete_cache=(3600, 7200)
    ) as demo:
        wires.connect(demo, layout(world), world)
    return demo.queue(max_size=24, default_concurrency_limit=2)


def launch(demo: gr.Blocks, **where: Any) -> Any:  # noqa: ANN401
    """Serves the page; `where` says host, port and root path, as gradio names them."""
    return demo.launch(
        theme=theme(),
        head=f'<link rel="stylesheet" href="gradio_api/file={STYLE.as_posix()}">',
        ssr_mode=False,
        pwa=False,
        run_history=False,
        show_error=False,
        strict_cors=True,
        enable_monitoring=False,
        max_file_size="5mb",
        share=False,
        state_session_capacity=200,
        footer_links=[],
        mcp_server=bool(os.environ.get("SLUG_MCP")),
        **where,
    )
