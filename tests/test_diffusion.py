"""Stable Diffusion as a host: pictures, ladders, visitors and their edits, on a tiny real pipeline."""

import copy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    UniPCMultistepScheduler,
)
from PIL.Image import Image

from slugdemo.edit import Edit
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


SCHEDULERS = [
    DPMSolverMultistepScheduler,
    DDIMScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    EulerAncestralDiscreteScheduler,
    HeunDiscreteScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
]


def scheduled(kind: type, *, prediction: str = "v_prediction") -> StableDiffusionPipeline:
    """The tiny pipeline with another scheduler, of the noise schedule of Stable Diffusion."""
    pipe = tiny.pipeline(tiny.clip_model())
    own = {
        PNDMScheduler: {"skip_prk_steps": True},
        DDIMScheduler: {"clip_sample": False},
        DDPMScheduler: {"clip_sample": False},
    }
    pipe.scheduler = kind(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction,
        steps_offset=1,
        **own.get(kind, {}),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("guidance", [0.5, 5.0])
@pytest.mark.parametrize("kind", SCHEDULERS)
def test_latents_are_those_of_the_plain_pipeline_with_any_scheduler(
    kind: type, guidance: float
) -> None:
    pipe = scheduled(kind)
    host, sources = Diffusion(pipe), generators(SEEDS)
    latents = torch.cat([torch.randn(1, 4, 8, 8, generator=source) for source in sources])
    ours = host.denoise(
        host.states(PROMPTS),
        host.states([""]),
        latents=latents,
        steps=5,
        guidance=guidance,
        generators=sources,
    )
    theirs = pipe(
        PROMPTS,
        generator=generators(SEEDS),
        num_inference_steps=5,
        guidance_scale=guidance,
        output_type="latent",
    ).images
    assert torch.equal(host.noise(SEEDS), latents)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6 * theirs.abs().max().item())


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_a_picture_noised_and_finished_is_that_of_the_plain_pipeline(kind: type) -> None:
    pipe = scheduled(kind)
    host = Diffusion(pipe)
    picture = host.decode(host.noise([5]))[0]
    theirs = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    theirs.set_progress_bar_config(disable=True)
    source = torch.Generator().manual_seed(3)
    known = pipe.vae.encode(theirs.image_processor.preprocess(picture)).latent_dist.mode()
    latents = known * pipe.vae.config.scaling_factor
    torch.testing.assert_close(host.encode([picture]), latents)
    expected = theirs(
        "a cat",
        image=latents,
        strength=0.5,
        num_inference_steps=6,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(3),
        output_type="latent",
    ).images
    noised = host.schedule.noised(
        latents,
        host.timesteps(6)[3 * pipe.scheduler.order],
        torch.randn(1, 4, 8, 8, generator=source),
    )
    ours = host.denoise(
        host.states(["a cat"]),
        host.states([""]),
        latents=noised,
        steps=6,
        guidance=3.0,
        start=3,
        generators=[source],
    )
    torch.testing.assert_close(ours, expected, rtol=0, atol=2e-5 * expected.abs().max().item())


@pytest.mark.parametrize("kind", [DDIMScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler])
def test_stopping_and_going_on_is_not_stopping(kind: type) -> None:
    host = Diffusion(scheduled(kind))
    both = {"states": host.states(PROMPTS), "blank": host.states([""]), "steps": 5}
    whole = host.denoise(latents=host.noise(SEEDS), **both)
    half = host.denoise(latents=host.noise(SEEDS), stop=2, **both)
    torch.testing.assert_close(host.denoise(latents=half, start=2, **both), whole)
    assert not torch.allclose(half, whole)
    variance = half.var().item()
    assert 0.3 < variance < 3, "as the U-Net was trained on, not as the scheduler keeps it"


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_a_perfect_prediction_gives_the_noise_and_the_picture_back(prediction: str) -> None:
    host = Diffusion(scheduled(DDIMScheduler, prediction=prediction))
    latents, noise = host.noise([1, 2, 3]), host.noise([4, 5, 6])
    t = torch.tensor([10, 500, 990])
    seen = host.schedule.noised(latents, t, noise)
    torch.testing.assert_close(seen, host.pipeline().scheduler.add_noise(latents, noise, t))
    output = host.schedule.target(latents, noise, t)
    if prediction == "v_prediction":
        torch.testing.assert_close(
            output, host.pipeline().scheduler.get_velocity(latents, noise, t)
        )
    torch.testing.assert_close(host.schedule.epsilon(output, seen, t), noise, rtol=1e-4, atol=2e-3)
    assert (host.schedule.epsilon(output + 0.1, seen, t) - noise).abs().max() > 0.01


