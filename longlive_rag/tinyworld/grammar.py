"""The language of tiny-world: its words, and how sentences are formed.

A sentence names a colour, a shape, an action and a place: "a red circle walks in a meadow". Only a meeting names a
second character: "a red circle meets a blue square in a meadow". Everything else about a character or a place is hidden
(see `world`) and can't be prompted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SHAPES: tuple[str, ...] = ("circle", "square", "triangle")
COLOURS: dict[str, float] = {
    "red": 0.0, "orange": 28.0, "yellow": 56.0, "green": 130.0, "blue": 218.0, "purple": 282.0,
}  # fmt: skip
"""Colour name -> nominal hue in degrees."""
ACTIONS: tuple[str, ...] = ("stands", "walks", "jumps", "turns", "leaves", "returns")
"""What a single character can do."""
MEETS = "meets"
PLACES: dict[str, str] = {
    "meadow": "in a", "desert": "in a", "beach": "on a", "snow": "in the", "city": "in a", "forest": "in a",
}  # fmt: skip
"""Place name -> the words before it."""

_TEMPLATES = (
    "{article} {colour} {shape} {action} {where} {place}",
    "the {colour} {shape} {action} {where} {place}",
    "{where} {place} {article} {colour} {shape} {action}",
    "{article} {colour} {shape} {where} {place} {action}",
)
_MEETING_TEMPLATES = (
    "{article} {colour} {shape} meets {other} {where} {place}",
    "the {colour} {shape} meets {other} {where} {place}",
    "{where} {place} {article} {colour} {shape} meets {other}",
    "{article} {colour} {shape} {where} {place} meets {other}",
)
_FUNCTION_WORDS = ("a", "an", "the", "in", "on", "and", "it", "is", "then")


@dataclass(frozen=True)
class Sentence:
    """The content of a prompt, in words of the vocabulary; `other` is the (colour, shape) met in a meeting."""

    colour: str
    shape: str
    action: str
    place: str
    other: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        if (self.action == MEETS) != (self.other is not None):
            raise ValueError(f"a sentence with {self.action!r} can't have {self.other} as the one met")

    def __str__(self) -> str:
        return sentence_text(self)


def vocabulary() -> tuple[str, ...]:
    """Return all words that a prompt may use, in lower case and a fixed order."""
    return (*_FUNCTION_WORDS, *COLOURS, *SHAPES, *ACTIONS, MEETS, *PLACES)


def sentence_text(sentence: Sentence, template: int = 0) -> str:
    """Write `sentence` in English; `template` picks one of `template_count()` word orders (0 is the usual one)."""
    templates = _TEMPLATES if sentence.other is None else _MEETING_TEMPLATES
    return templates[template].format(
        article=article(sentence.colour), colour=sentence.colour, shape=sentence.shape, action=sentence.action,
        where=PLACES[sentence.place], place=sentence.place,
        other="" if sentence.other is None else with_article(" ".join(sentence.other)),
    )  # fmt: skip


def article(word: str) -> str:
    """Return `a` or `an`."""
    return "an" if word[0] in "aeiou" else "a"


def with_article(words: str) -> str:
    """Prepend the article: `red circle` -> `a red circle`."""
    return f"{article(words)} {words}"


def template_count() -> int:
    """Return the number of word orders that `sentence_text` knows."""
    return len(_TEMPLATES)


def held_out(colour: str, shape: str, place: str) -> bool:
    """Whether this combination is held out of training, to be prompted only when the model is measured.

    It is one combination in six, spread so that every pair of words is still seen together.
    """
    numbers = list(COLOURS).index(colour), SHAPES.index(shape), list(PLACES).index(place)
    return sum(numbers) % len(COLOURS) == 0


def held_out_sentences() -> list[Sentence]:
    """Return every sentence about a held-out combination."""
    return [
        Sentence(colour, shape, action, place)
        for colour in COLOURS
        for shape in SHAPES
        for place in PLACES
        if held_out(colour, shape, place)
        for action in ACTIONS
    ]


def parse(prompt: str) -> Sentence:
    """Parse any sentence over the vocabulary.

    Raises:
        ValueError: if a kind of word is missing, naming the known ones.
    """
    words = re.findall(r"[a-z]+", prompt.lower())
    found: dict[str, list[str]] = {}
    for kind, known in (("colour", COLOURS), ("shape", SHAPES), ("action", (*ACTIONS, MEETS)), ("place", PLACES)):
        named = [word for word in words if word in known]
        if not named:
            raise ValueError(f"the prompt {prompt!r} names no {kind}; known: {', '.join(known)}")
        found[kind] = named
    colours, shapes, action, place = found["colour"], found["shape"], found["action"][0], found["place"][0]
    if action != MEETS:
        return Sentence(colours[0], shapes[0], action, place)
    if len(colours) < 2 or len(shapes) < 2:
        raise ValueError(
            f"the prompt {prompt!r} doesn't say who is met; try 'a red circle meets a blue square in a city'"
        )
    return Sentence(colours[0], shapes[0], action, place, (colours[1], shapes[1]))
