"""A long take leaves nothing behind in the server; `python -m tests.studio.long_take` makes one of any length."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.studio.long_take import growth, measured

MOST_MIB = 20.0  # a minute of the take; one of frames at this size is 8 MiB, one of segments 1


@pytest.mark.slow
def test_a_long_take_does_not_fill_the_server(tmp_path: Path, pipeline_folder: Path) -> None:
    found = list(measured(tmp_path / "takes", pipeline_folder, minutes=3, times=3))
    print(*found, sep="\n")
    assert growth(found) < MOST_MIB
    assert found[-1].files <= found[0].files + 3
