"""The proof at full size, on narrow models of the same builds; and gradients in bounded memory."""

from dataclasses import replace

import open_clip
import pytest
import tiny
import torch
from conftest import noise, tokenize
from torch import Tensor

from slugdemo import gradients as graded
from slugdemo import layers
from slugdemo.benchmark import fullsize
from slugdemo.errors import SlugError
from slugdemo.gradients import batches, gradients
from slugdemo.models.clip import Clip

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def test_gradients_in_parts_are_the_gradients(clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    names = layers.candidates(clip)
    pairs = batches(noise(10, 3, 32, 32), tokenize(["a cat", "dog"] * 5), size=5)
    whole = gradients(clip, pairs, retain=pairs, names=names)
    seen = []
    parts = graded._in_parts
    monkeypatch.setattr(
        graded,
        "_in_parts",
        lambda *given, size, **rest: seen.append(size) or parts(*given, size=size, **rest),
    )
    one = graded._activations(
        clip.edited({n: clip.named()[n].detach().requires_grad_() for n in names}), *pairs[0]
    )
    monkeypatch.setattr(graded, "ACTIVATIONS", 2.5 * one)
    few = gradients(clip, pairs, retain=pairs, names=names)
    assert seen == [2, 2, 2, 2]
    for name in names:
        for a, b in ((whole.forget, few.forget), (whole.retain, few.retain)):
            assert torch.allclose(a[name], b[name], rtol=1e-4, atol=1e-6), name


class Held:
    """What autograd keeps of a forward pass, counted while it lives."""

    now = most = 0

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        Held.now += tensor.nbytes
        Held.most = max(Held.most, Held.now)

    def __del__(self) -> None:
        Held.now -= self.tensor.nbytes


def most_held(clip: Clip, pairs: int) -> int:
    """The most bytes that the gradients of one batch of so many pairs keep for backward passes."""
    batch = batches(noise(pairs, 3, 32, 32), tokenize(["a cat", "dog"] * (pairs // 2)), size=pairs)
    Held.now = Held.most = 0
    with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.tensor):
        gradients(clip, batch, retain=batch, names=layers.candidates(clip))
    assert Held.now == 0
    return Held.most


def test_memory_does_not_grow_with_the_batch(clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    eight, sixteen = most_held(clip, 8), most_held(clip, 16)
    assert sixteen > 1.5 * eight  # whole batches do
    names = layers.candidates(clip)
    leaves = clip.edited({n: clip.named()[n].detach().requires_grad_() for n in names})
    one = graded._activations(leaves, noise(1, 3, 32, 32), tokenize(["a cat"]))
    monkeypatch.setattr(graded, "ACTIVATIONS", 2 * one)
    features = 16 * 2 * 4 * 32 * 8  # the loss of the whole batch is a matter of its features
    assert most_held(clip, 16) <= most_held(clip, 8) + features < eight


def kept_of_one_pair(name: str, **layers: int) -> float:
    """The activations of one pair in a published CLIP with so many blocks in each tower."""
    config = open_clip.get_model_config(name)
    for tower, count in layers.items():
        config[f"{tower}_cfg"]["layers"] = count
    with torch.random.fork_rng():
        clip = Clip(open_clip.CLIP(**config), tokenize, lambda picture: picture, name)
    side = config["vision_cfg"]["image_size"]
    long = torch.full((1, 77), 5)
    long[0, -1] = config["text_cfg"].get("vocab_size", 49408) - 1
    return graded._activations(clip, torch.zeros(1, 3, side, side), long)


@pytest.mark.parametrize(
    ("name", "vision", "text"), [("ViT-L-14-336", 24, 12), ("ViT-bigG-14", 48, 32)]
)
def test_one_pair_of_the_largest_published_towers_fits(name: str, vision: int, text: int) -> None:
    """So no pass needs to be divided further, by block; every block keeps as much as the next."""
    config = open_clip.get_model_config(name)
    assert (config["vision_cfg"]["layers"], config["text_cfg"]["layers"]) == (vision, text)
    one = kept_of_one_pair(name, vision=1, text=1)
    picture = kept_of_one_pair(name, vision=2, text=1) - one
    words = kept_of_one_pair(name, vision=1, text=2) - one
    assert picture > words > 0
    assert one + (vision - 1) * picture + (text - 1) * words < graded.ACTIVATIONS


def test_every_part_of_the_work_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny.clip_config()
    config["text_cfg"]["vocab_size"] = 49408
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", config)
    unet = {
        "sample_size": 8,
        "block_out_channels": (16, 32),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 24,
        "attention_head_dim": 2,
        "norm_num_groups": 8,
    }
    llava = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}
    plan = fullsize.Plan(("tiny",), unet=tuple(unet.items()), llava=tuple(llava.items()))
    measured = [figure for model in fullsize.models(plan) for figure in model()]
    found = {figure.name: figure for figure in measured}
    assert all(figure.value > 0 for figure in found.values())
    names = " ".join(found)
    for part in (
        "both gradients",
        "scores and front",
        "one edit",
        "one evaluation",
        "U-Net",
        "LLaVA",
    ):
        assert part in names
    assert found["tiny: one edit"].details["stored_gb"] < 1e-4
    assert found["tiny: both gradients, 32 pairs"].details["paper_seconds"] == 39
    apart = next(fullsize.figures(replace(plan, clips=())))  # in a process of its own
    assert apart.name == measured[-2].name
    assert apart.details["whole_gb"] > apart.details["memory_gb"]


def test_a_clip_that_open_clip_does_not_have_is_a_sentence() -> None:
    with pytest.raises(SlugError, match="open_clip has no model 'ViT-Z'"):
        list(fullsize.figures(fullsize.Plan(("ViT-Z",))))


def test_the_published_architectures_are_those_of_the_papers() -> None:
    with torch.device("meta"):
        sizes = {
            name: open_clip.CLIP(**open_clip.get_model_config(name)) for name in fullsize.Plan.clips
        }
    counted = {name: sum(p.numel() for p in model.parameters()) for name, model in sizes.items()}
    assert counted == {"ViT-B-32": 151_277_313, "ViT-L-14": 427_616_513}
    with torch.device("meta"):
        unet = fullsize.random_unet(dict(fullsize.Plan.unet))
    assert sum(p.numel() for p in unet.parameters()) == 859_520_964
