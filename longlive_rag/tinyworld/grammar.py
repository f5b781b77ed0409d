"""The language of tiny-world: which words exist, and how a sentence is made of them.

A sentence names a colour, a shape, an action and a place: "a red circle walks in a meadow". Everything else about a
character or a place is hidden (see `world`), and no sentence can ask for it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "heart", "diamond")
COLOURS: dict[str, float] = {
    "red": 0.0, "orange": 28.0, "yellow": 54.0, "green": 130.0, "blue": 218.0, "purple": 282.0,
}  # fmt: skip
"""Colour name -> nominal hue in degrees."""
ACTIONS: tuple[str, ...] = ("stands", "walks", "jumps", "turns", "leaves", "returns")
PLACES: dict[str, str] = {
    "meadow": "in a", "desert": "in a", "beach": "on a", "snow": "in the", "city": "in a", "forest": "in a",
}  # fmt: skip
"""Place name -> the words that come before it."""

_TEMPLATES = (
    "{article} {colour} {shape} {action} {where} {place}",
    "the {colour} {shape} {action} {where} {place}",
    "{where} {place} {article} {colour} {shape} {action}",
    "{article} {colour} {shape} {where} {place} {action}",
)
_FUNCTION_WORDS = ("a", "an", "the", "in", "on", "and", "it", "is", "then")


@dataclass(frozen=True)
class Sentence:
    """What a prompt says, as four words of the vocabulary."""

    colour: str
    shape: str
    action: str
    place: str

    def __str__(self) -> str:
        return sentence_text(self)


def vocabulary() -> tuple[str, ...]:
    """All words that a prompt may use, lower case, in a fixed order."""
    return (*_FUNCTION_WORDS, *COLOURS, *SHAPES, *ACTIONS, *PLACES)


def sentence_text(sentence: Sentence, template: int = 0) -> str:
    """`sentence` in English; `template` picks one of the `template_count()` word orders (0 is the usual one)."""
    article = "an" if sentence.colour[0] in "aeiou" else "a"
    return _TEMPLATES[template].format(
        article=article, colour=sentence.colour, shape=sentence.shape, action=sentence.action,
        where=PLACES[sentence.place], place=sentence.place,
    )  # fmt: skip


def template_count() -> int:
    """How many word orders `sentence_text` knows."""
    return len(_TEMPLATES)


def held_out(colour: str, shape: str, place: str) -> bool:
    """Whether this combination is kept out of training, to be asked for only when the model is measured.

    One combination in six, spread so that every pair of words is still seen together.
    """
    numbers = list(COLOURS).index(colour), SHAPES.index(shape), list(PLACES).index(place)
    return sum(numbers) % len(COLOURS) == 0


def held_out_sentences() -> list[Sentence]:
    """Every sentence about a held-out combination."""
    return [
        Sentence(colour, shape, action, place)
        for colour in COLOURS
        for shape in SHAPES
        for place in PLACES
        if held_out(colour, shape, place)
        for action in ACTIONS
    ]


def parse(prompt: str) -> Sentence:
    """Reads the four words back from any sentence over the vocabulary.

    Raises:
        ValueError: naming the kind of word that is missing and the words that would do.
    """
    words = re.findall(r"[a-z]+", prompt.lower())
    found: dict[str, str] = {}
    for kind, known in (("colour", COLOURS), ("shape", SHAPES), ("action", ACTIONS), ("place", PLACES)):
        named = [word for word in words if word in known]
        if not named:
            raise ValueError(f"the prompt {prompt!r} names no {kind}; known: {', '.join(known)}")
        found[kind] = named[0]
    return Sentence(**found)