def test_a_scheduler_that_refuses_a_number_of_steps_says_so() -> None:
    pipe = scheduled(DDIMScheduler)
    pipe.scheduler = DDIMScheduler(num_train_timesteps=50)
    with pytest.raises(SlugError, match="DDIMScheduler cannot work with 60 denoising steps"):
        Diffusion(pipe).generate(["a cat"], seeds=[1], steps=60)


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


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("text/layer4.conv", "not a tensor"),
        ("unet/layer4.conv", "not among the weights"),
        ("unet/conv_in.bias", "has shape"),
    ],
)
def test_an_edit_of_another_architecture_is_refused(
    host: Diffusion, name: str, sentence: str
) -> None:
    wrong = Edit("cat", "noise", {name: torch.zeros(1)}, 1.0)
    with pytest.raises(ValueError, match=sentence):
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


def unet_edit(
    host: Diffusion, strength: float = 1.0, *, name: str = "conv_out.weight", seed: int = 0
) -> Edit:
    weight = host.named()[f"unet/{name}"]
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))
    return Edit("cat", "noise", {f"unet/{name}": noise * weight.std()}, strength)


KEY = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"


def test_an_edited_unet_draws_as_one_whose_weights_are_overwritten(
    host: Diffusion, pipe: StableDiffusionPipeline
) -> None:
    edits = [unet_edit(host, 0.7), unet_edit(host, 2.0, name=KEY, seed=1), an_edit()]
    before = digest(pipe.unet)
    ours = host.edited(edits).generate(PROMPTS, seeds=SEEDS, steps=STEPS)
    theirs = edited_by_hand(pipe, an_edit())
    with torch.no_grad():
        for edit in edits[:2]:
            for name, delta in edit.delta.items():
                theirs.unet.get_parameter(name.removeprefix("unet/")).add_(delta * edit.strength)
    expected = theirs(PROMPTS, generator=generators(SEEDS), num_inference_steps=STEPS).images
    assert levels_apart(ours, expected) <= 1
    assert levels_apart(ours, host.edited([an_edit()]).generate(PROMPTS, seeds=SEEDS, steps=3)) > 3
    assert digest(pipe.unet) == before


def test_an_edited_unet_shares_all_but_the_edited_tensors(host: Diffusion) -> None:
    twin, base = host.edited([unet_edit(host)]), host.named()
    assert {name for name, t in twin.named().items() if t is not base[name]} >= {
        "unet/conv_out.weight"
    }
    own = {n for n, w in twin.parts["unet"].named_parameters() if w is not base[f"unet/{n}"]}
    assert own == {"conv_out.weight"}
    assert twin.parts["text"] is host.parts["text"]
    assert host.edited([unet_edit(host, 0.0)]) is host


def test_the_digest_of_the_unet_tells_weights_and_architecture_apart(host: Diffusion) -> None:
    assert host.unet_digest == Diffusion(tiny.pipeline(tiny.clip_model())).unet_digest
    assert host.edited([unet_edit(host)]).unet_digest != host.unet_digest
    assert host.edited([an_edit()]).unet_digest == host.unet_digest
    other = host.pipeline()
    other.unet = copy.deepcopy(other.unet)
    other.unet.register_to_config(norm_num_groups=4)
    assert Diffusion(other).unet_digest != host.unet_digest


def test_names_are_part_qualified_and_lead_to_the_weights(host: Diffusion) -> None:
    named = host.named()
    clip = {f"text/{name}": tensor for name, tensor in tiny.clip_model().state_dict().items()}
    text = {name for name in named if name.startswith("text/")}
    assert text == {name for name in clip if name.removeprefix("text/") in host.editable()}
    assert all(torch.equal(named[name], clip[name]) for name in text)
    twin = host.edited([an_edit()])
    moved = {name for name in text if not torch.equal(twin.named()[name], named[name])}
    assert moved == {f"text/{LAYER}"}


