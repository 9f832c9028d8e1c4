"""A LLaVA model as a host: answers, visitors and their edits, on a tiny real model."""

import copy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tiny
import torch
from PIL import Image
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from slugdemo.edit import Edit
from slugdemo.errors import SlugError
from slugdemo.models import names
from slugdemo.models.base import Cancelled
from slugdemo.models.llava import Llava, seen
from slugdemo.weights import digest

LAYER = "visual.transformer.resblocks.1.attn.in_proj_weight"
QUESTIONS = ["what is it?", "who", "which style is the picture in?"]


@pytest.fixture(scope="module")
def llava() -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    return tiny.llava(tiny.clip_model())


@pytest.fixture
def host(llava: tuple) -> Llava:
    return Llava(*llava)


def picture(seed: int) -> Image.Image:
    noise = torch.randint(256, (40, 36, 3), generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(noise.byte().numpy())


PICTURES = [picture(seed) for seed in range(3)]


def an_edit(step: float = 0.5, *, layer: str = LAYER, seed: int = 0) -> Edit:
    return tiny.edit(tiny.clip_model(), layer, step, seed=seed)


def plain_answer(
    model: LlavaForConditionalGeneration, processor: LlavaProcessor, question: str, number: int
) -> str:
    """The boring way: one picture, the model card's own prompt, transformers alone."""
    text = f"USER: <image>\n{question} ASSISTANT:"
    inputs = processor(images=PICTURES[number], text=text, return_tensors="pt")
    tokens = model.generate(**inputs, do_sample=False, max_new_tokens=16)
    new = tokens[:, inputs["input_ids"].shape[1] :]
    return processor.batch_decode(new, skip_special_tokens=True)[0].strip()


def test_batched_answers_are_those_of_the_plain_model_one_by_one(host: Llava, llava: tuple) -> None:
    theirs = [plain_answer(*llava, question, n) for n, question in enumerate(QUESTIONS)]
    assert host.answer(PICTURES, QUESTIONS) == theirs
    assert len(set(theirs)) == 3


def test_answers_do_not_depend_on_the_batch(llava: tuple) -> None:
    ones, all_at_once = Llava(*llava, batch=1), Llava(*llava, batch=16)
    assert ones.answer(PICTURES, QUESTIONS) == all_at_once.answer(PICTURES, QUESTIONS)


def test_a_picture_is_looked_at_once_for_all_its_questions(llava: tuple) -> None:
    host, seen_by = Llava(*llava, batch=2), []
    tower = llava[0].model.vision_tower
    hook = tower.register_forward_hook(lambda _, __, out: seen_by.append(len(out[0])))
    again = [PICTURES[0], PICTURES[1], PICTURES[0], PICTURES[0], PICTURES[2]]
    asked = [QUESTIONS[0], QUESTIONS[1], QUESTIONS[1], QUESTIONS[2], QUESTIONS[2]]
    answers = host.answer(again, asked)
    hook.remove()
    assert sum(seen_by) == 3
    numbers = [PICTURES.index(picture) for picture in again]
    assert answers == [
        plain_answer(*llava, question, number)
        for question, number in zip(asked, numbers, strict=True)
    ]


def test_edited_answers_are_those_of_a_model_with_overwritten_weights(
    host: Llava, llava: tuple
) -> None:
    clip = tiny.overwritten(tiny.clip_model(), [an_edit()])
    model = copy.deepcopy(llava[0])
    model.model.vision_tower.load_state_dict(names.vision_model(clip).state_dict())
    theirs = [plain_answer(model, llava[1], question, n) for n, question in enumerate(QUESTIONS)]
    assert host.edited([an_edit()]).answer(PICTURES, QUESTIONS) == theirs
    assert host.answer(PICTURES, QUESTIONS) != theirs


def test_a_twin_made_at_once_sees_as_many_layers_as_its_base() -> None:
    host = Llava(*tiny.llava(tiny.clip_model()))  # nobody has asked it anything yet
    twin = host.edited([an_edit()])
    pixels = torch.zeros(1, 3, tiny.PIXELS, tiny.PIXELS)
    for one in (twin, host, twin, host.edited([an_edit(0.2)])):
        states = one.model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
        assert len(states) == 1 + 3
        assert all(state is not None for state in states)
        assert len(one.answer(PICTURES, QUESTIONS)) == 3


def test_nothing_changes_the_base(host: Llava, llava: tuple) -> None:
    before, config = digest(llava[0]), llava[0].generation_config.to_json_string()
    host.editable()
    host.edited([an_edit()]).answer(PICTURES, QUESTIONS)
    with pytest.raises(Cancelled):
        host.answer(PICTURES, QUESTIONS, cancelled=lambda: True)
    assert digest(llava[0]) == before
    assert llava[0].generation_config.to_json_string() == config
    assert all(parameter.grad is None for parameter in llava[0].parameters())


def test_what_moves_nothing_gives_the_host_itself(host: Llava) -> None:
    assert host.edited([an_edit(0.0)]) is host
    assert host.edited([an_edit(layer="visual.proj")]) is host
    assert host.edited([an_edit(layer="transformer.resblocks.0.mlp.c_fc.weight")]) is host


def test_edited_hosts_share_all_but_the_edited_tensors(host: Llava, llava: tuple) -> None:
    base = dict(llava[0].named_parameters())
    twin = dict(host.edited([an_edit()]).model.named_parameters())
    own = {name for name in base if twin[name] is not base[name]}
    layer = "model.vision_tower.encoder.layers.1.self_attn"
    assert own == {f"{layer}.{letter}_proj.weight" for letter in "qkv"}


def test_editable_is_what_brute_force_finds(host: Llava) -> None:
    noise = torch.Generator().manual_seed(1)
    pixels = torch.randn(2, 3, tiny.PIXELS, tiny.PIXELS, generator=noise)
    moved = set()
    with torch.no_grad():
        before = seen(host.model, pixels)
        for name in tiny.clip_model().state_dict():
            twin = host.edited([an_edit(1.0, layer=name)])
            if not torch.equal(seen(twin.model, pixels), before):
                moved.add(name)
    assert set(host.editable()) == moved


def test_the_last_block_and_what_follows_it_are_not_editable(host: Llava) -> None:
    editable = host.editable()
    blocks = {name.split(".")[3] for name in editable if ".resblocks." in name}
    assert blocks == {"0", "1"}
    assert not {"visual.ln_post.weight", "visual.ln_post.bias", "visual.proj"} & {*editable}


def test_eight_visitors_get_their_own_answers(host: Llava) -> None:
    twins = [host.edited([an_edit(0.3 + 0.1 * number, seed=number)]) for number in range(8)]
    lonely = [twin.answer(PICTURES, QUESTIONS) for twin in twins]
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(twin.answer, PICTURES, QUESTIONS) for twin in twins]
    assert [job.result() for job in jobs] == lonely
    assert len({tuple(answers) for answers in lonely}) == 8


