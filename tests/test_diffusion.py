"""Stable Diffusion as a host: pictures, ladders, visitors and their edits, on a tiny real pipeline."""

import copy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from diffusers import StableDiffusionPipeline
from PIL.Image import Image

from slugdemo.edit import Edit, apply
from slugdemo.errors import SlugError
from slugdemo.models import names
from slugdemo.models.base import Cancelled
from slugdemo.models.diffusion import Diffusion
from slugdemo.weights import digest

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

LAYER = "transformer.resblocks.1.attn.in_proj_weight"
PROMPTS = ["a cat", "a dog"]
SEEDS = [11, 12]
STEPS = 3


@pytest.fixture(scope="module")
def pipe() -> StableDiffusionPipeline:
    return tiny.pipeline(tiny.clip_model())


@pytest.fixture
def host(pipe: StableDiffusionPipeline) -> Diffusion:
    return Diffusion(pipe)


def an_edit(step: float = 0.5, *, layer: str = LAYER, seed: int = 0) -> Edit:
    return tiny.edit(tiny.clip_model(), layer, step, seed=seed)


def generators(seeds: list[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def levels_apart(ours: list[Image], theirs: list[Image]) -> int:
    """The largest difference of any pixel, in levels of 0..255."""
    pairs = zip(ours, theirs, strict=True)
    return max(int(np.abs(np.asarray(a, int) - np.asarray(b, int)).max()) for a, b in pairs)


def edited_by_hand(pipe: StableDiffusionPipeline, edit: Edit) -> StableDiffusionPipeline:
    """The boring way: a deep copy whose text encoder is overwritten with the edited CLIP's."""
    clip = tiny.overwritten(tiny.clip_model(), [edit])
    theirs = copy.deepcopy(pipe)
    theirs.text_encoder.load_state_dict(names.text_model(clip).state_dict())
    theirs.set_progress_bar_config(disable=True)
    return theirs


def test_pictures_are_those_of_the_plain_pipeline(
    host: Diffusion, pipe: StableDiffusionPipeline
) -> None:
    ours = host.generate(PROMPTS, seeds=SEEDS, steps=STEPS, guidance=5.0)
    plain = copy.deepcopy(pipe)
    plain.set_progress_bar_config(disable=True)
    theirs = plain(
        PROMPTS, generator=generators(SEEDS), num_inference_steps=STEPS, guidance_scale=5.0
    )
    assert levels_apart(ours, theirs.images) <= 1


def test_without_guidance_pictures_are_those_of_the_plain_pipeline(
    host: Diffusion, pipe: StableDiffusionPipeline
) -> None:
    ours = host.generate(PROMPTS, seeds=SEEDS, steps=STEPS, guidance=1.0)
    plain = copy.deepcopy(pipe)
    theirs = plain(
        PROMPTS, generator=generators(SEEDS), num_inference_steps=STEPS, guidance_scale=1.0
    )
    assert levels_apart(ours, theirs.images) <= 1


def test_edited_pictures_are_those_of_a_pipeline_with_overwritten_weights(
    host: Diffusion, pipe: StableDiffusionPipeline
) -> None:
    ours = host.edited([an_edit()]).generate(PROMPTS, seeds=SEEDS, steps=STEPS, guidance=5.0)
    theirs = edited_by_hand(pipe, an_edit())(
        PROMPTS, generator=generators(SEEDS), num_inference_steps=STEPS, guidance_scale=5.0
    )
    assert levels_apart(ours, theirs.images) <= 1
    assert levels_apart(ours, host.generate(PROMPTS, seeds=SEEDS, steps=STEPS, guidance=5.0)) > 5


def test_a_seed_gives_the_same_picture_in_any_company(pipe: StableDiffusionPipeline) -> None:
    together = Diffusion(pipe).generate([*PROMPTS, "a cat"], seeds=[*SEEDS, 13], steps=STEPS)
    alone = Diffusion(pipe, batch=1).generate(["a dog"], seeds=[12], steps=STEPS)
    small_batches = Diffusion(pipe, batch=2).generate(
        [*PROMPTS, "a cat"], seeds=[*SEEDS, 13], steps=STEPS
    )
    assert levels_apart([together[1]], alone) <= 1
    assert levels_apart(together, small_batches) <= 1
    assert levels_apart([together[0]], [together[2]]) > 5


def test_a_ladder_shows_what_each_edited_host_shows(host: Diffusion) -> None:
    rungs = [[], [an_edit(0.3)], [an_edit(0.6)], [an_edit(0.3), an_edit(0.2, seed=5)]]
    rows = host.ladder(PROMPTS, rungs, seeds=SEEDS, steps=STEPS)
    for rung, row in zip(rungs, rows, strict=True):
        alone = host.edited(rung).generate(PROMPTS, seeds=SEEDS, steps=STEPS)
        assert levels_apart(row, alone) <= 1


def test_a_ladder_is_one_denoising_run(host: Diffusion) -> None:
    seen: list[tuple[int, int]] = []
    rungs = [[an_edit(step)] for step in (0.0, 0.1, 0.2, 0.4)]
    host.ladder(PROMPTS, rungs, seeds=SEEDS, steps=STEPS, progress=lambda *done: seen.append(done))
    assert seen == [(step + 1, STEPS) for step in range(STEPS)]


def test_progress_counts_every_step_of_every_batch(pipe: StableDiffusionPipeline) -> None:
    seen: list[tuple[int, int]] = []
    Diffusion(pipe, batch=2).generate(
        ["a cat"] * 5, seeds=range(5), steps=STEPS, progress=lambda *done: seen.append(done)
    )
    assert seen == [(step + 1, 3 * STEPS) for step in range(3 * STEPS)]


def test_the_unedited_column_is_made_only_once(host: Diffusion) -> None:
    seen: list[tuple[int, int]] = []

    def report(done: int, total: int) -> None:
        seen.append((done, total))

    first = host.generate(PROMPTS, seeds=SEEDS, steps=STEPS)
    rungs = [[], [an_edit(0.0)]]
    again = host.ladder(PROMPTS, rungs, seeds=SEEDS, steps=STEPS, progress=report)
    assert not seen
    assert levels_apart([*first, *first], [*again[0], *again[1]]) == 0
    host.generate(PROMPTS, seeds=SEEDS, steps=STEPS + 1, progress=report)
    assert seen, "other settings are other pictures"


def test_who_draws_on_a_picture_does_not_change_the_next_one(host: Diffusion) -> None:
    first = host.generate(["a cat"], seeds=[1], steps=STEPS)[0]
    kept = first.copy()
    first.paste((255, 0, 0), (0, 0, 16, 16))
    assert levels_apart(host.generate(["a cat"], seeds=[1], steps=STEPS), [kept]) == 0


def test_nothing_changes_the_base(host: Diffusion, pipe: StableDiffusionPipeline) -> None:
    parts = [pipe.text_encoder, pipe.unet, pipe.vae]
    before = [digest(part) for part in parts]
    scheduler = copy.deepcopy(vars(pipe.scheduler))
    host.editable()
    host.ladder(PROMPTS, [[an_edit()], []], seeds=SEEDS, steps=STEPS)
    with pytest.raises(Cancelled):
        host.generate(PROMPTS, seeds=[5, 6], steps=STEPS, cancelled=lambda: True)
    assert [digest(part) for part in parts] == before
    assert repr(vars(pipe.scheduler)) == repr(scheduler)
    assert all(parameter.grad is None for part in parts for parameter in part.parameters())


def test_a_step_of_zero_is_the_host_itself(host: Diffusion) -> None:
    assert host.edited([an_edit(0.0)]) is host


def test_an_edit_of_the_vision_tower_changes_nothing(host: Diffusion) -> None:
    assert host.edited([an_edit(layer="visual.proj")]) is host
    assert host.edited([an_edit(layer="text_projection")]) is host


def test_an_edit_of_another_architecture_is_refused(host: Diffusion) -> None:
    wrong = Edit("cat", "layer4.conv", {"layer4.conv": torch.zeros(1)}, 1.0)
    with pytest.raises(ValueError, match="not a tensor"):
        host.edited([wrong])


def test_edited_hosts_share_all_but_the_edited_tensors(
    host: Diffusion, pipe: StableDiffusionPipeline
) -> None:
    twin = host.edited([an_edit()])
    made = twin.pipeline()
    assert made.unet is pipe.unet
    assert made.vae is pipe.vae
    base = dict(pipe.text_encoder.named_parameters())
    own = {n for n, w in made.text_encoder.named_parameters() if w is not base[n]}
    assert own == {f"encoder.layers.1.self_attn.{letter}_proj.weight" for letter in "qkv"}


def test_edits_of_edits_add_up(host: Diffusion) -> None:
    a, b = an_edit(0.3), an_edit(0.2, layer="transformer.resblocks.0.mlp.c_fc.weight")
    together = host.edited([a, b]).text.state_dict()
    one_by_one = host.edited([b]).edited([a]).text.state_dict()
    assert all(torch.equal(together[name], one_by_one[name]) for name in together)


def test_cancelling_stops_within_one_step_and_leaves_nothing(host: Diffusion) -> None:
    seen: list[int] = []
    with pytest.raises(Cancelled):
        host.generate(
            PROMPTS,
            seeds=[21, 22],
            steps=6,
            progress=lambda *done: seen.append(done[0]),
            cancelled=lambda: len(seen) == 2,
        )
    assert seen == [1, 2]
    fresh = host.generate(
        PROMPTS, seeds=[21, 22], steps=6, progress=lambda *done: seen.append(done[0])
    )
    assert len(fresh) == 2
    assert seen == [1, 2, 1, 2, 3, 4, 5, 6]


def test_a_visitor_who_cancels_does_not_stop_another(pipe: StableDiffusionPipeline) -> None:
    calm = Diffusion(pipe).generate(PROMPTS, seeds=SEEDS, steps=6)
    host = Diffusion(pipe)
    with ThreadPoolExecutor(4) as pool:
        jobs = [
            pool.submit(
                host.generate,
                PROMPTS,
                seeds=SEEDS,
                steps=6,
                cancelled=(lambda: True) if odd else None,
            )
            for odd in (0, 1, 0, 1)
        ]
    for odd, job in zip((0, 1, 0, 1), jobs, strict=True):
        if not odd:
            assert levels_apart(job.result(), calm) <= 1
        else:  # it was cancelled, unless the other visitor had already made its pictures
            assert isinstance(job.exception(), Cancelled) or levels_apart(job.result(), calm) <= 1


def test_eight_visitors_get_their_own_pictures(pipe: StableDiffusionPipeline) -> None:
    host = Diffusion(pipe)
    edits = [an_edit(0.2 + 0.05 * number, seed=number) for number in range(8)]
    lonely = [
        host.edited([e]).generate(["a cat"], seeds=[3], steps=number + 2)
        for number, e in enumerate(edits)
    ]
    with ThreadPoolExecutor(8) as pool:
        jobs = [
            pool.submit(host.edited([e]).generate, ["a cat"], seeds=[3], steps=number + 2)
            for number, e in enumerate(edits)
        ]
    for alone, job in zip(lonely, jobs, strict=True):
        assert levels_apart(job.result(), alone) == 0
    assert levels_apart(lonely[0], lonely[1]) > 0


def test_editable_is_what_brute_force_finds(host: Diffusion) -> None:
    clip = tiny.clip_model()
    before = host._prompts.embedded(host.text, ["a dog and a cat"])
    moved = set()
    for name in clip.state_dict():
        twin = host.edited([an_edit(1.0, layer=name)])
        if not torch.equal(twin._prompts.embedded(twin.text, ["a dog and a cat"]), before):
            moved.add(name)
    assert set(host.editable()) == moved
    assert moved == {n for n in clip.state_dict() if n in names_of_text(clip)}


def names_of_text(clip: torch.nn.Module) -> set[str]:
    unread = {"text_projection", "logit_scale"}
    return {n for n in clip.state_dict() if not n.startswith("visual.")} - unread


def test_a_dropped_block_is_not_editable() -> None:
    host = Diffusion(tiny.pipeline(tiny.clip_model(), dropped=1))
    blocks = {name.split(".")[2] for name in host.editable() if ".resblocks." in name}
    assert blocks == {"0", "1"}
    assert host.edited([an_edit(layer="transformer.resblocks.2.mlp.c_fc.weight")]) is host


def test_skipping_a_block_is_like_dropping_it() -> None:
    clip = tiny.clip_model()
    skipping = Diffusion(tiny.pipeline(clip), clip_skip=1)
    dropped = Diffusion(tiny.pipeline(clip, dropped=1))
    ours = skipping.generate(PROMPTS, seeds=SEEDS, steps=STEPS)
    assert levels_apart(ours, dropped.generate(PROMPTS, seeds=SEEDS, steps=STEPS)) <= 1
    assert skipping.editable() == dropped.editable()
    twin = skipping.edited([an_edit()])  # made after the hooks: still one state for each block
    states = twin.text(torch.zeros(1, 4, dtype=torch.long), output_hidden_states=True)
    assert len(states.hidden_states) == 4


def test_a_prompt_beyond_the_context_is_refused_with_a_sentence(host: Diffusion) -> None:
    fits = "x " * (tiny.CONTEXT - 2)
    assert host.generate([fits], seeds=[1], steps=1)
    with pytest.raises(SlugError, match="has 23 tokens and this model reads 22"):
        host.generate([fits + "x"], seeds=[1], steps=1)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"seeds": [-1]}, "A seed is a whole number"),
        ({"seeds": [2**63]}, "A seed is a whole number"),
        ({"seeds": [1], "steps": 0}, "denoising steps"),
        ({"seeds": [1], "guidance": float("nan")}, "The guidance is"),
    ],
)
def test_wrong_numbers_are_refused_with_a_sentence(
    host: Diffusion, wrong: dict, sentence: str
) -> None:
    with pytest.raises(SlugError, match=sentence):
        host.generate(["a cat"], **wrong)


