"""No cheat is claimed to drift less; what really drifts less is."""

from __future__ import annotations

import pytest

from eval.footage import find_footage
from eval.measure import MeasureSettings, measure
from tests.eval.clips import write_clip
from tests.eval.red_team import (
    CHEATS,
    FPS,
    HORIZONS_S,
    ORACLE,
    PROMPTS,
    compared,
    measured,
    names_broken,
    scene,
    verdicts,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scenes():
    return [scene(number) for number in range(PROMPTS)]


@pytest.fixture(scope="module")
def native(scenes):
    return [measured(each.native, str(each.sentence)) for each in scenes]


def test_a_character_that_stays_is_claimed(scenes, native):
    found = compared(native, [measured(each.true, str(each.sentence)) for each in scenes], scenes)
    assert names_broken(found) == set()
    assert len(verdicts(found)) == len(HORIZONS_S)
    assert all("memory drifts less than native (" in each for each in verdicts(found))


@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_is_not_claimed(scenes, native, name):
    cheat, guardrail = CHEATS[name]
    found = compared(native, [measured(cheat(each), str(each.sentence)) for each in scenes], scenes)
    for said in verdicts(found):
        assert "drifts less" not in said or "but nothing is claimed: it is worse in" in said
    assert any(companion.startswith(guardrail) for companion in names_broken(found))
    if guardrail:  # it would be claimed if nothing looked
        assert any("drifts less" in said for said in verdicts(found))


@pytest.mark.parametrize(
    "name", ["the opening again in the last 5 s", "frozen under a faint flicker", "a loop with noise"]
)
def test_a_codec_does_not_hide_a_cheat(scenes, native, tmp_path, name):
    """The same from real video files."""
    cheat, guardrail = CHEATS[name]
    settings = [MeasureSettings(HORIZONS_S, prompts=((0.0, str(each.sentence)),)) for each in scenes]

    def filmed(clips, kind):
        files = [write_clip(tmp_path / f"{kind}-{n}.mp4", clip, fps=FPS) for n, clip in enumerate(clips)]
        pairs = zip(files, settings, strict=True)
        return [measure(find_footage(file), {"tiny-world": ORACLE}, each) for file, each in pairs]

    base = filmed([each.native for each in scenes], "native")
    found = compared(base, filmed([cheat(each) for each in scenes], "cheat"), scenes)
    assert not any("drifts less than native (" in said for said in verdicts(found))
    assert any(companion.startswith(guardrail) for companion in names_broken(found))
