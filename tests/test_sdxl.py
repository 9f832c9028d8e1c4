"""Stable Diffusion XL: two towers that are read, located, edited and exported like one."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path

import house
import numpy as np
import open_clip
import pytest
import tiny
import torch
from diffusers import StableDiffusionXLPipeline

from slugdemo import catalog, experiment
from slugdemo.config import CONFIGS
from slugdemo.edit import Edit, part_of
from slugdemo.errors import SlugError
from slugdemo.export import export
from slugdemo.methods.slug import direction
from slugdemo.models.diffusion import Diffusion
from slugdemo.models.loading import opened
from slugdemo.models.sdxl import DiffusionXL
from slugdemo.task import Task

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
LAYER = "transformer.resblocks.0.mlp.c_fc.weight"


def second_clip() -> open_clip.CLIP:
    """Another CLIP than the first, and wider, as OpenCLIP's ViT-bigG is in SDXL."""
    config = tiny.clip_config(quick_gelu=False)
    config["text_cfg"] |= {"width": 32}
    return tiny.randomised(open_clip.CLIP(**config), 9)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Assets with an SDXL, the two CLIPs that it carries, a judge and pictures."""
    folder = house.build(tmp_path_factory.mktemp("xl"))
    second = second_clip()
    other = tiny.clip_folder(folder / "models" / "big-clip", second)
    file = other / "open_clip_config.json"
    config = json.loads(file.read_text())
    config["model_cfg"]["text_cfg"]["width"] = 32
    config["model_cfg"]["quick_gelu"] = False
    file.write_text(json.dumps(config))
    tiny.xl_pipeline(tiny.clip_model(), second).save_pretrained(folder / "models" / "xl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLUGDEMO_ASSETS", str(folder))
        patch.setenv("SLUGDEMO_CACHE", str(folder / "cache"))
        yield folder


@pytest.fixture(scope="module")
def xl(here: Path) -> DiffusionXL:
    del here
    return opened("xl", dtype="float32").host


def edit_of(host: DiffusionXL, name: str, strength: float = 0.5) -> Edit:
    weight = host.named()[name]
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    return Edit("cat", "noise", {name: noise * weight.norm() / noise.norm()}, strength)


def apart(ours: object, theirs: object) -> int:
    return int(np.abs(np.asarray(ours, int) - np.asarray(theirs, int)).max())


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_pictures_are_those_of_diffusers(here: Path, xl: DiffusionXL, guidance: float) -> None:
    pipe = StableDiffusionXLPipeline.from_pretrained(here / "models" / "xl")
    asked = {"num_inference_steps": 3, "guidance_scale": guidance}
    theirs = pipe("a cat", generator=torch.Generator().manual_seed(1), **asked).images[0]
    [ours] = xl.generate(["a cat"], seeds=[1], steps=3, guidance=guidance)
    assert apart(ours, theirs) <= 1
    quick = copy.copy(xl)
    quick.mixed, quick.images = True, None
    [near] = quick.generate(["a cat"], seeds=[1], steps=3, guidance=guidance)
    assert 0 < apart(near, theirs) < 10


def test_it_carries_two_clips(here: Path) -> None:
    del here
    model = opened("xl")
    assert model.clip.name == "pocket-clip"
    assert model.clip_2 is not None
    assert model.clip_2.name == "big-clip"
    assert opened("pocket-sd").clip_2 is None


@pytest.mark.parametrize("part", ["text", "text_2", "unet"])
def test_an_edit_of_each_part_moves_the_pictures_as_in_diffusers(
    xl: DiffusionXL, here: Path, part: str, tmp_path: Path
) -> None:
    name = next(n for n in xl.named() if part_of(n) == part and (LAYER in n or "attn2.to_k" in n))
    made = edit_of(xl, name)
    before, after = xl.ladder(["a cat"], [[], [made]], seeds=[3], steps=2)
    assert apart(before[0], after[0]) > 0
    assert xl.edited([made.at(0.0)]) is xl
    out = export(here / "models" / "xl", [made], tmp_path / "edited")
    pipe = StableDiffusionXLPipeline.from_pretrained(out)
    seed = torch.Generator().manual_seed(3)
    theirs = pipe("a cat", generator=seed, num_inference_steps=2, guidance_scale=7.5).images[0]
    assert apart(after[0], theirs) <= 1
    own = xl.edited([made]).pipeline()
    again = own("a cat", generator=seed.manual_seed(3), num_inference_steps=2, guidance_scale=7.5)
    assert apart(after[0], again.images[0]) <= 1


def test_the_last_block_of_the_first_tower_is_not_read_and_that_of_the_second_is(
    xl: DiffusionXL,
) -> None:
    editable = set(xl.editable())
    assert LAYER in editable
    assert LAYER.replace("blocks.0", "blocks.2") not in editable
    assert f"text_2/{LAYER.replace('blocks.0', 'blocks.2')}" in editable
    assert "text_2/text_projection" in editable


def test_states_have_gradients_through_both_towers(xl: DiffusionXL) -> None:
    names = [f"text/{LAYER}", f"text_2/{LAYER}"]
    leaves = {name: xl.named()[name].detach().clone().requires_grad_() for name in names}
    states = xl.states_of(xl.tokens(["a cat"])[0], leaves)
    plain = xl.states(["a cat"])
    assert torch.allclose(states.detach(), plain, atol=1e-6)
    found = torch.autograd.grad(states.square().sum(), list(leaves.values()))
    assert all(gradient.count_nonzero() for gradient in found)


def test_layers_of_both_towers_are_scored_and_one_is_edited(here: Path) -> None:
    del here
    config = CONFIGS["diffusion"].changed({"denoising": 2})
    task = Task(opened("xl"), catalog.concept("robot"), config)
    towers = {score.tower for score in task.scores}
    assert towers == {"text", "text_2"}
    assert {score.tower for score in task.front} == towers
    layer = next(score for score in task.front if score.tower == "text_2")
    edit = direction(task, layer)
    assert edit.parts == ("text_2",)
    assert edit.about["unet"] == task.model.unet_digest
    assert task.evaluators.quick
    quick = task.evaluators.quick.full(edit)
    assert quick(0.0) != quick(2.0)  # the stand-in moves with the second tower too
    [score] = experiment.curve(task, edit, [0.5])
    assert score.n_forget > 0
    own = task.clip_2.named()[layer.tensors[0].removeprefix("text_2/")]
    [delta] = edit.delta.values()
    assert delta.norm() == pytest.approx(own.norm().item(), rel=1e-4)


def test_what_xl_cannot_do_is_a_sentence(xl: DiffusionXL) -> None:
    with pytest.raises(SlugError, match="two towers"):
        xl.states_from(torch.zeros(1, 4, 24))


def test_a_pipeline_with_t5_says_what_could_be_edited(here: Path, tmp_path: Path) -> None:
    del here
    index = {
        "_class_name": "FluxPipeline",
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "T5EncoderModel"],
    }
    (tmp_path / "flux").mkdir()
    (tmp_path / "flux" / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(SlugError, match=r"FluxPipeline.*text_encoder_2 \(T5\).*cannot be edited"):
        opened(str(tmp_path / "flux"))


def test_an_edit_of_a_second_tower_does_not_fit_a_model_with_one(
    here: Path, xl: DiffusionXL
) -> None:
    sd = opened("pocket-sd").host
    assert isinstance(sd, Diffusion)
    assert sd.edited([edit_of(xl, f"text_2/{LAYER}")]) is sd
    with pytest.raises(SlugError, match=r"changes text_2/.*does not hold"):
        export(here / "models" / "pocket-sd", [edit_of(xl, f"text_2/{LAYER}")], here / "out")
