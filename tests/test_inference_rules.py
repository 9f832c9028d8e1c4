"""Methods at inference: each rule beside its formula written the slow, literal way."""

import copy
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import house
import pytest
import tiny
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from slugdemo import edit as edits
from slugdemo import experiment
from slugdemo.edit import Edit
from slugdemo.errors import SlugError
from slugdemo.methods import METHODS
from slugdemo.methods.adavd import Values
from slugdemo.methods.casteer import STEPS as TAKEN
from slugdemo.methods.casteer import Steer, vectors
from slugdemo.methods.negative_prompt import NegativePrompt
from slugdemo.methods.sae import TurnedOff, features, of_tower
from slugdemo.methods.safree import Filtered, far, projection
from slugdemo.methods.seot import SoftWeighted, damped
from slugdemo.methods.sld import SafeGuidance
from slugdemo.models.base import Moment, Outputs
from slugdemo.models.diffusion import Diffusion
from slugdemo.models.loading import opened
from slugdemo.sparse import Autoencoder
from slugdemo.task import Task
from slugdemo.weights import digest

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

RULES = [name for name, method in METHODS.items() if method.group == "at inference"]
PROMPTS, SEEDS, STEPS = ["a cat", "a dog and a cat", "a tree"], [1, 2, 3], 5
SLD = {"scale": 9.0, "threshold": 0.05, "momentum": 0.4, "decay": 0.6, "warmup": 0.3}
SAFREE = {"alpha": 0.01, "middle": 5.0, "slope": 0.1, "longest": 1.0}


@pytest.fixture(scope="module")
def host() -> Iterator[Diffusion]:
    made = Diffusion(tiny.pipeline(tiny.clip_model()))
    before = digest(made.unet), digest(made.text)
    yield made
    assert (digest(made.unet), digest(made.text)) == before


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Task]:
    folder = tmp_path_factory.mktemp("rules")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLUGDEMO_ASSETS", str(house.build(folder / "assets")))
        patch.setenv("SLUGDEMO_CACHE", str(folder / "cache"))
        yield experiment.task(opened("pocket-sd", dtype="float32"), "cat")  # exact products


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def latents(host: Diffusion, *, guidance: float = 4.0, stop: int | None = None) -> Tensor:
    return host.denoise(
        host.states(PROMPTS),
        host.states([""]),
        latents=host.noise(SEEDS),
        steps=STEPS,
        guidance=guidance,
        stop=stop,
        prompts=PROMPTS,
    )


def at(step: int, steps: int = 10, *, ids: Tensor | None = None, guided: bool = True) -> Moment:
    t = torch.tensor(900 - 50 * step)
    return Moment(step, steps, t, 4.0, guided, None if ids is None else PROMPTS, ids)


def seen(seed: int = 0) -> Outputs:
    """Random outputs of a U-Net that answers any states with noise of its own."""
    text, blank, own, there = noise(4, 2, 4, 8, 8, seed=seed)
    return Outputs(text, blank, there, lambda states: own + 0 * states.sum())


@pytest.mark.parametrize("name", RULES)
def test_strength_zero_is_the_identity_and_a_little_is_little(name: str, task: Task) -> None:
    edit = METHODS[name].run(task.by(name))
    model = task.model
    assert not edit.delta
    assert edit.strength == 1
    assert model.edited([edit.at(0.0)]) is model
    before = latents(model)
    little, whole = (latents(model.edited([edit.at(s)])) for s in (1e-5, 1.0))
    scale = before.abs().max()
    assert (little - before).abs().max() < 0.02 * scale
    assert (whole - before).abs().max() > (little - before).abs().max()
    assert torch.equal(latents(model), before)


@pytest.mark.parametrize("name", RULES)
def test_a_file_carries_a_rule(name: str, task: Task, tmp_path: Path) -> None:
    edit = METHODS[name].run(task.by(name))
    edits.save(tmp_path / "rule.safetensors", edit)
    model = task.model
    back = edits.load(
        tmp_path / "rule.safetensors", weights=task.clip.digest, unet=model.unet_digest
    )
    assert back.params == edit.params
    assert back.digest == edit.digest
    assert torch.equal(latents(model.edited([back])), latents(model.edited([edit])))
    with pytest.raises(SlugError, match="another U-Net"):
        edits.load(tmp_path / "rule.safetensors", weights=task.clip.digest, unet="0")


