"""Which scene a prompt belongs to, and which frames it therefore asks for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from retrieval.encoder import MeanPoolEncoder
from retrieval.memory import Memory
from retrieval.policy import RetrievalRules, unit
from retrieval.scenes import Script

WORDS = {word: axis for axis, word in enumerate(["ann", "ben", "returns", "walks", "leaves", "city", "forest", "and"])}
AXES = np.eye(len(WORDS), dtype=np.float32)
LEAST = 0.6  # two words of three
AWAY_AND_BACK = ["ann walks city", "ann leaves city", "ben walks forest", "ben leaves forest", "ann walks city"]


def tokens(prompt: str) -> np.ndarray:
    return np.stack([AXES[WORDS[word]] for word in prompt.split()])


def script_of(prompts: list[str], like_words: float = LEAST, frames: int = 10) -> Script:
    """A script whose prompts last ten frames each."""
    script = Script(like_words)
    for place, prompt in enumerate(prompts):
        script.add(place * frames, unit(tokens(prompt).sum(axis=0)), tokens(prompt))
    return script


def asked(script: Script, end: int) -> list[int]:
    """The prompts, by number, whose frames the current prompt asks for."""
    return [frame // 10 for frame in range(0, end, 10) if script.asks_for([frame])[0]]


def test_a_prompt_asks_for_the_frames_of_its_very_words() -> None:
    script = script_of(["ann walks city", "ann leaves city", "ann walks city"])
    assert asked(script, 20) == [0]
    assert script.in_other_scenes(20) == []


def test_words_that_call_a_scene_back_ask_for_all_of_it_and_rule_out_others() -> None:
    script = script_of(AWAY_AND_BACK)
    assert asked(script, 40) == [0, 1]
    assert script.in_other_scenes(40) == [range(20, 30), range(30, 40)]
    assert script.under_other_words(40) == [range(20, 30), range(30, 40)]


def test_the_right_one_of_two_whom_no_word_tells_apart_is_in_the_scene_that_is_called() -> None:
    """ "Returns to the forest" says as many words of "returns to the city" as "walks in the city" does."""
    both = ["ann returns city", "ann walks city", "ann leaves city", "ann returns forest", "ann walks forest"]
    for called, own in (("ann returns city", [0, 1, 2]), ("ann returns forest", [3, 4])):
        script = script_of([*both, "ben walks and", called])
        assert asked(script, 60) == own
        others = [place for place in range(6) if place not in own]
        assert script.in_other_scenes(60) == [range(place * 10, place * 10 + 10) for place in others]


def test_what_follows_in_a_scene_that_was_called_back_still_rules_out_others() -> None:
    script = script_of([*AWAY_AND_BACK, "ann leaves city"])
    assert asked(script, 50) == [1]  # after the call, only the very words are asked for
    assert script.in_other_scenes(50) == [range(20, 30), range(30, 40)]
    script = script_of([*AWAY_AND_BACK, "ben leaves forest"])
    assert asked(script, 50) == [2, 3]


def test_new_words_call_nothing_back() -> None:
    script = script_of([*AWAY_AND_BACK[:4], "ann returns and"])
    assert asked(script, 40) == []
    assert script.in_other_scenes(40) == []


def test_without_a_measure_of_likeness_only_the_very_words_count() -> None:
    script = script_of(AWAY_AND_BACK, like_words=0)
    assert asked(script, 40) == [0]
    assert script.in_other_scenes(40) == script.under_other_words(40) == []


def test_a_call_says_the_very_words_of_an_earlier_prompt_after_others() -> None:
    def is_call(prompts: list[str], like_words: float = LEAST) -> bool:
        last = len(prompts) * 10 - 10
        script = script_of(prompts, like_words)
        assert not script.calls_at(last - 1)
        assert not script.calls_at(last + 1)
        return script.calls_at(last)

    assert is_call(AWAY_AND_BACK)  # another scene
    assert is_call(["ann walks city", "ann leaves city", "ann walks city"])  # the same one
    assert not is_call(["ann walks city"])
    assert not is_call(["ann walks city", "ann walks city"])  # nothing was said in between
    assert not is_call(["ann walks city", "ann leaves city", "ann returns city"])
    assert not is_call(AWAY_AND_BACK, like_words=0)


def test_frames_of_other_takes_were_never_asked_for_and_there_need_be_no_prompt() -> None:
    assert script_of(AWAY_AND_BACK).asks_for([-1, 3]) == [False, True]
    assert Script().unit is None
    assert Script().units_of([]) is None


def memory_of(prompts: list[str], rules: RetrievalRules) -> Memory:
    """Under each prompt two frames that all look the same."""
    memory = Memory(
        MeanPoolEncoder(), window_frames=2, sink_frames=0, memory_frames=8, recency_guard_frames=0, rules=rules
    )
    for prompt in prompts:
        memory.prompt(torch.from_numpy(tokens(prompt))[None])
        memory.add(torch.ones(1, 2, 4, 2, 2))
    return memory


def test_memory_brings_back_the_scene_that_is_called_and_others_only_if_it_holds_nothing_of_it() -> None:
    prompts = ["ann returns city", "ben walks and", "ann returns forest", "ben walks and"]
    rules = RetrievalRules(prompt_weight=0.5, like_words=LEAST)

    def found(rules: RetrievalRules) -> set[int]:
        memory = memory_of(prompts, rules)
        memory.prompt(torch.from_numpy(tokens("ann returns forest"))[None])
        memory.add(torch.ones(1, 2, 4, 2, 2))
        (selection,) = memory.retrieve(block=9)
        return set(selection.frames)

    assert found(rules) == {4, 5}
    assert found(RetrievalRules(prompt_weight=0.5, like_words=LEAST, exclude=(range(4, 6),))) == {0, 1}
    assert found(RetrievalRules(prompt_weight=0.5, like_words=LEAST, pin=(range(1),))) == {0, 4, 5}
    assert found(RetrievalRules(prompt_weight=0.5)) == set(range(8))


def test_the_first_block_after_a_call_sees_pins_alone_unless_it_is_cut_to() -> None:
    """Else whoever is called comes in from where the words put them and from where memory shows them."""
    rules = RetrievalRules(prompt_weight=0.5, like_words=LEAST)

    def found(rules: RetrievalRules, cut: bool = False) -> list[set[int]]:
        memory = memory_of(["ann walks city", "ann leaves city"], rules)
        if cut:
            memory.begin_shot(lambda take, frames: np.ones((len(frames), 4), np.float32))
        memory.prompt(torch.from_numpy(tokens("ann walks city"))[None])
        blocks = []
        for block in (2, 3):
            blocks.append({frame for selection in memory.retrieve(block) for frame in selection.frames})
            memory.add(torch.ones(1, 2, 4, 2, 2))
        return blocks

    assert found(rules) == [set(), {0, 1, 2, 3}]
    assert found(replace(rules, pin=(range(1, 2),))) == [{1}, {0, 1, 2, 3}]
    assert found(rules, cut=True)[0] == {0, 1, 2, 3}
    assert found(replace(rules, like_words=0))[0] == {0, 1}
