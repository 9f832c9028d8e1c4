"""A thousand malformed calls and links: each gets an answer or one sentence, never anything else."""

import base64
import inspect
import io
import json
import math
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from PIL import Image

from slugdemo.errors import SlugError
from slugdemo.ui import forget
from slugdemo.ui.api import NAMES, Api, asked
from slugdemo.ui.state import AppState
from slugdemo.ui.tasks import unwatched
from slugdemo.ui.view import View
from slugdemo.weights import digest

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
LAYER = "transformer.resblocks.1.attn.out_proj.weight"
HEAVY = {"erase", "compare", "attack", "search_step", "sweep"}
PLAIN = ("models", "concepts", "methods", "attacks")  # with sound arguments they work for long

TEXTS = [
    *(
        "",
        " ",
        "\x00",
        "\n",
        "a" * 100_000,
        "𝕤𝕝𝕦𝕘",
        "\ud800",
        "‮gnp.exe",
        "e\u0301" * 300,
        "🐌" * 2000,
    ),
    *(
        "../../../etc/passwd",
        "/etc/passwd",
        "..\\..\\boot.ini",
        "file:///etc/passwd",
        "~/.ssh/id_rsa",
    ),
    *(
        "http://169.254.169.254/latest",
        "\\\\host\\share",
        "con",
        "a/b",
        "sd-2.1",
        "ViT-L-14/openai",
    ),
    *("<script>alert(1)</script>", "'; DROP TABLE edits; --", "{{7*7}}", "${jndi:ldap://x}", "%00"),
    *(
        "__class__",
        "visual.__dict__",
        "transformer.resblocks.99.attn.in_proj_weight",
        "logit_scale",
    ),
    *(
        "cat #0123456789abcdef",
        "cat~",
        "<image>",
        "<|endoftext|>" * 50,
        "pocket-clip ",
        "POCKET-SD",
    ),
]
NUMBERS = [
    *(
        math.nan,
        math.inf,
        -math.inf,
        -1,
        -0.0,
        1e308,
        5e-324,
        2**31,
        2**63,
        2**200,
        -(2**63),
        1.5,
        0.1,
    ),
]
OTHERS: list[object] = [None, True, [], {}, [[]], {"a": 1}, b"bytes", "0.5", ["x"], [math.nan] * 40]


def picture_bytes(kind: str, *, size: int = 16, **options: object) -> bytes:
    packed = io.BytesIO()
    Image.new("RGB", (size, size), "red").save(packed, kind, **options)
    return packed.getvalue()


def bomb() -> bytes:
    """A PNG of 20,000 x 20,000 pixels in a few hundred bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    head = struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)
    body = zlib.compress(bytes(20_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def address(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


@cache
def addresses() -> list[str]:
    """Pictures that are none, are too much, or are cut off."""
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    moving = io.BytesIO()
    frames[0].save(moving, "GIF", save_all=True, append_images=frames[1:])
    whole = [picture_bytes(kind) for kind in ("PNG", "JPEG", "WEBP", "BMP")]
    noise = random.Random(5).randbytes(300)
    broken = [noise, moving.getvalue(), bomb(), b"", b"%!PS-Adobe-3.0 EPSF\n", b"<svg onload='x'/>"]
    broken += [data[: len(data) // 2] for data in whole] + [data[:9] + noise for data in whole]
    broken += [picture_bytes("PNG", size=3000), picture_bytes("TIFF"), picture_bytes("PPM")]
    return [*map(address, broken), "data:image/png;base64,&&&", "no address", "a" * 4_000_001]


@pytest.fixture(autouse=True, scope="module")
def _unchanged(state: AppState) -> Iterator[None]:
    """Whatever is sent, the model stays what it was."""
    before = digest(state.opened("pocket-clip").clip.model)
    yield
    assert digest(state.opened("pocket-clip").clip.model) == before


class Chaos:
    """Arguments, some sound and at least one malformed, by a seed."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.pictures = addresses()
        self.sound = {
            "model": ["pocket-clip", "pocket-sd", "pocket-llava"],
            "concept": ["cat", "wizard", "neon"],
            "layer": [LAYER, "visual.proj"],
            "picture": [address(picture_bytes("PNG"))],
            "prompt": ["a cat"],
            "question": ["What is this?"],
            "seed": [0, 7],
            "strength": [0.0, 0.3],
            "strengths": [[0.1]],
            "method": ["slug"],
            "edit": [""],
            "attack": ["typos"],
            "on": ["original"],
        }

    def malformed(self, name: str) -> object:
        if name == "picture" and self.dice.random() < 0.7:
            return self.dice.choice(self.pictures)
        if name == "strengths" and self.dice.random() < 0.7:
            return [
                self.dice.choice([*NUMBERS, *OTHERS]) for _ in range(self.dice.choice([1, 2, 99]))
            ]
        return self.dice.choice(self.dice.choice([TEXTS, NUMBERS, OTHERS]))

    def arguments(self, names: list[str], *, heavy: bool) -> dict[str, object]:
        given = {name: self.dice.choice(self.sound[name]) for name in names}
        bad = self.dice.sample(names, self.dice.randint(1, len(names)))
        if heavy:  # what would begin long work has a name that stands for nothing
            bad = [*bad, self.dice.choice(["model", "concept"])]
        return given | {name: self.malformed(name) for name in bad}


