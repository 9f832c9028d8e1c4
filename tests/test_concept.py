"""Which spellings name the same thing, and which names a caption holds."""

import pytest

from slugdemo.concept import Example, Names, subject, tidy
from slugdemo.pocket import words

NAMES = Names.of(
    [
        {"name": "cat", "kind": "object", "synonyms": ["kitty"], "descriptions": []},
        {"name": "dog", "kind": "object", "synonyms": ["hound"]},
        {"name": "hot dog", "kind": "object"},
        {"name": "bus", "kind": "object", "synonyms": ["coach"]},
        {"name": "alarm clock", "kind": "object", "synonyms": ["clock"]},
        {"name": "clock", "kind": "object"},
        {"name": "jack-o-lantern", "kind": "character", "synonyms": ["halloween pumpkin"]},
        {"name": "Santa Claus", "kind": "character", "synonyms": ["father christmas"]},
        {"name": "pixel art", "kind": "style", "synonyms": ["8-bit"]},
        {"name": "plain", "kind": "style"},
    ]
)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("cat", "cat"),
        ("Cat", "cat"),
        ("  CAT ", "cat"),
        ("kitty", "cat"),
        ("a cat", "cat"),
        ("The Kitties", "The Kitties"),  # no English grammar beyond a plural s
        ("cats", "cat"),
        ("buses", "bus"),
        ("Hot_Dog", "hot dog"),
        ("hot-dog", "hot dog"),
        ("clock", "clock"),  # a name comes before another's synonym
        ("Jack O Lantern", "jack-o-lantern"),
        ("Father_Christmas", "Santa Claus"),
        ("8 bit", "pixel art"),
        ("my mug ", "my mug"),
        ("Van_Gogh", "Van Gogh"),
        ("AC/DC", "AC/DC"),
        ("my cat", "my cat"),
    ],
)
def test_a_name_is_the_known_one_that_it_spells(given: str, name: str) -> None:
    assert NAMES.canonical(given) == name
    assert NAMES.same(given, name)
    assert NAMES.adding(given).canonical(given) == name


def test_names_that_differ_are_not_the_same() -> None:
    assert not NAMES.same("cat", "dog")
    assert not NAMES.same("dog", "hot dog")
    assert not NAMES.same("my mug", "mug")
    assert NAMES.same("van gogh", "Van_Gogh")
    assert Names().same("Cat ", "cat")


def test_every_word_of_the_pocket_world_is_itself_among_the_shipped_names() -> None:
    listing = [{"name": n, "kind": "object", "synonyms": s} for n, s in words.SYNONYMS.items()]
    names = Names.of(listing)
    for name in words.SYNONYMS:
        assert names.canonical(name.upper()) == name
    for name, others in words.SYNONYMS.items():
        for other in others:
            assert names.canonical(f" {other.title()} ") in {name, *words.SYNONYMS}


@pytest.mark.parametrize(
    ("caption", "held"),
    [
        ("A Cat and two hounds", ("cat", "dog")),
        ("a hot-dog stand", ("hot dog",)),
        ("hot dogs for a dog", ("hot dog", "dog")),
        ("concatenated catalogues", ()),
        ("an 8-bit cat", ("pixel art", "cat")),
        ("cat, CAT, kitty", ("cat",)),
        ("", ()),
    ],
)
def test_a_caption_holds_whole_names_the_longest_first(caption: str, held: tuple) -> None:
    assert NAMES.held(caption) == held


def test_names_of_one_domain_can_be_asked_for() -> None:
    assert NAMES.held("an 8-bit cat", "style") == ("pixel art",)
    assert NAMES.held("an 8-bit cat", "concept") == ("cat",)
    assert Names().held("a cat") == ()


@pytest.mark.parametrize(
    ("caption", "name"),
    [
        ("a photo of a gizmo.", "gizmo"),
        ("A close-up photo of the Gizmo", "a close up photo of the gizmo"),
        ("an oil painting of a red gizmo", "red gizmo"),
        ("this is a gizmo", "gizmo"),
        ("gizmo", "gizmo"),
        ("here you see an image of the gizmo", "gizmo"),
        ("a gizmo that stands on the table", ""),
        ("", ""),
    ],
)
def test_a_short_caption_is_a_name_and_a_long_one_is_not(caption: str, name: str) -> None:
    assert subject(caption) == (name if len(name.split()) <= 3 else "")


def test_a_label_comes_before_the_caption_and_is_the_known_name() -> None:
    assert NAMES.label(Example("x", "a dog", {"concept": "Kitty"})) == "cat"
    assert NAMES.label(Example("x", "a hound asleep on the floor of the hall")) == "dog"
    assert NAMES.label(Example("x", "a cat"), "style") == "plain"
    assert NAMES.label(Example("x", "a cat in 8-bit"), "style") == "pixel art"


def test_near_names_are_found_by_spelling_and_synonym() -> None:
    assert NAMES.near("kity")[0] == "cat"
    assert NAMES.near("Santa Clause")[0] == "Santa Claus"
    assert NAMES.near("%%%") == ()


def test_what_is_shown_is_tidy() -> None:
    assert tidy(" Van__Gogh \n") == "Van Gogh"
