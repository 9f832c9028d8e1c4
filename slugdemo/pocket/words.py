"""The words of the sprite world: synonyms, descriptions, style words, captions, questions' vocabulary.

Knows language only. A concept without an entry here simply goes by its name, so any sprite folder works.
"""

from collections.abc import Sequence

import numpy as np

from slugdemo.pocket.names import Names

SYNONYMS: dict[str, list[str]] = {
    "cat": ["kitten", "kitty", "a pet that purrs"],
    "dog": ["puppy", "hound", "a pet that barks"],
    "horse": ["pony", "stallion", "an animal that gallops"],
    "cow": ["bull", "an animal that gives milk"],
    "pig": ["piglet", "hog", "a pink farm animal"],
    "rabbit": ["bunny", "hare", "an animal with long ears"],
    "mouse": ["rodent", "a small animal that eats cheese"],
    "elephant": ["jumbo", "a grey giant with a trunk"],
    "lion": ["king of the jungle"],
    "bear": ["grizzly", "a large furry animal that loves honey"],
    "panda": ["a black and white bear that eats bamboo"],
    "koala": ["a grey animal that eats eucalyptus"],
    "fox": ["vixen", "a clever red animal"],
    "wolf": ["an animal that howls at the moon"],
    "monkey": ["ape", "an animal that swings in trees"],
    "giraffe": ["an animal with a very long neck"],
    "unicorn": ["a magical horse with one horn"],
    "dragon": ["a monster that breathes fire"],
    "dinosaur": ["t-rex", "a giant reptile of long ago"],
    "snake": ["serpent", "a reptile without legs"],
    "turtle": ["tortoise", "an animal with a shell"],
    "frog": ["toad", "a green animal that croaks"],
    "whale": ["the largest animal of the sea"],
    "shark": ["a fish with sharp teeth"],
    "octopus": ["a sea animal with eight arms"],
    "butterfly": ["an insect with colourful wings"],
    "bee": ["bumblebee", "an insect that makes honey"],
    "spider": ["arachnid", "an animal that spins webs"],
    "penguin": ["a black and white bird that cannot fly"],
    "owl": ["a night bird"],
    "rooster": ["cockerel", "a bird that crows in the morning"],
    "tree": ["oak", "a tall plant with leaves"],
    "cactus": ["a desert plant with spines"],
    "rose": ["a red flower with thorns"],
    "sunflower": ["a tall yellow flower"],
    "mushroom": ["toadstool"],
    "apple": ["a fruit that keeps the doctor away"],
    "banana": ["a long yellow fruit"],
    "strawberry": ["a red berry with seeds outside"],
    "watermelon": ["a large green fruit, red inside"],
    "pizza": ["margherita", "a slice with melted cheese"],
    "hamburger": ["burger", "a bun with meat"],
    "ice cream": ["gelato", "a frozen dessert in a cone"],
    "doughnut": ["donut", "a ring of fried dough"],
    "birthday cake": ["a cake with candles"],
    "bread": ["loaf", "what a baker bakes"],
    "car": ["automobile", "a vehicle with four wheels"],
    "bus": ["coach", "a vehicle for many passengers"],
    "taxi": ["cab", "a car for hire"],
    "fire engine": ["fire truck", "the red vehicle of firefighters"],
    "train": ["locomotive", "a vehicle on rails"],
    "bicycle": ["bike", "a vehicle with pedals"],
    "airplane": ["plane", "jet", "a flying machine with wings"],
    "helicopter": ["chopper", "a flying machine with a rotor"],
    "rocket": ["spaceship", "a vehicle that flies to the moon"],
    "ship": ["ocean liner", "a large vessel"],
    "flying saucer": ["ufo", "a vehicle from another planet"],
    "house": ["home", "a building to live in"],
    "castle": ["fortress", "a palace with towers"],
    "volcano": ["a mountain of fire and lava"],
    "guitar": ["an instrument with six strings"],
    "piano": ["keyboard", "an instrument with black and white keys"],
    "soccer ball": ["football"],
    "gift": ["present", "a wrapped box with a ribbon"],
    "teddy bear": ["cuddly toy"],
    "umbrella": ["parasol", "what keeps the rain off"],
    "alarm clock": ["clock", "what wakes you in the morning"],
    "light bulb": ["lamp"],
    "telephone": ["phone"],
    "television": ["tv", "a box that shows films"],
    "snowman": ["a figure made of snow"],
    "moon": ["crescent", "what shines at night"],
    "rainbow": ["an arc of many colours"],
    "Santa Claus": ["father christmas", "an old man who brings presents at christmas"],
    "mermaid": ["siren", "a woman with the tail of a fish"],
    "superhero": ["a hero with a cape"],
    "zombie": ["the walking dead", "a corpse that walks"],
    "wizard": ["sorcerer", "merlin", "an old man who casts spells"],
    "elf": ["a person with pointed ears"],
    "ghost": ["phantom", "spook", "a spirit in a white sheet"],
    "alien": ["extraterrestrial", "a being from another planet"],
    "robot": ["android", "a machine that walks and talks"],
    "ogre": ["troll", "an ugly red monster"],
    "goblin": ["tengu", "a red face with a long nose"],
    "clown": ["jester", "a funny face from the circus"],
    "princess": ["a king's daughter"],
    "jack-o-lantern": ["halloween pumpkin", "a carved pumpkin"],
    "astronaut": ["cosmonaut", "a person in a space suit"],
    "detective": ["sleuth", "sherlock", "a person who solves crimes"],
}

