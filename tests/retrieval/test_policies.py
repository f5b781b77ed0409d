"""Policies: what the built-in ones pick, and that no policy can break a block."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from longlive_rag.environment import plugin, plugins
from retrieval.encoder import MeanPoolEncoder
from retrieval.index import FrameIndex
from retrieval.memory import Memory
from retrieval.policies import Past, PolicyError, looks_ahead, picked
from retrieval.policies.chance import chance
from retrieval.policies.look_ahead import look_ahead
from retrieval.policies.similar import similar
from retrieval.policies.stratified import stratified
from retrieval.policies.varied import varied
from retrieval.policy import RetrievalRules, stratified_sample


def past_of(frames=range(2, 30), limit=4, block=7, diversity=0.0) -> Past:
    rng = np.random.default_rng(0)
    index = FrameIndex(6)
    index.add(rng.standard_normal((40, 6)).astype(np.float32))
    return Past(frames, limit, block, index.units([39])[0], diversity, index)


def test_similar_is_the_search() -> None:
    past = past_of()
    order = sorted(past.frames, key=lambda frame: -past.similarities([frame])[0])
    assert similar(past) == order[:4]
    assert set(similar(past_of(diversity=0.7))) != set(order[:4])


def test_the_others_do_not_look_at_what_frames_show() -> None:
    assert stratified(past_of()) == stratified_sample(range(2, 30), 4, 7)
    assert stratified(past_of(block=8)) != stratified(past_of())


@pytest.mark.parametrize("limit", [1, 2, 5, 6])
def test_varied_picks_from_stretches_of_the_nearest_and_gives_each_of_them_its_turn(limit: int) -> None:
    frames = range(2, 39)
    near = sorted(similar(past_of(frames=frames, limit=4 * limit)))
    seen = set[int]()
    for block in range(40):
        chosen = varied(past_of(frames=frames, limit=limit, block=block))
        assert [near.index(frame) // 4 for frame in chosen] == list(range(limit))
        seen |= set(chosen)
    assert seen == set(near)
    assert set(varied(past_of(frames=range(2, 4), limit=limit))) <= {2, 3}


def test_chance_is_a_function_of_the_take_and_prefers_nothing() -> None:
    assert chance(past_of()) == chance(past_of())
    draws = [chance(past_of(block=block)) for block in range(2_000)]
    assert all(len(set(each)) == 4 for each in draws)
    counts = np.bincount(np.concatenate(draws), minlength=30)[2:]
    expected = 2_000 * 4 / 28
    assert ((counts - expected) ** 2 / expected).sum() < 56.9  # chi square of 27, p = .0007
    other = past_of()
    assert chance(replace(other, seed=1)) != chance(other)
    assert chance(replace(other, query=other.units([38])[0])) == chance(other)  # whose last bits depend on the batch
    assert sorted(chance(past_of(frames=range(2, 5)))) == [2, 3, 4]


def test_looking_ahead_searches_by_the_block_s_own_estimate() -> None:
    assert looks_ahead(look_ahead)
    assert not looks_ahead(similar)
    assert not looks_ahead(None)
    memory = Memory(
        MeanPoolEncoder(),
        window_frames=1,
        sink_frames=0,
        memory_frames=1,
        recency_guard_frames=0,
        rules=RetrievalRules(policy=look_ahead),
    )
    latents = torch.eye(3).repeat(4, 1)[None, :, :, None, None].expand(1, 12, 3, 2, 2)
    memory.add(latents)  # frame n shows n modulo 3; the newest one shows 2
    assert memory.looks_ahead
    assert memory.retrieve(4)[0].frames == (2,)
    for shown in range(3):
        (selection,) = memory.retrieve(4, np.eye(3, dtype=np.float32)[shown : shown + 1])
        assert selection.frames == (shown,)
        assert selection.similarities == (1.0,)


@pytest.mark.parametrize("chosen", [[1], [30], [5, 5], [2, 3, 4, 5, 6]])
def test_what_a_policy_may_not_pick_is_refused(chosen: list[int]) -> None:
    with pytest.raises(PolicyError, match="at most 4 distinct frames of the 28 it was given"):
        picked(lambda past: chosen, past_of())


def test_a_policy_picks_what_pins_and_spread_frames_leave() -> None:
    seen = []

    def oldest(past: Past) -> list[int]:
        seen.append(past)
        return list(past.frames)[: past.limit]

    rules = RetrievalRules(pin=(range(10, 12),), exclude=(range(0, 3),), policy=oldest)
    memory = Memory(
        MeanPoolEncoder(), window_frames=1, sink_frames=0, memory_frames=5, recency_guard_frames=0, rules=rules
    )
    memory.add(torch.rand(1, 20, 3, 2, 2))
    (selection,) = memory.retrieve(3)
    assert set(selection.frames) == {10, 11, 3, 4, 5}
    assert list(selection.similarities) == sorted(selection.similarities, reverse=True)
    assert (seen[0].limit, seen[0].block) == (3, 3)


def test_built_in_policies_are_registered_as_anybodys_are() -> None:
    assert plugins("policy").keys() >= {"similar", "varied", "stratified", "random", "look-ahead"}
    assert plugin("policy", "stratified") is stratified


def test_what_is_installed_later_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    assert "later" not in plugins("policy")
    facts = tmp_path / "later-1.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.4\nName: later\nVersion: 1\n")
    (facts / "entry_points.txt").write_text("[longlive_rag.policies]\nlater = later:policy\n")
    os.utime(tmp_path, ns=(0, 10**18))  # clocks of file systems are coarse
    assert plugins("policy")["later"].value == "later:policy"
    monkeypatch.undo()
    assert "later" not in plugins("policy")


def test_unknown_and_broken_plugins_are_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ValueError, match="policy is 'best'; it must be one of look-ahead, random, similar, stratified, varied"
    ):
        plugin("policy", "best")
    from longlive_rag import environment

    broken = SimpleNamespace(value="nowhere:at_all", load=lambda: __import__("nowhere"))
    monkeypatch.setattr(environment, "plugins", lambda kind: {"broken": broken})
    with pytest.raises(ValueError, match="nowhere:at_all can't be imported"):
        plugin("policy", "broken")
