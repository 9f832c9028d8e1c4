"""Full-size models, as the hub has them: what is read, what is refused, and what a bad hub costs."""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fullsize
import house
import pytest
import tiny
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from slugdemo import catalog, cost
from slugdemo.edit import Edit
from slugdemo.errors import SlugError
from slugdemo.models import checkpoint_files as inventory
from slugdemo.models import loading
from slugdemo.models.clip import Clip
from slugdemo.models.loading import TooLarge

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
SD = {"sd-1.5": ("ViT-L-14", 0), "sd-2.1": ("ViT-H-14", 1)}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of full-size layouts beside the CLIPs that they carry."""
    folder = tmp_path_factory.mktemp("models")
    for name, (carried, dropped) in SD.items():
        model = fullsize.clip(carried)
        fullsize.clip_folder(folder / carried, carried, model)
        fullsize.sd(folder / name, model, dropped=dropped)
    eyes = fullsize.clip("ViT-L-14-336", seed=2)
    fullsize.clip_folder(folder / "ViT-L-14-336", "ViT-L-14-336", eyes)
    fullsize.llava(folder / "llava-1.5", eyes)
    return folder


@pytest.fixture(autouse=True)
def here(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUGDEMO_ASSETS", str(tmp_path))
    monkeypatch.setenv("SLUGDEMO_MODELS", str(models))
    monkeypatch.delenv("SLUGDEMO_DTYPE", raising=False)


def blocks(tensors: list[str]) -> set[int]:
    """The numbers of the blocks that some tensors belong to."""
    return {int(name.split("resblocks.")[1].split(".")[0]) for name in tensors if "blocks" in name}


def edited(clip: Clip, name: str) -> Edit:
    return tiny.edit(clip.model, name, 0.8)


@pytest.mark.parametrize(("name", "depth"), [("ViT-B-32", (12, 12)), ("ViT-L-14", (24, 12))])
def test_an_open_clip_folder_of_the_hub_opens(
    name: str, depth: tuple[int, int], models: Path, tmp_path: Path
) -> None:
    folder = models / name
    if not folder.is_dir():
        folder = fullsize.clip_folder(tmp_path / name, name, fullsize.clip(name))
    clip = loading.opened(str(folder)).clip
    tokens = clip.tokenize(["a picture of a cat"])
    assert tokens.shape == (1, 77)
    assert clip.encode_text(tokens).shape == (1, fullsize.EMBEDDING)
    found = [[n for n in clip.named() if n.startswith("visual.") == side] for side in (True, False)]
    assert tuple(max(blocks(names)) + 1 for names in found) == depth


@pytest.mark.parametrize("name", SD)
def test_stable_diffusion_of_the_hub_carries_its_clip_and_drops_what_it_drops(name: str) -> None:
    one, (carried, dropped) = loading.opened(name), SD[name]
    assert one.model.place == "folder"
    assert one.clip.name == carried
    depth = len(one.clip.model.transformer.resblocks)
    assert depth == {"sd-1.5": 12, "sd-2.1": 24}[name]
    editable = one.host.editable()
    assert blocks(editable) == set(range(depth - dropped))
    assert "text_projection" not in editable
    assert not [one for one in editable if one.startswith("visual.")]


@pytest.mark.parametrize("name", SD)
def test_an_edit_of_the_carried_clip_changes_the_pictures(name: str) -> None:
    one = loading.opened(name)
    depth = len(one.clip.model.transformer.resblocks)
    asked = {"seeds": [3], "steps": 2}
    [before] = one.host.generate(["a cat"], **asked)
    last = "transformer.resblocks.{}.mlp.c_fc.weight"
    for block, moves in ((0, True), (depth - 1, SD[name][1] == 0)):
        host = one.host.edited([edited(one.clip, last.format(block))])
        [after] = host.generate(["a cat"], **asked)
        assert (after.tobytes() != before.tobytes()) == moves


def test_the_states_of_the_text_tower_are_open_clips_own() -> None:
    one = loading.opened("sd-2.1")
    model = one.clip.model
    tokens = one.clip.tokenize(["a wizard in a blue hat"])  # open_clip pads with zeros, as 2.1 does
    with torch.no_grad():
        x = model.token_embedding(tokens) + model.positional_embedding
        for block in model.transformer.resblocks[:-1]:
            x = block(x, attn_mask=model.attn_mask)
        ours = one.host.states(["a wizard in a blue hat"])
        assert torch.allclose(model.ln_final(x), ours, atol=1e-4)


def test_llava_of_the_hub_reads_the_last_block_but_one() -> None:
    one = loading.opened("llava-1.5")
    assert one.clip.name == "ViT-L-14-336"
    editable = one.host.editable()
    assert blocks(editable) == set(range(23))
    assert not [name for name in editable if "ln_post" in name or name == "visual.proj"]
    picture = house.pictures(1, seed=1)[0]
    [answer] = one.host.answer([picture], ["What is this?"])
    last = "visual.transformer.resblocks.23.mlp.c_fc.weight"
    assert one.host.edited([edited(one.clip, last)]).answer([picture], ["What is this?"]) == [
        answer
    ]


def test_a_safety_checker_is_left_out_only_without_its_weights(models: Path) -> None:
    host = loading.opened("sd-1.5").host
    assert host.pipeline().safety_checker is None
    assert json.loads((models / "sd-1.5" / "model_index.json").read_text())["safety_checker"][0]


def test_memory_is_that_of_the_numbers_in_the_files_whatever_their_type(
    models: Path, tmp_path: Path
) -> None:
    for name in ("ViT-L-14", "sd-2.1", "llava-1.5"):
        counted = sum(
            tensor.numel()
            for file in inventory.files(models / name)
            for tensor in load_file(file).values()
        )
        assert catalog.memory(catalog.find(name)) == 4 * counted
    half = shutil.copytree(models / "ViT-L-14", tmp_path / "half")
    file = half / "open_clip_model.safetensors"
    save_file({name: one.half() for name, one in load_file(file).items()}, file)
    assert catalog.find(str(half)).bytes < 0.6 * catalog.find("ViT-L-14").bytes
    assert catalog.memory(catalog.find(str(half))) == catalog.memory(catalog.find("ViT-L-14"))


@pytest.mark.parametrize("name", ["ViT-L-14", "sd-1.5", "llava-1.5"])
def test_what_does_not_fit_is_refused_before_it_is_read(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "available", lambda _: 1e5)
    one = loading.opened(name)
    with pytest.raises(
        TooLarge, match=r"takes \d+\.\d GB of memory in float32, and 0\.0 GB are free"
    ):
        _ = one.clip if one.kind == "zero-shot" else one.host


def test_what_is_at_the_hub_tells_its_memory_too() -> None:
    with pytest.raises(SlugError, match=r"14\.1 GB .*takes 35\.3 GB of memory"):
        loading.opened("llava-1.5-7b")


def test_a_type_makes_a_model_smaller_and_an_unknown_one_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SLUGDEMO_DTYPE", "bfloat16")
    assert loading.Opened(catalog.find("llava-1.5")).dtype == "bfloat16"
    one = loading.opened("llava-1.5")
    assert next(one.host.model.parameters()).dtype == torch.bfloat16
    assert one.clip.name == "ViT-L-14-336"
    monkeypatch.setenv("SLUGDEMO_DTYPE", "int3")
    with pytest.raises(SlugError, match="float32, float16, bfloat16, not 'int3'"):
        loading.opened("llava-1.5")


def test_what_was_used_longest_ago_makes_room() -> None:
    held, let_go = ["old", "older"], []

    def make() -> str:
        if held:
            raise TooLarge("no room")
        return "made"

    def drop() -> bool:
        let_go.extend(held[-1:])
        return bool(held and held.pop())

    assert loading.fitting(make, drop) == "made"
    assert let_go == ["older", "old"]
    with pytest.raises(TooLarge):
        loading.fitting(lambda: loading.check_room(catalog.find("llava-1.5-7b"), "cpu"), drop)


def test_models_that_are_opened_at_once_are_whole(models: Path) -> None:
    """diffusers reads a pipeline with modules on the meta device, in all threads."""
    names, done = ("sd-1.5", "sd-2.1"), threading.Event()

    def others() -> None:
        while not done.is_set():
            for name in names:
                assert loading.opened(name).host

    reader = threading.Thread(target=others)
    reader.start()
    try:
        clips = [loading.opened(str(models / "ViT-L-14")).clip for _ in range(20)]
    finally:
        done.set()
        reader.join()
    assert not any(tensor.is_meta for clip in clips for tensor in clip.named().values())


def damaged(folder: Path, name: str, how: str) -> Path:
    """A copy of a model with one of its weight files damaged."""
    copy = shutil.copytree(folder / name, folder.parent / f"{name}-{how}", dirs_exist_ok=True)
    file = inventory.files(copy)[-1]
    if how == "gone":
        file.unlink()
    elif how == "half":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif how == "longer":
        file.write_bytes(file.read_bytes() + b"more")
    else:
        file.write_bytes({"empty": b"", "page": b"<html>502 Bad Gateway</html>"}[how])
    return copy


@pytest.mark.parametrize("how", ["gone", "half", "longer", "empty", "page"])
@pytest.mark.parametrize("name", ["ViT-L-14", "sd-1.5", "llava-1.5"])
def test_a_file_that_is_not_whole_is_named_in_a_sentence(name: str, how: str, models: Path) -> None:
    one = loading.opened(str(damaged(models, name, how)))
    with pytest.raises(
        SlugError, match=r"not whole|damaged or no safetensors|missing|not complete"
    ):
        _ = one.clip if one.kind == "zero-shot" else one.host


def test_pickled_weights_are_refused_unread(models: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(models / "ViT-L-14", tmp_path / "pickled")
    torch.save({"a": torch.zeros(1)}, folder / "open_clip_pytorch_model.bin")
    assert loading.opened(str(folder)).clip.named()
    (folder / "open_clip_model.safetensors").rename(folder / "model.safetensors")
    for _ in range(2):  # open_clip would take the pickled file of the two, and then the only one
        with pytest.raises(SlugError, match="only pickled weights"):
            _ = loading.opened(str(folder)).clip
        (folder / "model.safetensors").unlink(missing_ok=True)


def cached(hub: str, source: Path, cache: Path) -> Path:
    """`source` as a snapshot in the hub's cache."""
    store = cache / f"models--{hub.replace('/', '--')}"
    (store / "refs").mkdir(parents=True)
    (store / "refs" / "main").write_text("b" * 40)
    return shutil.copytree(source, store / "snapshots" / ("b" * 40))


