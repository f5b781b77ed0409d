"""The studio's figures, with limits that a busy machine keeps; docs/studio.md has those of an idle one."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.studio.figures import measured

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("chromium") is None and not os.environ.get("REQUIRE_BROWSER"),
        reason="there is no chromium: apt-get install chromium",
    ),
]


def test_live_play_directions_and_seeks(tmp_path):
    found = measured(seconds=11, seeks=30, seed=0, folder=tmp_path)
    print(found)
    live, seek = found["live"], found["seek"]
    assert live["directions"] == 2
    assert live["blocks_until_seen"]["max"] < 4
    assert live["dropped"] < 0.1 * live["frames_played"]
    assert seek["wrong"] == 0
    assert seek["milliseconds"]["median"] < 500