def test_a_rule_that_is_not_known_is_refused_with_a_sentence(host: Diffusion) -> None:
    with pytest.raises(SlugError, match=r"follows the rule 'magic'.*Known are: .*sld"):
        host.edited([Edit("cat", "magic", {}, rule="magic")])


def test_rules_and_weights_go_together_and_rules_of_two_concepts_add_up(host: Diffusion) -> None:
    cat, dog = (
        Edit(word, "negative prompt", {}, rule="negative prompt", params={"text": f"a {word}"})
        for word in ("cat", "dog")
    )
    weight = tiny.edit(tiny.clip_model(), "transformer.resblocks.1.mlp.c_fc.weight", 0.5)
    one, other = host.edited([cat, dog, weight]), host.edited([weight]).edited([dog]).edited([cat])
    torch.testing.assert_close(latents(one), latents(other))
    assert not torch.allclose(latents(one), latents(host.edited([cat, weight])))
    assert not torch.allclose(latents(one), latents(host.edited([cat, dog])))


def test_a_negative_prompt_is_the_one_of_the_plain_pipeline(host: Diffusion) -> None:
    rule = Edit("cat", "negative prompt", {}, rule="negative prompt", params={"text": "a dog"})
    theirs = host.pipeline()(
        PROMPTS,
        negative_prompt=["a dog"] * 3,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        num_inference_steps=STEPS,
        guidance_scale=4.0,
        output_type="latent",
    ).images
    torch.testing.assert_close(latents(host.edited([rule])), theirs, rtol=1e-4, atol=1e-5)
    assert torch.equal(latents(host.edited([rule]), guidance=1.0), latents(host, guidance=1.0))


def test_a_negative_prompt_goes_straight_on_with_its_strength(host: Diffusion) -> None:
    found, start = seen(), noise(2, 4, 8, 8, seed=5)
    one, three = (NegativePrompt(host, {"text": "a cat"}, s) for s in (1.0, 3.0))
    moved = one.combine(start, found, at(0)) - start
    expected = -3.0 * (found.predict(start) - found.blank)
    torch.testing.assert_close(moved, expected)
    torch.testing.assert_close(three.combine(start, found, at(0)) - start, 3 * moved)


def sld_by_hand(host: Diffusion, strength: float) -> list[Tensor]:
    """Eq. 3 to 8 of the paper, number by number, on the noise."""
    momentum, results = [0.0] * 512, []
    for step in range(5):
        found, now = seen(step), at(step)

        def eps(output: Tensor, found: Outputs = found, now: Moment = now) -> list[float]:
            return host.schedule.epsilon(output, found.latents, now.t).flatten().tolist()

        text, blank, concept = eps(found.text), eps(found.blank), eps(found.predict(now.t))
        noise_now = []
        for i in range(512):
            apart = text[i] - concept[i]
            mu = min(1.0, SLD["scale"] * abs(apart)) if apart < SLD["threshold"] else 0.0
            gamma = mu * (concept[i] - blank[i]) + SLD["momentum"] * momentum[i]
            momentum[i] = SLD["decay"] * momentum[i] + (1 - SLD["decay"]) * gamma
            used = strength * gamma if step >= 3 else 0.0
            noise_now.append(blank[i] + 4.0 * (text[i] - blank[i] - used))
        results.append(torch.tensor(noise_now).view(2, 4, 8, 8))
    return results


@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_sld_is_its_equations(host: Diffusion, strength: float) -> None:
    rule = SafeGuidance(host, {"text": "a cat", **SLD}, strength).begun()
    for step, expected in enumerate(sld_by_hand(host, strength)):
        found = seen(step)
        guided = found.blank + 4.0 * (found.text - found.blank)
        got = host.schedule.epsilon(
            rule.combine(guided, found, at(step)), found.latents, at(step).t
        )
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_runs_at_once_have_a_momentum_each(host: Diffusion) -> None:
    rule = Edit("cat", "sld", {}, rule="sld", params={"text": "a cat", **SLD})
    twin = host.edited([rule])
    alone = latents(twin)
    with ThreadPoolExecutor(4) as pool:
        together = [job.result() for job in [pool.submit(latents, twin) for _ in range(4)]]
    assert all(torch.equal(one, alone) for one in together)