STYLE_WORDS: dict[str, list[str]] = {
    "pencil sketch": ["pencil drawing", "graphite sketch", "hand-drawn"],
    "pixel art": ["8-bit", "retro game", "blocky pixel"],
    "neon": ["neon sign", "glowing", "neon light"],
    "blueprint": ["technical drawing", "cyanotype", "construction plan"],
    "watercolour": ["watercolor", "aquarelle", "painted with washes"],
    "pop art": ["comic print", "halftone", "warhol"],
    "sepia": ["old photograph", "vintage", "brown toned"],
    "heat map": ["thermal camera", "infrared", "thermal"],
}
SUBJECTS = (
    "a picture of {}",
    "an image of {}",
    "{}",
    "a photo of {}",
    "this is {}",
    "here you see {}",
)
STYLED = (
    "a {style} picture of {it}",
    "{style} of {it}",
    "{it}, {style}",
    "a picture of {it} in {style} style",
    "a {style} image of {it}",
    "{it} as {style}",
)
CHARACTERS = ("Santa Claus",)  # names that take no article


def named(concept: str) -> str:
    """The concept with its article: "a cat", "an apple", "Santa Claus"."""
    if concept in CHARACTERS or concept.split()[0] in ("a", "an", "the", "what"):
        return concept
    return f"{'an' if concept[0].lower() in 'aeiou' and not concept.startswith('u') else 'a'} {concept}"


def wording(concept: str, rng: np.random.Generator) -> str:
    """The concept by its name (two times in three) or by a synonym or description, with article."""
    others = SYNONYMS.get(concept, [])
    if not others or rng.random() < 0.66:
        return f"a {concept}" if rng.random() < 0.2 else named(concept)
    return named(str(rng.choice(others)))


def style_wording(style: str, rng: np.random.Generator) -> str:
    """The style by its name (two times in three) or by another word for it."""
    return style if rng.random() < 0.66 else str(rng.choice(STYLE_WORDS.get(style, [style])))


def subject(concepts: Sequence[str], rng: np.random.Generator) -> str:
    """One or two things in words: "a cat", "a cat and a rocket", "a cat next to a rocket"."""
    return str(rng.choice([" and ", " next to "])).join(wording(c, rng) for c in concepts)


def caption(
    concepts: Sequence[str], rng: np.random.Generator, *, style: str | None, ground: str | None
) -> str:
    """A caption that names the things, and style and ground where given."""
    it = subject(concepts, rng)
    if ground:
        it = f"{it} on a {ground} background"
    if style is None:
        return str(rng.choice(SUBJECTS)).format(it)
    return str(rng.choice(STYLED)).format(style=style_wording(style, rng), it=it)


def prompt(concept: str, style: str = "plain") -> str:
    """The one template that models are tested and shown with: "a {style} picture of a {name}"."""
    return (
        f"a picture of {named(concept)}"
        if style == "plain"
        else f"a {style} picture of {named(concept)}"
    )


def style_prompt(style: str) -> str:
    """The template of a style alone."""
    return f"a {style} picture"


def phrases(names: Names) -> list[str]:
    """Every name of the world and every other word for one."""
    others = [word for c in names.concepts for word in SYNONYMS.get(c, [])]
    others += [word for s in names.styles for word in STYLE_WORDS.get(s, [])]
    return [*names.concepts, *names.styles, *others]


def vocabulary(names: Names, grounds: Sequence[str]) -> list[str]:
    """Every phrase that captions of the world are made of: what the tokenizer is trained on."""
    found = [*phrases(names), *grounds, *SUBJECTS, *STYLED, "background", " and ", " next to "]
    return [phrase.replace("{}", "").replace("{style}", "").replace("{it}", "") for phrase in found]
