"""Scripts to train on: a character that gets a new cue every few seconds, and sometimes someone to meet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, product
from pathlib import Path

import numpy as np
from PIL import Image

from longlive_rag.tinyworld.drawing import Character, sample_character
from longlive_rag.tinyworld.grammar import (
    ACTIONS,
    COLOURS,
    MEETS,
    PLACES,
    SHAPES,
    Sentence,
    held_out,
    parse,
    with_article,
)
from longlive_rag.tinyworld.motion import WAITS, Cue
from longlive_rag.tinyworld.world import FPS, Actor, Place, Script, render, sample_camera, sample_place, script_for
from retrieval.files import appearing

FIRST_BLOCK_PX, BLOCK_PX = 9, 12  # cues take effect at a block's start, as in a take
STAYING = ("stands", "walks", "jumps", "turns")
SHORTEST_CUE_S, LONGEST_CUE_S = 1.5, 4.5
EMPTY_STAGE_PROBABILITY, LEAVE_PROBABILITY = 0.35, 0.25
MEET_PROBABILITY, MOVE_PROBABILITY = 0.12, 0.15
SCENE_S, LONG_SCENE_S, EMPTY_STAGE_S = (6.0, 10.0), (20.0, 40.0), (2.8, 4.0)
FIRST_CUE_S = 3.5  # time that a character needs to arrive
LONG_SCENE_PROBABILITY, SAME_WORDS_PROBABILITY, EMPTY_OPENING_PROBABILITY = 0.12, 0.3, 0.7
BACK_AT_ONCE_PROBABILITY, LARGEST_CAST = 0.25, 3


def sample_script(rng: np.random.Generator, frames: int) -> Script:
    """Draw a script of a character at a place that changes its action every 1.5 to 4.5 s, and returns if it has left.

    A third of the scripts begin with an empty stage. Held-out combinations never occur.
    """
    character, place = _training_pair(rng)
    guest = _guest(rng, place)
    cues = [Cue(0, "returns" if rng.random() < EMPTY_STAGE_PROBABILITY else str(rng.choice((*STAYING, "leaves"))))]
    guest_cues, places = [Cue(0, WAITS)], [(0, place)]
    while True:
        frame = block_start(cues[-1].frame + rng.uniform(SHORTEST_CUE_S, LONGEST_CUE_S) * FPS)
        if frame >= frames:
            break
        previous, action = cues[-1].action, _next_action(rng, cues[-1].action)
        cues.append(Cue(frame, action))
        if action == MEETS:
            guest_cues.append(Cue(frame, MEETS))
        elif previous == MEETS:
            guest_cues.append(Cue(frame, "leaves"))
        elif rng.random() < MOVE_PROBABILITY:
            places.append((frame, _next_place(rng, [character, guest], places[-1][1])))
    actors = [Actor(character, tuple(cues))]
    if len(guest_cues) > 1:
        actors.append(Actor(guest, tuple(guest_cues)))
    return Script(tuple(places), tuple(actors), frames, sample_camera(rng))


def sample_film(rng: np.random.Generator, frames: int) -> Script:
    """Draw scenes of a cast of two or three, who come, play and leave one after another, each in its own place.

    Two of the cast may share their words and differ only in hidden traits. Those who have left may return, soon or at
    the end; sometimes nobody leaves for a long time.
    """
    cast, homes = _cast(rng)
    cues: list[list[Cue]] = [[] for _ in cast]
    leads: list[tuple[int, int]] = []
    places: list[tuple[int, Place]] = []
    frame, lead = 0, int(rng.integers(len(cast)))
    while frame < frames:
        leads.append((frame, lead))
        if not places or places[-1][1] != homes[lead]:
            places.append((frame, homes[lead]))
        begin = "returns" if frame or rng.random() < EMPTY_OPENING_PROBABILITY else str(rng.choice(STAYING))
        cues[lead].append(Cue(frame, begin))
        length_s = rng.uniform(*(LONG_SCENE_S if rng.random() < LONG_SCENE_PROBABILITY else SCENE_S))
        end = block_start(frame + length_s * FPS)
        frame = block_start(frame + FIRST_CUE_S * FPS)
        while frame < end:
            action = str(rng.choice([each for each in STAYING if each != cues[lead][-1].action]))
            cues[lead].append(Cue(frame, action))
            frame = block_start(frame + rng.uniform(SHORTEST_CUE_S, LONGEST_CUE_S) * FPS)
        cues[lead].append(Cue(end, "leaves"))
        frame = block_start(end + rng.uniform(*EMPTY_STAGE_S) * FPS)
        others = [each for each in range(len(cast)) if each != lead]
        lead = lead if rng.random() < BACK_AT_ONCE_PROBABILITY else int(rng.choice(others))
    actors = [_film_actor(who, own, frames) for who, own in zip(cast, cues, strict=True)]
    return Script(tuple(places), tuple(actors), frames, sample_camera(rng), tuple(leads))


def _cast(rng: np.random.Generator) -> tuple[list[Character], list[Place]]:
    """Draw different characters, and their places with different names."""
    count = int(rng.integers(2, LARGEST_CAST + 1))
    cast: list[Character] = []
    homes: list[Place] = []
    while len(cast) < count:
        who, home = _training_pair(rng)
        if len(cast) == 1 and rng.random() < SAME_WORDS_PROBABILITY:
            who = sample_character(rng, cast[0].colour, cast[0].shape)
        taken = who in cast or any(home.name == other.name for other in homes)
        if not taken and not held_out(who.colour, who.shape, home.name):
            cast.append(who)
            homes.append(home)
    return cast, homes


def _film_actor(who: Character, cues: list[Cue], frames: int) -> Actor:
    inside = [cue for cue in cues if cue.frame < frames]
    return Actor(who, tuple(inside if inside and inside[0].frame == 0 else [Cue(0, WAITS), *inside]))


def sample_sentences(count: int, seed: int) -> list[Sentence]:
    """Draw random sentences with one character and no held-out combination."""
    return list(islice(draw_sentences(seed), count))


def draw_sentences(seed: int) -> Iterator[Sentence]:
    """Yield such sentences without end."""
    rng = np.random.default_rng(seed)
    while True:
        who, place = _training_pair(rng)
        yield Sentence(who.colour, who.shape, str(rng.choice(ACTIONS)), place.name)


def sample_subjects(count: int, seed: int) -> list[dict[str, str]]:
    """Draw the subjects of comparisons: different combinations of colour, shape and place, held out or not.

    Returns:
        The words that scenarios fill in: `id`, `who`, `does`, `where`, `other` (someone else), `elsewhere`, and three
        more characters with their own colours and places: `third`, `third_place` and so on to the fifth.

    Raises:
        ValueError: if there are not that many combinations.
    """
    combinations = list(product(COLOURS, SHAPES, PLACES))
    if count > len(combinations):
        raise ValueError(f"count is {count}, but there are {len(combinations)} combinations of colour, shape and place")
    rng = np.random.default_rng(seed)

    def another(known: Iterable[str], own: str) -> str:
        return str(rng.choice([each for each in known if each != own]))

    subjects = []
    for number in rng.permutation(len(combinations))[:count]:
        colour, shape, place = combinations[number]
        elsewhere = another(PLACES, place)
        subjects.append(
            {
                "id": f"{colour}-{shape}-{place}",
                "who": with_article(f"{colour} {shape}"),
                "does": str(rng.choice(STAYING)),
                "where": f"{PLACES[place]} {place}",
                "other": with_article(f"{another(COLOURS, colour)} {another(SHAPES, shape)}"),
                "elsewhere": f"{PLACES[elsewhere]} {elsewhere}",
            }
        )
        subjects[-1] |= _rest_of_the_cast(np.random.default_rng([seed, int(number)]), subjects[-1], place, elsewhere)
    return subjects


def draw_subjects(subjects: Sequence[dict[str, str]], folder: Path, seed: int) -> list[dict[str, str]]:
    """Draw a picture of each subject, `ID.png` in `folder`, with the colour and shape in its words.

    Tint, size, pattern, hat and bag are random: no prompt names them, so no prompt alone brings the subject back.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for number, subject in enumerate(subjects):
        picture = f"{subject['id']}.png"
        sentence = parse(f"{subject['who']} stands {subject['where']}")
        (frame,) = render(script_for(sentence, 1, seed * len(subjects) + number))
        with appearing(folder / picture) as part:
            Image.fromarray(frame).save(part, format="PNG")
        drawn.append({**subject, "start_image": picture})
    return drawn