def test_seot_damps_singular_values() -> None:
    chi = noise(5, 24) * torch.tensor([3.0, 1, 1, 0.3, 0.1])[:, None]
    values, u = torch.linalg.eigh(chi.double() @ chi.double().T)  # the slow way round
    expected = torch.zeros_like(chi, dtype=torch.double)
    for value, column in zip(values, u.T, strict=True):
        expected += math.exp(-0.7 * math.sqrt(value)) * torch.outer(column, column @ chi.double())
    torch.testing.assert_close(damped(chi, 0.7), expected.float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(damped(chi, 0.0), chi, rtol=1e-4, atol=1e-5)


def test_seot_touches_the_name_and_the_end_of_prompts_that_have_it(host: Diffusion) -> None:
    rule = SoftWeighted(host, {"name": "cat", "start": 0.2}, 1.0).begun()
    ids, states = host.tokens(PROMPTS)[0], host.states(PROMPTS)
    blank = host.states([""])
    early, _ = rule.conditions(states, blank, at(1, ids=ids))
    late, after = rule.conditions(states, blank, at(2, ids=ids))
    assert early is states
    assert blank is after
    moved = (late != states).any(2)  # (N, T)
    tokens = [[2, *range(3, tiny.CONTEXT)], [7, *range(8, tiny.CONTEXT)], []]
    named = [row.nonzero().flatten().tolist() for row in host.spots(ids, "cat")]
    assert named == [[2], [7], []]
    assert [row.nonzero().flatten().tolist() for row in moved] == tokens
    rows = [2, *range(3, tiny.CONTEXT)]
    torch.testing.assert_close(late[0, rows], damped(states[0, rows], 1.0))
    assert rule.conditions(states, blank, at(9))[0] is states, "without prompts there is no name"


def test_the_tokens_of_several_words_stand_one_after_another(host: Diffusion) -> None:
    ids = host.tokens(["cat dog cat", "dog cat", "cat cat dog dog"])[0]
    found = [row.nonzero().flatten().tolist() for row in host.spots(ids, "cat dog")]
    assert found == [[1, 2], [], [2, 3]]
    assert not host.spots(ids, "").any()
    assert not host.spots(ids, "cat " * 40).any()


def safree_by_hand(host: Diffusion, texts: list[str], strength: float) -> list[Tensor]:
    """The filtered states of each prompt, one token and one prompt at a time."""

    def pooled(text: str, without: int | None) -> Tensor:
        ids, end = host.tokens([text])[0], int(host.ends([text]))
        mask = torch.ones_like(ids)
        if without is not None:
            mask[0, without] = 0
        return host.text(ids, attention_mask=mask).last_hidden_state[0, end].double()

    def onto(rows: list[Tensor]) -> Tensor:
        columns = torch.stack(rows).T
        return columns @ torch.linalg.inv(columns.T @ columns) @ columns.T

    concept, results = onto([pooled(text, None) for text in texts]), []
    eye = torch.eye(24, dtype=torch.double)
    for prompt, states in zip(PROMPTS, host.states(PROMPTS), strict=True):
        end = int(host.ends([prompt]))
        masked = [pooled(prompt, place) for place in range(1, end)]
        away = [float((row - concept @ row).norm()) for row in masked]
        found = states.double().clone()
        own, triggers = onto(masked), []
        for place in range(1, end):
            others = [d for number, d in enumerate(away) if number != place - 1]
            if away[place - 1] >= 1.01 * sum(others) / len(others):
                triggers.append(place)
        for place in [*triggers, *range(end, tiny.CONTEXT)] if triggers else []:
            e = states[place].double()
            found[place] = e + strength * ((eye - concept) @ own @ e - e)
        results.append(found.float())
    return results


@pytest.mark.parametrize("strength", [1.0, 0.3])
def test_safree_filters_trigger_tokens(host: Diffusion, strength: float) -> None:
    texts = ["cat", "a cat"]
    rule = Filtered(host, {"texts": "\n".join(texts), **SAFREE}, strength).begun()
    ids, states = host.tokens(PROMPTS)[0], host.states(PROMPTS)
    got, _ = rule.conditions(states, states[:1], at(0, ids=ids))
    expected = torch.stack(safree_by_hand(host, texts, strength))
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)
    assert (got != states).any(2)[:, :9].any(), "some token is a trigger"


def test_safree_lets_go_when_its_share_of_the_steps_is_over(host: Diffusion) -> None:
    params = {"texts": "cat\na cat", **SAFREE, "middle": 0.0, "longest": 0.4}  # b = 0: half of it
    rule = Filtered(host, params, 1.0).begun()
    ids, states = host.tokens(PROMPTS)[0], host.states(PROMPTS)
    moved = [
        bool((rule.conditions(states, states[:1], at(step, ids=ids))[0] != states).any())
        for step in range(10)
    ]
    last = max(step for step in range(10) if moved[step])
    assert moved == [step <= last for step in range(10)]
    assert 1 <= last <= 3


