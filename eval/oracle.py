"""tiny-world's oracle as an embedder: a frame is represented by the traits of the character in it.

The embedding has one dimension for each value of each trait, 1 if the oracle is sure of it. The cosine of two frames is
then the share of traits that agree. It is only wrong where the oracle is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ReadMask = Callable[[NDArray[np.uint8]], NDArray[np.bool_]]
ReadFrame = Callable[[NDArray[np.uint8]], Sequence[Any]]
CountBodies = Callable[[NDArray[np.uint8]], int]
ReadPlace = Callable[[NDArray[np.uint8]], str | None]
Trait = str | float


class OracleEmbedder:
    """Traits as directions.

    Args:
        read_frame: maps a frame [64, 64, 3] uint8 to the characters in it, each with `area_px`, `cut_off`, and for
            each trait an attribute with `value` and `sure`.
        traits: possible values by trait name.
        hidden: the traits that no prompt names.
        side_px: frames are first resized to this size.
        read_mask: maps a frame [64, 64, 3] uint8 to [64, 64], True where there is a character.
        places: names of the places, as prompts have them.
        read_place: maps a frame [64, 64, 3] uint8 to the place that it shows; None if that isn't sure.
        count_bodies: maps a frame [64, 64, 3] uint8 to the number of characters in it, cut off or not.
    """

    name = "tiny-world"

    def __init__(
        self,
        read_frame: ReadFrame,
        traits: Mapping[str, Sequence[Trait]],
        hidden: Sequence[str],
        side_px: int = 64,
        read_mask: ReadMask = lambda frame: np.zeros(frame.shape[:2], bool),
        places: Sequence[str] = (),
        read_place: ReadPlace = lambda frame: None,
        count_bodies: CountBodies = lambda frame: 0,
    ) -> None:
        self._read_mask, self._count_bodies = read_mask, count_bodies
        self._known_places, self._read_place = frozenset(places), read_place
        self._read_frame, self._side_px, self.hidden = read_frame, side_px, tuple(hidden)
        self.traits = {name: tuple(values) for name, values in traits.items()}
        dimensions = [(name, value) for name, values in self.traits.items() for value in values]
        self._index_of = {dimension: index for index, dimension in enumerate(dimensions)}

    def embed(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed frames [N, H, W, 3] as [N, trait values] of the largest fully visible character; NaN if none is."""
        return np.stack([self._one(frame) for frame in frames])

    def masks(self, frames: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Map frames [N, H, W, 3] to masks [N, side, side], True where there are characters."""
        return np.stack([self._read_mask(self._small(frame)) for frame in frames])

    def places(self, frames: NDArray[np.uint8]) -> list[str | None]:
        """Read the place that each of frames [N, H, W, 3] shows; None where that isn't sure."""
        return [self._read_place(self._small(frame)) for frame in frames]

    def counts(self, frames: NDArray[np.uint8]) -> list[int]:
        """Count the characters in each of frames [N, H, W, 3], including those that the edge cuts off."""
        return [self._count_bodies(self._small(frame)) for frame in frames]

    def place_in(self, prompt: str) -> str | None:
        """The first place named in a prompt; None if it names none."""
        return next((word for word in re.findall(r"\w+", prompt.lower()) if word in self._known_places), None)

    def describe(self) -> dict[str, Any]:
        return {"embedder": self.name, "traits": {name: list(values) for name, values in self.traits.items()}}

    def trait_values(self, embeddings: NDArray) -> list[dict[str, Trait]]:
        """Decode rows [T, trait values] into values by trait, without unsure ones."""
        names = list(self._index_of)
        return [dict(names[index] for index in np.flatnonzero(np.nan_to_num(row) > 0)) for row in embeddings]

    def characters_in(self, prompt: str) -> list[dict[str, Trait]]:
        """The shape and the colour of each character named in a prompt as a colour followed by a shape."""
        found, colour = [], None
        for word in re.findall(r"\w+", prompt.lower()):
            if word in self.traits["colour"]:
                colour = word
            elif word in self.traits["shape"] and colour is not None:
                found.append({"shape": word, "colour": colour})
                colour = None
        return found

    def _one(self, frame: NDArray[np.uint8]) -> NDArray[np.float32]:
        row = np.zeros(len(self._index_of), np.float32)
        whole = [who for who in self._read_frame(self._small(frame)) if not who.cut_off]
        if whole:
            who = max(whole, key=lambda sighting: sighting.area_px)
            for trait in self.traits:
                answer = getattr(who, trait)
                if answer.sure:
                    row[self._index_of[trait, answer.value]] = 1.0
        return row if row.any() else np.full_like(row, np.nan)

    def _small(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        size = (self._side_px, self._side_px)
        if frame.shape[:2] == size:
            return frame
        return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX))


def check_oracle(place: str) -> None:
    """Raise ValueError unless this version's tiny-world has an oracle that reads traits."""
    if place:
        raise ValueError(f"embedder tiny-world takes no place, got {place!r}")
    open_oracle()


def open_oracle() -> OracleEmbedder:
    """Open the oracle of the installed tiny-world.

    Raises:
        ValueError: if it does not read traits.
    """
    try:
        oracle = import_module("longlive_rag.tinyworld.oracle")
        drawing = import_module("longlive_rag.tinyworld.drawing")
        grammar = import_module("longlive_rag.tinyworld.grammar")
        traits: dict[str, Sequence[Trait]] = {
            "shape": grammar.SHAPES,
            "colour": tuple(grammar.COLOURS),
            **drawing.HIDDEN_VALUES,
        }
        hidden, places = oracle.HIDDEN_TRAITS, tuple(grammar.PLACES)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"this version's tiny-world has no oracle that reads traits ({error})") from error

    def read_place(frame: NDArray[np.uint8]) -> str | None:
        found = oracle.read_place(frame)
        return str(found.value) if found.sure else None

    return OracleEmbedder(
        oracle.read_frame,
        traits,
        hidden,
        read_mask=oracle.read_mask,
        places=places,
        read_place=read_place,
        count_bodies=oracle.count_bodies,
    )