def outcome(work: Callable[[], object]) -> str:
    """ "answer" or "sentence"; anything else is an error of the test."""
    try:
        json.dumps(work(), allow_nan=False)
    except SlugError as error:
        said = str(error)
        assert 10 < len(said) < 700, said[:300]
        assert said.rstrip()[-1] in ".?!", said
        assert "Traceback" not in said
        return "sentence"
    return "answer"


@pytest.mark.parametrize("name", [name for name in NAMES if name not in PLAIN])
def test_malformed_calls_get_an_answer_or_a_sentence(state: AppState, name: str) -> None:
    call = asked(getattr(Api(state), name))
    names = list(inspect.signature(call).parameters)
    chaos, seen = Chaos(NAMES.index(name)), []
    for _ in range(115):
        given = chaos.arguments(names, heavy=name in HEAVY)
        try:
            seen.append(outcome(lambda given=given: call(**given)))
        except Exception as error:
            error.add_note(f"{name}({ {key: repr(value)[:80] for key, value in given.items()} })")
            raise
    assert seen.count("sentence") > 60


def test_calls_with_too_many_too_few_or_wrong_arguments_get_a_sentence(state: AppState) -> None:
    for name in NAMES:
        call = asked(getattr(Api(state), name))
        for given, named in (((1,) * 9, {}), ((), {"nonsense": 1})):
            assert outcome(lambda call=call, g=given, n=named: call(*g, **n)) == "sentence"


def test_malformed_links_are_the_beginning_or_a_sentence(state: AppState) -> None:
    dice, seen = random.Random(1), []
    keys = [
        "v",
        "model",
        "concept",
        "layer",
        "step",
        "seed",
        "picture",
        "words",
        "by",
        "keep",
        "pin",
    ]
    texts = [text for text in TEXTS if len(text) < 5000]
    for _ in range(200):
        values = [*texts, *map(str, NUMBERS), "cat~x~0.1~on", "~~~", "a~b~nan~on", "1"]
        query = {key: [dice.choice(values)] for key in dice.sample(keys, dice.randint(1, 6))}

        def work(query: dict = query) -> str:
            return state.settled(View.parse(query)).query()

        seen.append(outcome(work))
    assert seen.count("sentence") > 50
    assert View.parse(parse_qs("")) == View()


def test_names_and_files_that_visitors_bring_are_checked(state: AppState, tmp_path: Path) -> None:
    for text in TEXTS:
        outcome(lambda text=text: forget.named(text))
    for number, data in enumerate((b"", b"x", b"PK\x03\x04", bomb(), picture_bytes("PNG")[:40])):
        path = tmp_path / f"{number}.png"
        path.write_bytes(data)

        def bring(path: Path = path) -> object:
            return forget.uploaded(
                state,
                View("pocket-clip", "cat"),
                unwatched(),
                visitor="me",
                name="my cat",
                given=[str(path)] * 3,
            )

        assert outcome(bring) == "sentence"
