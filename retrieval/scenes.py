"""The prompts of a take, and the scenes that they make up: which frames were made under which words."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from retrieval.policy import Vectors, words_alike

SAME_WORDS = 0.9999  # cosine of embeddings of the same prompt, which may differ in their last bits


class Script:
    """What was said over one take, prompt by prompt.

    A *scene* is a run of prompts, each of them like the one before: the same people in the same place, whatever they
    do. A prompt that is unlike the one before calls for another scene. If it says the very words of an earlier prompt,
    it calls that one's scene back, else it begins a new one.

    Scenes are what a call is about: of "A returns to the city", spoken after a while elsewhere, "A returns to the
    forest" says as many words as "A walks in the city", but only the latter was said over the scene that is meant.

    Args:
        like_words: prompts are alike if `words_alike` is at least this; 0 compares none, and all is one scene.
    """

    def __init__(self, like_words: float = 0.0) -> None:
        self._like_words = like_words
        self._starts: list[int] = []  # first frame under each prompt
        self._units: list[NDArray[np.float32]] = []  # [P] each
        self._tokens: list[Vectors] = []
        self._scenes: list[int] = []  # of each prompt: the first prompt of its scene
        self._unlike: list[int] = []  # prompts whose words are unlike the current one's
        self._asked_for: list[int] = []  # prompts whose frames the current one asks for
        self._called_back = False  # whether the current scene was
        self._called_at: int | None = None  # the first frame under the current prompt, if it is a call

    def add(self, first: int, prompt_unit: NDArray[np.float32], tokens: Vectors) -> None:
        """Say a prompt over the frames from `first` on.

        Args:
            first: latent frame.
            prompt_unit: [P] unit vector.
            tokens: [N, P] unit vectors of the prompt's tokens.
        """
        place = len(self._starts)
        self._starts.append(first)
        self._units.append(prompt_unit)
        self._tokens.append(tokens)
        self._unlike = [
            earlier
            for earlier, theirs in enumerate(self._tokens)
            if self._like_words and words_alike(theirs, tokens) < self._like_words
        ]
        same = [each for each, theirs in enumerate(self._units) if theirs @ prompt_unit > SAME_WORDS]
        said_before = bool(same) and same[0] < place
        goes_on = bool(place) and place - 1 not in self._unlike
        calls_back = not goes_on and said_before
        self._called_back = calls_back or (goes_on and self._called_back)
        is_call = bool(self._like_words) and said_before and place - 1 not in same
        self._called_at = first if is_call else None
        self._scenes.append(self._scenes[-1] if goes_on else self._scenes[same[0]] if calls_back else place)
        its_scene = [each for each, scene in enumerate(self._scenes) if scene == self._scenes[-1]]
        self._asked_for = its_scene if calls_back else same

    @property
    def unit(self) -> NDArray[np.float32] | None:
        """The current prompt's unit vector [P]; None before the first."""
        return self._units[-1] if self._units else None

    def units_of(self, frames: Sequence[int]) -> NDArray[np.float32] | None:
        """Unit vectors [N, P] of the prompts of finished frames; None before the first prompt."""
        return np.stack([self._units[self._prompt_of(frame)] for frame in frames]) if self._units else None

    def under_other_words(self, end: int) -> list[range]:
        """Frames before `end` whose prompts are unlike the current one."""
        return self._frames_of(self._unlike, end)

    def calls_at(self, frame: int) -> bool:
        """Whether a call takes over at this frame: a prompt that says the very words of an earlier one, after others.

        Never if prompts are not compared.
        """
        return frame == self._called_at

    def in_other_scenes(self, end: int) -> list[range]:
        """If the current scene was called back, the frames before `end` of all other scenes; otherwise none."""
        others = [place for place, scene in enumerate(self._scenes) if scene != self._scenes[-1]]
        return self._frames_of(others, end) if self._called_back else []

    def asks_for(self, frames: Sequence[int]) -> list[bool]:
        """Whether the current prompt asks for what frames show.

        They were made under the very same words or, if it calls a scene back, in that scene. Frames of other takes,
        below 0, never were.
        """
        return [frame >= 0 and self._prompt_of(frame) in self._asked_for for frame in frames]

    def _prompt_of(self, frame: int) -> int:
        return bisect_right(self._starts, frame) - 1

    def _frames_of(self, places: Sequence[int], end: int) -> list[range]:
        starts = [*self._starts, end]
        return [range(starts[place], starts[place + 1]) for place in places]
