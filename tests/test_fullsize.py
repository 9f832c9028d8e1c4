"""The proof at full size, on narrow models of the same builds; and gradients in bounded memory."""

import open_clip
import pytest
import tiny
import torch
from conftest import noise, tokenize

from slugdemo import gradients as graded
from slugdemo import layers
from slugdemo.benchmark import fullsize
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
    found = {figure.name: figure for figure in fullsize.figures(plan)}
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