def test_as_many_seeds_as_prompts(host: Diffusion) -> None:
    with pytest.raises(ValueError, match="2 prompts need as many seeds, got 1"):
        host.generate(PROMPTS, seeds=[1])


def test_no_prompt_gives_no_picture(host: Diffusion) -> None:
    assert host.generate([], seeds=[]) == []
    assert host.ladder([], [[], [an_edit()]], seeds=[]) == [[], []]
    assert host.ladder(PROMPTS, [], seeds=SEEDS) == []


def test_weights_that_are_not_finite_are_refused_with_a_sentence(host: Diffusion) -> None:
    with pytest.raises(SlugError, match="not finite"):
        host.edited([an_edit(float("inf"))]).generate(["a cat"], seeds=[1], steps=STEPS)
    broken = copy.deepcopy(host.pipeline())
    broken.unet.conv_out.weight.data[0] = float("nan")
    with pytest.raises(SlugError, match="not finite"):
        Diffusion(broken).generate(["a cat"], seeds=[1], steps=STEPS)


def test_a_saved_folder_gives_the_same_pictures(
    host: Diffusion, pipe: StableDiffusionPipeline, tmp_path: Path
) -> None:
    pipe.save_pretrained(tmp_path / "tiny-sd")
    loaded = Diffusion.from_folder(tmp_path / "tiny-sd")
    ours = loaded.generate(PROMPTS, seeds=SEEDS, steps=STEPS)
    assert levels_apart(ours, host.generate(PROMPTS, seeds=SEEDS, steps=STEPS)) == 0


def test_a_broken_folder_is_refused_with_a_sentence(
    pipe: StableDiffusionPipeline, tmp_path: Path
) -> None:
    with pytest.raises(SlugError, match="nothing-here is not a whole Stable Diffusion"):
        Diffusion.from_folder(tmp_path / "nothing-here")
    pipe.save_pretrained(tmp_path / "torn")
    next((tmp_path / "torn" / "unet").glob("*.safetensors")).write_bytes(b"torn")
    with pytest.raises(SlugError, match="torn is not a whole Stable Diffusion folder"):
        Diffusion.from_folder(tmp_path / "torn")