def test_half_of_a_repository_in_the_hubs_cache_does_not_count_as_there(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "none").mkdir()
    monkeypatch.setenv("SLUGDEMO_MODELS", str(tmp_path / "none"))
    folder = cached(catalog.KNOWN["sd-1.5"].hub, models / "sd-1.5", tmp_path)
    assert catalog.find("sd-1.5").place == "cache"
    shutil.rmtree(folder / "unet")
    assert catalog.find("sd-1.5").place == "hub"


class Hub(BaseHTTPRequestHandler):
    """A hub that lists its files and then fails in one of several ways."""

    how = "half"

    def do_GET(self) -> None:
        if "/api/models/" in self.path:
            files = [{"rfilename": "model_index.json"}, {"rfilename": "unet/model.safetensors"}]
            self._say(json.dumps({"id": "a/b", "sha": "c" * 40, "siblings": files}).encode())
        elif self.how == "slow":
            time.sleep(2)
        else:
            self.send_response(200)
            self._heads(1000)
            self.wfile.write(b"x" * 100)

    def do_HEAD(self) -> None:
        if self.how == "slow":
            time.sleep(2)
        self.send_response(200)
        self._heads(1000)

    def _heads(self, length: int) -> None:
        self.send_header("Content-Length", str(length))
        self.send_header("ETag", '"abc"')
        self.send_header("X-Repo-Commit", "c" * 40)
        self.end_headers()

    def _say(self, body: bytes) -> None:
        self.send_response(200)
        self._heads(len(body))
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a bad hub, with an empty cache and short patience."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for patience in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
        monkeypatch.setattr(constants, patience, 0.3)
    monkeypatch.setattr("time.sleep", lambda _, wait=time.sleep: wait(0.01))
    yield address
    server.shutdown()
    server.server_close()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", ["half", "slow", "down"])