def test_progress_counts_tokens_and_ends_at_the_total(llava: tuple) -> None:
    seen_steps: list[tuple[int, int]] = []
    host = Llava(*llava, batch=2, longest=3)
    host.answer(PICTURES, QUESTIONS, progress=lambda *step: seen_steps.append(step))
    assert seen_steps[-1] == (6, 6)
    assert seen_steps == sorted(seen_steps)


def test_cancelling_stops_within_one_token(host: Llava) -> None:
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) == 3

    with pytest.raises(Cancelled):
        host.answer(PICTURES, QUESTIONS, cancelled=stop)
    assert len(asked) == 3
    assert len(host.answer(PICTURES, QUESTIONS)) == 3


def test_a_template_of_the_folder_is_used(llava: tuple) -> None:
    model, processor = llava
    template = (
        "{% for m in messages %}{% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}"
        "{% endfor %}{% endfor %}{% if add_generation_prompt %} A:{% endif %}"
    )
    theirs = copy.deepcopy(processor)
    theirs.chat_template = template
    host = Llava(model, theirs)
    assert host._prompt("what?") == "<image>what? A:"
    assert len(host.answer(PICTURES, QUESTIONS)) == 3


def test_a_question_that_is_too_long_is_refused_with_a_sentence(host: Llava) -> None:
    with pytest.raises(SlugError, match="shorten it"):
        host.answer(PICTURES[:1], ["why " * 100])


def test_a_question_with_the_pictures_token_is_refused_with_a_sentence(host: Llava) -> None:
    with pytest.raises(SlugError, match="cannot hold <image>"):
        host.answer(PICTURES[:1], ["<image> what?"])


def test_as_many_questions_as_pictures(host: Llava) -> None:
    with pytest.raises(ValueError, match="3 pictures need as many questions: 1"):
        host.answer(PICTURES, ["what?"])
    assert host.answer([], []) == []


def test_weights_that_are_not_finite_are_refused_with_a_sentence(host: Llava) -> None:
    with pytest.raises(SlugError, match="not finite"):
        host.edited([an_edit(float("inf"))]).answer(PICTURES, QUESTIONS)


def test_a_saved_folder_gives_the_same_answers(host: Llava, llava: tuple, tmp_path: Path) -> None:
    model, processor = llava
    model.save_pretrained(tmp_path / "tiny-llava")
    processor.save_pretrained(tmp_path / "tiny-llava")
    loaded = Llava.from_folder(tmp_path / "tiny-llava")
    assert loaded.answer(PICTURES, QUESTIONS) == host.answer(PICTURES, QUESTIONS)


def test_a_broken_folder_is_refused_with_a_sentence(llava: tuple, tmp_path: Path) -> None:
    with pytest.raises(SlugError, match="nothing is not a whole LLaVA folder"):
        Llava.from_folder(tmp_path / "nothing")
    llava[0].save_pretrained(tmp_path / "torn")
    llava[1].save_pretrained(tmp_path / "torn")
    (tmp_path / "torn" / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(SlugError, match="torn is not a whole LLaVA folder"):
        Llava.from_folder(tmp_path / "torn")
