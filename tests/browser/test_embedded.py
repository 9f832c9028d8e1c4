"""The page below a path, behind a proxy and in a frame of another site, as a Space shows it."""

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import house
import httpx
import pytest
import uvicorn
from playwright.sync_api import Browser, FrameLocator, Page, expect
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route
from visit import PATIENCE, READY, foreign, opened

from slugdemo.ui import page
from slugdemo.ui.state import AppState

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore")]
CLIP = "model=pocket-clip&concept=cat"
HUB = "https://huggingface.co/spaces/some-one/slug.demo"
SPACE = "https://some-one-slug-demo.hf.space/"
METHODS = ["GET", "POST", "HEAD", "DELETE"]
FRAME = (
    "<!doctype html><title>Around</title>"
    '<iframe src="{}" allow="clipboard-write" style="border:0;width:1280px;height:720px"></iframe>'
)


def proxy(upstream: str) -> Starlette:
    """Hands what comes below /demo on to another server, and at / shows it in a frame."""
    client = httpx.AsyncClient(base_url=upstream, timeout=None, trust_env=False)

    async def handed_on(request: Request) -> Response:
        sent = client.build_request(
            request.method,
            request.path_params["path"],
            params=request.url.query.encode(),
            headers=request.headers.raw,
            content=await request.body(),
        )
        got = await client.send(sent, stream=True)

        async def body() -> AsyncIterator[bytes]:
            try:
                async for part in got.aiter_raw():
                    yield part
            finally:
                await got.aclose()

        answer = StreamingResponse(body(), got.status_code)
        answer.raw_headers = got.headers.raw
        return answer

    async def around(request: Request) -> Response:
        port, query = request.url.port, request.url.query
        return HTMLResponse(FRAME.format(f"http://127.0.0.1:{port}/demo/?{query}"))

    async def iconless(_: Request) -> Response:
        return Response(status_code=204)

    @asynccontextmanager
    async def alive(_: Starlette) -> AsyncIterator[None]:
        async with client:
            yield

    return Starlette(
        lifespan=alive,
        routes=[
            Route("/", around),
            Route("/favicon.ico", iconless),
            Route("/demo{path:path}", handed_on, methods=METHODS),
        ],
    )


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a proxy before a page over the tiny assets, in a Space of some name."""
    folder: Path = tmp_path_factory.mktemp("embedded")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "gradio"))
        patch.setenv("SLUGDEMO_ASSETS", str(house.build(folder / "assets")))
        patch.setenv("SLUGDEMO_CACHE", str(folder / "cache"))
        demo = page.build(AppState())
        page.launch(demo, prevent_thread_lock=True, quiet=True, root_path="/demo")
        app = proxy(f"http://127.0.0.1:{demo.server_port}")
        server = uvicorn.Server(
            uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=3)
        )
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            thread.join(0.05)
        yield server.servers[0].sockets[0].getsockname()[1]
        server.should_exit = True
        thread.join()
        demo.close()


@pytest.fixture
def tab(browser: Browser) -> Iterator[Page]:
    """A page that may complain, since a reload breaks off gradio's streams, but asks no one else."""
    context = browser.new_context(viewport={"width": 1280, "height": 720}, accept_downloads=True)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page, wrong = context.new_page(), []
    page.on("request", lambda request: wrong.append(request.url) if foreign(request.url) else None)
    page.set_default_timeout(PATIENCE)
    yield page
    context.close()
    assert [url for url in wrong if not url.startswith((HUB, SPACE))] == []


def ready(frame: FrameLocator) -> None:
    expect(frame.locator("#status .said")).to_have_text(READY, timeout=PATIENCE)


def test_below_a_path_in_a_frame_links_downloads_and_reloads_work(
    tab: Page, port: int, tmp_path: Path
) -> None:
    tab.goto(f"http://localhost:{port}/?{CLIP}")
    frame = tab.frame_locator("iframe")
    ready(frame)
    frame.locator("#ladder .rung", has_text="40 %").click()
    expect(frame.locator("#curve .at")).to_have_text("0.400")
    ready(frame)
    inner = tab.frames[1]
    inner.wait_for_function("location.search.includes('strength=0.4')")
    frame.locator("#link").click()
    expect(frame.locator("#status .said")).to_contain_text("copied")
    link = tab.evaluate("navigator.clipboard.readText()")
    assert link.startswith(f"http://127.0.0.1:{port}/demo/?")
    frame.locator("#away").click()
    with tab.expect_download() as waiting:
        frame.get_by_role("button", name="safetensors").click()
    waiting.value.save_as(tmp_path / "edit")
    assert (tmp_path / "edit").stat().st_size > 1000
    inner.evaluate("location.reload()")
    ready(frame)
    expect(frame.locator("#curve .at")).to_have_text("0.400")
    expect(opened(tab, link).locator("#curve .at")).to_have_text("0.400")


def test_in_a_space_the_hubs_address_bar_and_link_say_what_is_shown(
    tab: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the page's own script in a frame of another site; no server is needed for that."""
    monkeypatch.setenv("SPACE_ID", HUB.split("spaces/")[1])
    script = (page.ASSETS / "app.js").read_text()
    inner = f'{page.space()}<div id="status"><p class="body"></p></div><script>{script}</script>'
    listens = "<script>addEventListener('message', ({data}) => { window.told = data; })</script>"
    around = listens + FRAME.format(f"{SPACE}?v=1")
    tab.route(f"{HUB}*", lambda route: route.fulfill(body=around, content_type="text/html"))
    tab.route(f"{SPACE}*", lambda route: route.fulfill(body=inner, content_type="text/html"))
    tab.goto(f"{HUB}?v=1")
    tab.frames[1].wait_for_function("window.slug")
    tab.frames[1].evaluate(
        "slug.draw.status(document.querySelector('.body'),"
        " {text: 'Ready.', share: null, tone: 'calm', query: 'v=1&model=other'})"
    )
    tab.wait_for_function("window.told?.queryString === '?v=1&model=other'")
    tab.frames[1].evaluate("slug.acts.link()")
    expect(tab.frame_locator("iframe").locator("#status")).to_contain_text("copied")
    assert tab.evaluate("navigator.clipboard.readText()") == f"{HUB}?v=1&model=other"


def test_a_browser_that_forbids_copying_is_asked_in_the_old_way(visitor: Page, served: str) -> None:
    opened(visitor, served, CLIP)
    visitor.evaluate(
        "() => { navigator.clipboard.writeText = () => Promise.reject(new Error('no')) }"
    )
    visitor.locator("#link").click()
    expect(visitor.locator("#status .said")).to_contain_text("copied")
    assert visitor.evaluate("navigator.clipboard.readText()") == visitor.url