def test_a_hub_that_fails_is_a_sentence_and_nothing_half_is_trusted(
    how: str, hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hub, "how", how)
    if how == "down":
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(cost, "available", lambda _: 1e12)
    monkeypatch.setattr(loading, "_disk", lambda: 10**12)
    del hub
    model = catalog.Model("some", "diffusion", "hub", 1000, hub="a/b")
    began = time.monotonic()
    with pytest.raises(
        SlugError, match=r"some could not be fetched from the hub: .*try again later"
    ):
        loading._fetched(model)
    assert time.monotonic() - began < 20
    whole = [path for path in (tmp_path / "hub").rglob("*.safetensors") if path.is_file()]
    assert whole == []


def test_a_full_disk_is_told_before_fetching(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "available", lambda _: 1e12)
    monkeypatch.setattr(loading, "_disk", lambda: 10**9)
    with pytest.raises(SlugError, match=r"has 4\.3 GB, and the disk .* has 1\.0 GB left"):
        loading.check_room(hub_model())


def hub_model() -> catalog.Model:
    known = catalog.KNOWN["sd-1.5"]
    return catalog.Model("sd-1.5", known.kind, "hub", known.numbers * known.each, hub=known.hub)


def test_the_free_memory_is_a_number_that_this_process_could_take() -> None:
    assert cost.available("cpu") > 1e6


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells")
def test_memory_that_was_free_before_counts_when_it_is_used_anew() -> None:
    blocks = [b"x" * 100_000 + bytes([at % 256]) for at in range(400)]
    pin = blocks[-1]  # above the others in the heap: they stay there when they are free
    del blocks
    cost.settle()
    with cost.Peak() as peak:
        blocks = [b"y" * 100_000 + bytes([at % 256]) for at in range(400)]
    assert pin != blocks[-1]
    assert peak.bytes > 0.9 * 400 * 100_000