def test_projections_and_triggers() -> None:
    rows = noise(3, 8)
    onto = projection(rows)
    torch.testing.assert_close(onto @ onto, onto, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rows @ onto, rows, rtol=1e-4, atol=1e-5)
    concept = torch.diag(torch.tensor([1.0, 0, 0, 0]))
    pooled = torch.tensor([[5.0, 1, 0, 0], [0, 0, 3.0, 0], [9.0, 0, 0, 1]])
    assert far(pooled, concept, 0.01).tolist() == [False, True, False]
    assert far(pooled[:2], concept, 2.5).tolist() == [False, False]
    assert far(pooled[:1], concept, 0.01).tolist() == [True]


@pytest.mark.parametrize("guided", [True, False])
def test_adavd_takes_the_values_off_the_concepts(guided: bool) -> None:
    value = torch.nn.Linear(6, 8, bias=False).requires_grad_(False)
    state, states = noise(6), noise(4, 5, 6, seed=1)
    got = Values(value, state, 0.7, guided)(states)
    before, v = value(states), value(state)
    for n in range(4):
        for token in range(5):
            row = before[n, token]
            share = float(row @ v) / float(v @ v)
            still = token == 0 or (guided and n < 2)
            expected = row if still else row - 0.7 * share * v
            torch.testing.assert_close(got[n, token], expected, rtol=1e-4, atol=1e-5)
    whole = Values(value, state, 1.0, guided)(states)
    assert (whole[2:, 1:] @ v).abs().max() < 1e-4


def test_adavd_reads_the_last_token_of_the_name_in_every_cross_attention(host: Diffusion) -> None:
    params = {"text": "a cat and a dog", "name": "cat"}
    twin = host.edited([Edit("cat", "adavd", {}, rule="adavd", params=params)])
    unet = twin.rules[0].unet(host.unet, at(0))
    changed = {n for n, m in unet.named_modules() if isinstance(m, Values)}
    assert changed == {f"{n}.to_v" for n, _ in host.unet.named_modules() if n.endswith("attn2")}
    state = host.states(["a cat and a dog"])[0, 2]
    assert all(torch.equal(unet.get_submodule(name)._state, state) for name in changed)
    assert not [n for n, m in host.unet.named_modules() if isinstance(m, Values)]


