"""A real server that is open to all: limits, strange requests, and visitors who keep their own answers."""

import http.client
import inspect
import json
import os
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import house
import load
import pytest
import test_readme
import typer
from gradio import Blocks
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from test_reliability import PLAIN, Chaos, address, picture_bytes
from typer.testing import CliRunner

import app
from slugdemo import limits as public
from slugdemo.errors import SlugError
from slugdemo.models.loading import opened
from slugdemo.ui import events, page
from slugdemo.ui.api import NAMES, QUEUE, Api
from slugdemo.ui.state import AppState

pytestmark = pytest.mark.filterwarnings("ignore")  # of gradio's own threads and sockets
BURST = 1500
PATIENCE = 60.0  # seconds
SERVERS: dict[str, Blocks] = {}  # the pages that are served, by address


@pytest.fixture(scope="module")
def served(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a public page over the tiny assets, with a burst that these tests stay within."""
    folder: Path = tmp_path_factory.mktemp("served")
    limits = public.Limits(burst=BURST, rate=0.001, body=8_000_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "gradio"))
        patch.setenv("SLUG_MCP", "1")
        patch.setattr(public, "limits", lambda: limits)
        assert assets.is_dir()
        demo = page.build(AppState())
        quiet = {"prevent_thread_lock": True, "quiet": True}
        where = page.launch(demo, **quiet, **app.opened(demo))[1].rstrip("/")
        SERVERS[where] = demo
        yield where
        demo.close()


@pytest.fixture(scope="module")
def client(served: str) -> Client:
    return Client(served, verbose=False, analytics_enabled=False)


class Here(urllib.request.HTTPRedirectHandler):
    """Follows nobody elsewhere."""

    def redirect_request(self, *_: object) -> None:
        """A redirection is an answer like others."""


OPENER = urllib.request.build_opener(Here, urllib.request.ProxyHandler({}))


def answer(url: str, data: bytes | None = None) -> tuple[int, bytes]:
    """The status and the body of an answer."""
    try:
        with OPENER.open(urllib.request.Request(url, data), timeout=30) as got:
            return got.status, got.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


PATHS = [
    *("/etc/passwd", "../../etc/passwd", "%2e%2e/%2e%2e/etc/passwd", "..%2f..%2fetc%2fpasswd"),
    *("app.py", "README.md", "assets/concepts/test.parquet", "~/.ssh/id_rsa", "/proc/self/environ"),
    *("http://169.254.169.254/latest", "file:///etc/passwd", "slugdemo/errors.py", "a" * 3000),
]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path[:40])
def test_no_file_of_the_server_can_be_fetched(path: str, served: str) -> None:
    tried = [path, (app.HERE / path).as_posix()]
    for one in tried:
        status, body = answer(f"{served}/gradio_api/file={one}")
        assert status >= 400, one
        assert b"root:" not in body
        assert b"SlugError" not in body


def test_malformed_calls_are_sentences_at_the_other_end_too(client: Client) -> None:
    said = []
    for seed, name in enumerate([name for name in NAMES if name not in PLAIN] * 3):
        chaos = Chaos(100 + seed)
        call = getattr(Api(None), name)
        names = list(inspect.signature(call).parameters)
        given = chaos.arguments(names, heavy=True)
        given |= {key: "nothing" for key in ("model", "concept") if given.get(key) == ""}
        try:
            json.dumps(given, allow_nan=False).encode()
        except (TypeError, ValueError):
            continue  # cannot be sent at all
        if max(len(str(one)) for one in given.values()) > 200_000:
            continue
        try:
            client.predict(**given, api_name=f"/{name}")
        except AppError as error:
            said.append(str(error))
    assert len(said) > 5
    assert not [one for one in said if "Traceback" in one or "Error(" in one]


@pytest.mark.parametrize(
    "model", ["sd-1.5", "ViT-B-32/laion400m_e32", "/etc", "org/repository", "."]
)
def test_a_visitor_opens_only_what_is_listed(model: str, client: Client) -> None:
    with pytest.raises(AppError, match=r"no model|on its list"):
        client.predict(model, "cat", api_name="/rank_layers")
    with pytest.raises(SlugError, match="on its list"):
        opened(model)


def test_a_request_that_is_too_large_is_refused(served: str) -> None:
    line = http.client.HTTPConnection(served.removeprefix("http://"), timeout=30)
    line.putrequest("POST", "/gradio_api/call/classify")
    line.putheader("Content-Length", "8000001")
    line.endheaders()  # and not one byte of it
    got = line.getresponse()
    assert got.status == 413
    assert b"at most 8 MB" in got.read()
    line.close()


def test_there_is_no_mcp(served: str) -> None:
    assert "SLUG_MCP" not in os.environ
    assert answer(f"{served}/gradio_api/mcp/")[0] >= 400


def test_a_file_by_handle_file_is_answered_as_its_address(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(picture_bytes("PNG"))
    file = client.predict("pocket-clip", handle_file(str(path)), "cat", api_name="/classify")
    sent = address(picture_bytes("PNG"))
    assert file == client.predict("pocket-clip", sent, "cat", api_name="/classify")


def test_a_good_call_is_answered(client: Client) -> None:
    picture = address(picture_bytes("PNG"))
    beliefs = client.predict("pocket-clip", picture, "cat", api_name="/classify")
    assert sum(beliefs.values()) == pytest.approx(1, abs=1e-4)


def test_a_call_leaves_the_pages_concurrency_as_it_is(served: str, client: Client) -> None:
    """A shared id would keep the lowest limit that was ever queued under it."""
    demo = SERVERS[served]
    for event in demo.fns.values():  # as if each event of the page had come once
        if event.queue and event.api_visibility == "private":
            demo._queue.create_event_queue_for_fn(event)
    client.predict("pocket-clip", "cat", api_name="/rank_layers")
    queues = demo._queue.event_queue_per_concurrency_id
    assert queues["page"].concurrency_limit == events.QUEUE["concurrency_limit"]
    assert queues["api"].concurrency_limit == QUEUE["concurrency_limit"]


def test_lists_do_not_wait_for_pictures(
    served: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ("pocket-clip", "cat")
    client.predict(*given, api_name="/rank_layers")
    line = SERVERS[served]._queue.event_queue_per_concurrency_id["api"]
    with monkeypatch.context() as patch:
        patch.setattr(line, "current_concurrency", QUEUE["concurrency_limit"])  # all places taken
        waiting = client.submit(*given, api_name="/rank_layers")
        for name in PLAIN:
            assert client.submit(api_name=f"/{name}").result(PATIENCE)
        assert not waiting.done()
    assert waiting.result(PATIENCE)


def test_the_readmes_call_works(served: str, capsys: pytest.CaptureFixture) -> None:
    [block] = [one for one in test_readme.blocks("python") if "gradio_client" in one]
    exec(compile(block.replace("http://127.0.0.1:7860", served), "README.md", "exec"), {})
    assert "retain" in capsys.readouterr().out


def test_visitors_with_different_edits_get_the_answers_they_get_alone(served: str) -> None:
    found = load.run(served, os.getpid(), visitors=4, seconds=2, each=2)
    assert found["complaints"] == []
    assert found["wrong_answers"] == found["failed_calls"] == 0
    assert found["right_answers"] >= 2 * 4 * 2  # one visitor alone, then all four
    assert found["sent_away"] == 0
    assert found["latency_median"] <= found["latency_p95"] <= found["latency_longest"]


@pytest.mark.slow
def test_thirty_two_visitors_for_two_minutes(tmp_path: Path) -> None:
    """In a server of its own, so that its memory is its own; SLUGDEMO_LOAD says for how long."""
    seconds = float(os.environ.get("SLUGDEMO_LOAD", "0"))
    if not seconds:
        pytest.skip("set SLUGDEMO_LOAD=120")
    with load.page(house.build(tmp_path / "assets"), tmp_path / "cache") as (where, pid):
        found = load.run(where, pid, visitors=32, seconds=seconds)
    assert load.passed(found), found


def test_who_asks_too_often_is_told_to_wait(served: str) -> None:
    """The last one, since it uses up what is left."""
    for _ in range(BURST + 1):
        status, body = answer(f"{served}/gradio_api/nothing", b"{}")
        if status == 429:
            break
    assert status == 429
    assert b"wait" in body
    assert answer(f"{served}/config")[0] == 200


def test_the_page_is_thrifty_before_it_makes_any_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr(app, "thrifty", lambda: done.append("thrifty"))
    monkeypatch.setattr(app.tasks, "share_cores", lambda: done.append("shared"))
    monkeypatch.setattr(app.callbacks, "warm", lambda _: None)
    monkeypatch.setattr(app.page, "build", lambda *_: done.append("built"))
    monkeypatch.setattr(app.page, "launch", lambda *_, **__: done.append("launched"))
    monkeypatch.setattr(app, "opened", lambda _: {})
    for name in ("SLUGDEMO_ASSETS", "SLUGDEMO_CACHE"):
        monkeypatch.setenv(name, "")  # main sets it; this puts it back
    app.main(assets=tmp_path, port=0)
    assert done == ["thrifty", "shared", "built", "launched"]


def test_a_busy_port_ends_in_a_sentence(capsys: pytest.CaptureFixture) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(typer.Exit):
            app.check_free("127.0.0.1", taken.getsockname()[1])
    assert "Choose another one with --port" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ([], ("0.0.0.0", 7123, "/slug")),
        (["--port", "7124", "--host", "127.0.0.1", "--root-path", "/x"], ("127.0.0.1", 7124, "/x")),
        (["--port", "7125", "--root-path", "demo/"], ("0.0.0.0", 7125, "/demo")),
    ],
)
def test_gradios_own_variables_count_and_options_win(
    given: list[str],
    wanted: tuple[str, int, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in (("NAME", "0.0.0.0"), ("PORT", "7123")):
        monkeypatch.setenv(f"GRADIO_SERVER_{name}", value)
    monkeypatch.setenv("GRADIO_ROOT_PATH", "/slug")
    for name in ("SLUGDEMO_ASSETS", "SLUGDEMO_CACHE"):
        monkeypatch.setenv(name, str(tmp_path))
    found: dict[str, object] = {}
    for part, name in ((app, "thrifty"), (app.tasks, "share_cores")):
        monkeypatch.setattr(part, name, lambda: None)
    monkeypatch.setattr(app, "check_free", lambda *_: None)
    monkeypatch.setattr(app.callbacks, "warm", lambda _: None)
    monkeypatch.setattr(app.page, "build", lambda *_: None)
    monkeypatch.setattr(app, "opened", lambda _: {})
    monkeypatch.setattr(app.page, "launch", lambda _, **where: found.update(where))
    program = typer.Typer()
    program.command()(app.main)
    CliRunner().invoke(program, given, catch_exceptions=False)
    assert (found["server_name"], found["server_port"], found["root_path"]) == wanted