def test_gradients_reach_weights_of_both_parts_and_leave_the_base_alone(host: Diffusion) -> None:
    base = host.named()
    names = [f"text/{LAYER}", f"unet/{KEY}"]
    leaves = {name: base[name].detach().clone().requires_grad_() for name in names}
    ids = host.tokens(PROMPTS)[0]
    noise, t = host.noise(SEEDS), torch.tensor([100, 700])

    def loss(weights: dict[str, torch.Tensor]) -> torch.Tensor:
        states = host.states_of(ids, weights)
        return host.predict(noise, t, states, weights).square().sum()

    gradients = torch.autograd.grad(loss(leaves), list(leaves.values()))
    torch.testing.assert_close(loss(leaves).detach(), loss({}))
    for name, gradient in zip(names, gradients, strict=True):
        along = gradient / gradient.norm()
        moved = [loss({**leaves, name: base[name] + step * along}).item() for step in (-1e-2, 1e-2)]
        assert (moved[1] - moved[0]) / 2e-2 == pytest.approx(gradient.norm().item(), rel=0.05)
        assert base[name].grad is None


def test_states_of_soft_prompts(host: Diffusion) -> None:
    ids = host.tokens(["a cat", "dog"])[0]
    states = host.states(["a cat", "dog"])
    soft = host.embeddings(ids).clone().requires_grad_()
    torch.testing.assert_close(host.states_from(soft), states, rtol=0, atol=1e-6)
    torch.testing.assert_close(host.states_of(ids), states, rtol=0, atol=1e-6)
    (gradient,) = torch.autograd.grad(host.states_from(soft)[:, 2].sum(), soft)
    assert gradient[:, :3].abs().amin(dim=(0, 2)).gt(0).all()
    assert not gradient[:, 3:].any(), "later tokens are not read by earlier ones"
    twin = host.edited([an_edit()])
    torch.testing.assert_close(
        twin.states_from(twin.embeddings(ids)), twin.states(["a cat", "dog"]), rtol=0, atol=1e-6
    )


def test_the_end_of_a_prompt_is_its_first_end_token(host: Diffusion) -> None:
    assert host.ends(["", "cat", "a cat", "a cat and a dog"]).tolist() == [1, 2, 3, 8]


def test_pictures_of_states_are_those_of_their_prompts(pipe: StableDiffusionPipeline) -> None:
    host = Diffusion(pipe, batch=2)
    prompts, seeds = [*PROMPTS, "a tree"], [*SEEDS, 13]
    asked = host.generate(prompts, seeds=seeds, steps=STEPS)
    made = host.generate(states=host.states(prompts), seeds=seeds, steps=STEPS)
    begun = host.generate(prompts, seeds=seeds, steps=STEPS, latents=host.noise(seeds))
    assert levels_apart(made, asked) <= 1
    assert levels_apart(begun, asked) <= 1
    assert levels_apart(host.decode(host.encode(asked)), asked) < 256
    with pytest.raises(ValueError, match="of prompts or of states"):
        host.generate(seeds=[1], steps=STEPS)


def test_a_ladder_over_unets_shows_what_each_edited_host_shows(host: Diffusion) -> None:
    seen: list[tuple[int, int]] = []
    rungs = [[], [unet_edit(host, 0.5)], [an_edit(0.3)], [unet_edit(host), an_edit(0.3)]]
    rows = host.ladder(
        PROMPTS, rungs, seeds=SEEDS, steps=STEPS, progress=lambda *done: seen.append(done)
    )
    for rung, row in zip(rungs, rows, strict=True):
        assert levels_apart(row, host.edited(rung).generate(PROMPTS, seeds=SEEDS, steps=STEPS)) <= 1
    assert seen == [(step + 1, 3 * STEPS) for step in range(3 * STEPS)]


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
    before = host.states(["a dog and a cat"])
    moved = set()
    for name in clip.state_dict():
        twin = host.edited([an_edit(1.0, layer=name)])
        if not torch.equal(twin.states(["a dog and a cat"]), before):
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