def test_adavd_also_changes_text_that_is_pooled_into_the_time(host: Diffusion) -> None:
    pipe = host.pipeline()
    config = {key: value for key, value in pipe.unet.config.items() if key[0] != "_"}
    config |= {"addition_embed_type": "text", "addition_embed_type_num_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        pipe.unet = UNet2DConditionModel.from_config(config).eval()
    other = Diffusion(pipe)
    params = {"text": "a cat", "name": "cat"}
    twin = other.edited([Edit("cat", "adavd", {}, rule="adavd", params=params)])
    unet, heard = twin.rules[0].unet(other.unet, at(0)), []
    pool = unet.get_submodule("add_embedding.pool.v_proj")
    value, norm = other.unet.add_embedding.pool.v_proj, other.unet.add_embedding.norm1
    v = value(norm(other.states(["a cat"])[0, 2]))
    pool.register_forward_hook(lambda _, given, out: heard.extend([given[0], out]))
    unet(other.noise([1, 2]), at(0).t, torch.cat([other.states([""]), other.states(["a cat"])]))
    before, after = value(heard[0]), heard[1]
    torch.testing.assert_close(after[0], before[0])
    torch.testing.assert_close(after[1, 0], before[1, 0])
    assert (after[1, 1:] @ v).abs().max() < 1e-3 * (before[1, 1:] @ v).abs().max()


@pytest.mark.parametrize("guided", [True, False])
def test_casteer_turns_outputs_and_keeps_their_length(guided: bool) -> None:
    v = torch.nn.functional.normalize(noise(8), dim=0)
    x = noise(4, 3, 8, seed=1)
    got = Steer(v, 1.5, guided)(x)
    for n in range(4):
        for place in range(3):
            row, expected = x[n, place], x[n, place]
            if not (guided and n < 2):
                turned = row - 1.5 * max(0.0, float(row @ v)) * v
                expected = turned / turned.norm() * row.norm()
            torch.testing.assert_close(got[n, place], expected, rtol=1e-4, atol=1e-5)
    along = x @ v
    assert ((got @ v)[2:].abs() <= along[2:].abs() + 1e-5).all()


def test_casteer_takes_its_vectors_from_the_pictures_with_and_without(host: Diffusion) -> None:
    having, lacking = ["a cat", "cat"], ["a dog", "dog"]
    found = vectors(host, having, lacking)
    means = [outputs_by_hooks(host, prompts) for prompts in (having, lacking)]
    assert found.keys() == means[0].keys()
    for name, own in found.items():
        assert own.shape[0] == TAKEN
        for step in range(TAKEN):
            apart = means[0][name][step] - means[1][name][step]
            torch.testing.assert_close(own[step], apart / apart.norm(), rtol=1e-3, atol=1e-4)


def outputs_by_hooks(host: Diffusion, prompts: list[str]) -> dict[str, list[Tensor]]:
    """What the plain pipeline's cross-attentions give, listened to by hooks."""
    pipe = host.pipeline()
    pipe.unet = copy.deepcopy(host.unet)
    heard: dict[str, list[Tensor]] = {}
    for name, module in pipe.unet.named_modules():
        if name.endswith("attn2"):
            heard[name] = []
            module.register_forward_hook(
                lambda _, __, out, own=heard[name]: own.append(out[2:].mean((0, 1)))
            )
    pipe(
        prompts,
        latents=host.noise([5_000_000, 5_000_001]),
        num_inference_steps=TAKEN,
        guidance_scale=2.0,
    )
    return heard


def test_what_a_rule_makes_of_the_model_is_made_once(host: Diffusion) -> None:
    params = {"with": "a cat", "without": "a dog", "beta": 2.0}
    edit = Edit("cat", "casteer", {}, rule="casteer", params=params)
    one, other = (host.edited([edit.at(s)]).rules[0] for s in (1.0, 2.0))
    assert one._vectors is other._vectors
    weight = tiny.edit(tiny.clip_model(), "transformer.resblocks.1.mlp.c_fc.weight", 0.5)
    moved = host.edited([edit, weight]).rules[0]
    assert moved._vectors is not one._vectors
    assert any(not torch.equal(moved._vectors[n], one._vectors[n]) for n in one._vectors)


def test_sae_takes_away_what_its_features_add_token_by_token(task: Task) -> None:
    own, model = of_tower(task), task.model
    prompts = ["a picture of a cat", "a neon picture of a dog", "a tree"]
    states, blank = model.states(prompts), model.states([""])
    end = int(model.ends(prompts)[0])
    chosen = [states.shape[1] * house.asked().index(prompts[0]) + place for place in (end, 0)]
    params = {"autoencoder": own.digest, "features": " ".join(map(str, chosen)), "factor": 1.5}
    got, other = TurnedOff(model, params, 0.6).conditions(states, blank, at(0))
    assert other is blank
    for n in range(len(prompts)):
        assert torch.equal(got[n, 0], states[n, 0])
        for t in range(1, states.shape[1]):
            before = ((states[n, t] - own.mean) / own.scale) @ own.encoder + own.bias
            limit = sorted(before.tolist())[-own.active]
            expected = states[n, t].clone()
            for f in chosen:
                if before[f] >= limit and before[f] > 0:
                    expected -= 0.6 * 1.5 * before[f] * own.decoder[f]
            torch.testing.assert_close(got[n, t], expected, rtol=1e-4, atol=1e-4)
    assert not torch.equal(got[0, end], states[0, end])


def random_autoencoder(*, width: int = 7, features: int = 20, active: int = 6) -> Autoencoder:
    """All its numbers random, so that each of them has a part in what it gives."""
    halves = [
        noise(*shape, seed=seed).half().float()
        for seed, shape in enumerate([(width,), (width, features), (features,), (features, width)])
    ]
    mean, encoder, bias, decoder = halves
    return Autoencoder(mean, torch.tensor(1.75), encoder, bias, decoder, active=active, tower="any")


@pytest.fixture
def turned_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Autoencoder, dict[str, str | float]]:
    """A random autoencoder that is here, and an edit's numbers that turn seven features off."""
    own = random_autoencoder()
    own.save(tmp_path / "sae" / "some")
    monkeypatch.setenv("SLUGDEMO_ASSETS", str(tmp_path))
    return own, {"autoencoder": own.digest, "features": "3 0 19 7 11 14 5", "factor": 1.5}


