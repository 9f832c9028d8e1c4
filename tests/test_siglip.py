"""SigLIP by the same engine: its own loss, its own heads; located, erased, classified, exported."""

import copy
from collections.abc import Iterator
from pathlib import Path

import house
import open_clip
import pytest
import tiny
import torch
import torch.nn.functional as F
from conftest import noise
from open_clip.loss import SigLipLoss
from torch import Tensor

from slugdemo import catalog, experiment, layer_names, layers
from slugdemo.config import Config
from slugdemo.edit import clip_name
from slugdemo.export import export
from slugdemo.gradients import batches, gradients, retain_loss_of, sigmoid_loss
from slugdemo.models.clip import Clip
from slugdemo.models.loading import opened
from slugdemo.search import Tuning
from slugdemo.task import Task

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
SIDE = tiny.PIXELS


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Assets whose only model is a tiny SigLIP, with pictures that it labels itself."""
    folder = tmp_path_factory.mktemp("siglip")
    made = tiny.siglip_folder(folder / "models" / "siglip", tiny.siglip_model())
    house.concepts(folder, Clip.from_folder(made))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLUGDEMO_ASSETS", str(folder))
        patch.setenv("SLUGDEMO_CACHE", str(folder / "cache"))
        yield folder


@pytest.fixture(scope="module")
def siglip(here: Path) -> Clip:
    del here
    return opened("siglip").clip


def unit(seed: int) -> Tensor:
    return F.normalize(noise(5, 8, seed=seed), dim=-1)


def test_the_sigmoid_loss_is_open_clips_and_the_papers() -> None:
    image, text, scale, bias = unit(0), unit(1), 7.0, -3.0
    ours = sigmoid_loss(image, text, scale=scale, bias=bias)
    theirs = SigLipLoss()(image, text, torch.tensor(scale), torch.tensor(bias))
    assert torch.allclose(ours, theirs, atol=1e-5)
    literal = 0.0
    for i in range(5):
        for j in range(5):
            sign = 1.0 if i == j else -1.0
            logit = scale * float(image[i] @ text[j]) + bias
            literal -= float(torch.log(torch.sigmoid(torch.tensor(sign * logit)))) / 5
    assert ours.item() == pytest.approx(literal, rel=1e-4)


def test_a_siglip_folder_opens_as_open_clip_has_it(siglip: Clip) -> None:
    theirs, pixels = tiny.siglip_model(), noise(2, 3, SIDE, SIDE)
    tokens = siglip.typed(["A cat!", "a red dog"])
    assert torch.equal(tokens, siglip.typed(["a cat", "a red dog"]))  # cleaned as SigLIP has it
    with torch.no_grad():
        image, text = theirs.encode_image(pixels, True), theirs.encode_text(tokens, True)
        assert torch.allclose(siglip.encode_image(pixels), image, atol=1e-6)
        assert torch.allclose(siglip.encode_text(tokens), text, atol=1e-6)
    assert siglip.logit_bias == pytest.approx(theirs.logit_bias.item())
    assert "not causal" in siglip.digest
    assert "gelu_pytorch_tanh" in siglip.digest


def test_the_gradients_are_those_of_its_own_losses(siglip: Clip) -> None:
    pixels, tokens = noise(6, 3, SIDE, SIDE), siglip.tokenize(["cat", "dog", "a tree"] * 2)
    names = layers.candidates(siglip)
    pairs = batches(pixels, tokens, size=6)
    ours = gradients(siglip, pairs, retain=pairs, names=names)
    model = copy.deepcopy(siglip.model).requires_grad_(True)
    loss = retain_loss_of(siglip)(model.encode_image(pixels, True), model.encode_text(tokens, True))
    loss.backward()
    for name, parameter in model.named_parameters():
        if name in names:
            assert torch.allclose(ours.retain[name], parameter.grad, atol=1e-5), name
    assert all(gradient.count_nonzero() for gradient in ours.forget.values())


def test_every_layer_that_may_be_edited_has_a_name_and_no_learned_token_is_among_them(
    siglip: Clip,
) -> None:
    names = layers.candidates(siglip)
    assert any("attn_pool" in name for name in names)
    assert not [
        n
        for n in names
        if any(w in n for w in ("embed.", "pos_embed", "token", "bias")) and "patch" not in n
    ]
    labels = [layer_names.label(name) for name in names if not name.endswith("gamma")]
    assert len({*labels}) == len(labels)
    assert not [label for label in labels if "." in label]
    pairs = layers.grouped(names, granularity="group")
    assert {"visual.trunk.blocks.0.mlp", "text.transformer.resblocks.0.mlp"} <= pairs.keys()


def test_it_is_located_erased_classified_and_exported(here: Path, siglip: Clip) -> None:
    tuning = Tuning(max_retain_drop=1.0)
    task = Task(opened("siglip"), catalog.concept("robot"), Config(tuning=tuning))
    assert {score.tower for score in task.front} == {"vision", "text"}
    found = experiment.erase(task)
    assert found.before.forget_acc > 0
    assert found.after.forget_acc < found.before.forget_acc
    assert experiment.report(task, [found.edit])
    out = export(here / "models" / "siglip", [found.edit], here / "out" / "edited")
    model, _ = open_clip.create_model_from_pretrained(f"local-dir:{out}")
    for name, delta in found.edit.delta.items():
        own = clip_name(name)
        moved = siglip.named()[own] + found.edit.strength * delta
        assert torch.allclose(model.get_parameter(own), moved, atol=1e-6)