def _rest_of_the_cast(rng: np.random.Generator, subject: dict[str, str], place: str, elsewhere: str) -> dict[str, str]:
    """Draw three more characters, using no colour and no place twice."""
    taken = f"{subject['who']} {subject['other']}".split()
    colours = rng.permutation([colour for colour in COLOURS if colour not in taken])
    places = rng.permutation([each for each in PLACES if each not in (place, elsewhere)])
    words = {}
    for name, colour, where in zip(("third", "fourth", "fifth"), colours, places, strict=False):
        words[name] = with_article(f"{colour} {rng.choice(SHAPES)}")
        words[f"{name}_place"] = f"{PLACES[str(where)]} {where}"
    return words


def block_start(frame: float) -> int:
    """Return the first pixel frame of the block that begins at or after `frame`."""
    return block_frame(max(1, block_of(frame)))


def block_frame(block: int) -> int:
    """Return the first pixel frame of a block."""
    return 0 if block == 0 else FIRST_BLOCK_PX + BLOCK_PX * (block - 1)


def block_of(frame: float) -> int:
    """Return the block that begins at or after a pixel frame."""
    return 0 if frame <= 0 else 1 + max(0, int(np.ceil((frame - FIRST_BLOCK_PX) / BLOCK_PX)))


def _training_pair(rng: np.random.Generator) -> tuple[Character, Place]:
    while True:
        character, place = sample_character(rng), sample_place(rng)
        if not held_out(character.colour, character.shape, place.name):
            return character, place


def _guest(rng: np.random.Generator, place: Place) -> Character:
    while True:
        guest = sample_character(rng)
        if not held_out(guest.colour, guest.shape, place.name):
            return guest


def _next_place(rng: np.random.Generator, who: list[Character], now: Place) -> Place:
    names = [
        name for name in PLACES
        if name != now.name and not any(held_out(each.colour, each.shape, name) for each in who)
    ]  # fmt: skip
    return sample_place(rng, str(rng.choice(names)))


def _next_action(rng: np.random.Generator, action: str) -> str:
    if action == "leaves":
        return "returns"
    draw = rng.random()
    if draw < LEAVE_PROBABILITY:
        return "leaves"
    if draw < LEAVE_PROBABILITY + MEET_PROBABILITY and action != MEETS:
        return MEETS
    return str(rng.choice([other for other in STAYING if other != action]))