@pytest.mark.parametrize("strength", [1.0, 0.3, -0.5])
def test_sae_is_its_formula_number_by_number_on_a_random_tensor(
    host: Diffusion, turned_off: tuple[Autoencoder, dict[str, str | float]], strength: float
) -> None:
    """x - s u sum_f a_f W_f over the chosen f, a the k largest of relu(((x - mean) / scale) E + b).

    The slow way: one number after another, and the features' parts as the difference of two whole
    reconstructions a W + mean.
    """
    own, params = turned_off
    states, blank = 3 * noise(4, 5, 7, seed=9), noise(1, 5, 7, seed=10)
    got, other = TurnedOff(host, params, strength).conditions(states, blank, at(0))
    assert other is blank
    assert torch.equal(got[:, 0], states[:, 0])
    mean, encoder, bias, decoder = (
        part.tolist() for part in (own.mean, own.encoder, own.bias, own.decoder)
    )
    chosen, moved = {3, 0, 19, 7, 11, 14, 5}, 0
    for n in range(4):
        for t in range(1, 5):
            x = states[n, t].tolist()
            z = [(x[d] - mean[d]) / 1.75 for d in range(7)]
            found = [sum(z[d] * encoder[d][f] for d in range(7)) + bias[f] for f in range(20)]
            best = sorted(range(20), key=lambda f: -found[f])[:6]
            active = [max(0.0, found[f]) if f in best else 0.0 for f in range(20)]
            damped = [a * (1 - strength * 1.5) if f in chosen else a for f, a in enumerate(active)]
            moved += any(active[f] for f in chosen)
            for d in range(7):
                before, after = (
                    sum(a[f] * decoder[f][d] for f in range(20)) + mean[d] for a in (active, damped)
                )
                assert float(got[n, t, d]) == pytest.approx(x[d] + after - before, abs=1e-4)
    assert moved >= 4, "the features are active on some of the states"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_sae_at_strength_0_changes_no_bit(
    host: Diffusion,
    turned_off: tuple[Autoencoder, dict[str, str | float]],
    dtype: torch.dtype,
) -> None:
    states = (3 * noise(4, 5, 7, seed=9)).to(dtype)
    bits = torch.int32 if dtype is torch.float32 else torch.int16
    same, _ = TurnedOff(host, turned_off[1], 0.0).conditions(states, states[:1], at(0))
    other, _ = TurnedOff(host, turned_off[1], 1.0).conditions(states, states[:1], at(0))
    assert torch.equal(same.view(bits), states.view(bits))
    assert other.dtype == dtype
    assert not torch.equal(other, states)


def test_sae_chooses_what_is_active_on_the_concept_and_hardly_elsewhere() -> None:
    own = torch.tensor([1.0, 9.0, 8.0, 0.0, 0.1, 5.0])
    rest = torch.tensor([0.0, 9.0, 0.1, 0.0, 0.0, 1.0])
    assert features(own, rest) == [2, 5, 0]  # 1 is active on both, 3 on none, 4 hardly at all
    assert features(own, own) == []


def test_sae_chooses_features_of_prompts_with_the_name(task: Task) -> None:
    edit = METHODS["sae"].run(task.by("sae"))
    length = task.model.states([""]).shape[1]
    texts = {house.asked()[int(f) // length] for f in str(edit.params["features"]).split()}
    assert "a picture of a cat" in texts
    assert edit.params["autoencoder"] == of_tower(task).digest


def test_sae_of_another_model_or_with_other_features_is_refused(
    task: Task, host: Diffusion
) -> None:
    other = copy.copy(task)
    other.__dict__["model"] = host.edited(
        [tiny.edit(tiny.clip_model(), "transformer.resblocks.1.mlp.c_fc.weight", 0.5)]
    )
    with pytest.raises(SlugError, match="no sparse autoencoder here was trained on the states of"):
        METHODS["sae"].run(other)
    digest_ = of_tower(task).digest
    for params, words in (
        ({"autoencoder": "0" * 16}, "needs the sparse autoencoder 0000"),
        ({"autoencoder": digest_, "features": "1 x"}, "no feature 'x' among"),
        ({"autoencoder": digest_, "features": "-1"}, "no feature '-1'"),
    ):
        edit = Edit("cat", "sae", {}, rule="sae", params={"factor": 1.0, **params})
        with pytest.raises(SlugError, match=words):
            task.model.edited([edit])
