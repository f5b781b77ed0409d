"""The API, with and without an address."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from video_api import Api, Listening


@pytest.fixture
def api(tmp_path: Path, pipeline_folder: Path) -> Iterator[Api]:
    with Api(tmp_path / "takes", pipeline_folder) as api:
        yield api


@pytest.fixture
def stuck(tmp_path: Path, pipeline_folder: Path) -> Iterator[Api]:
    """One without workers: what it is asked for stays queued, three videos at most."""
    with Api(tmp_path / "takes", pipeline_folder, workers=0, waiting=3) as api:
        yield api


@pytest.fixture
def listening(tmp_path: Path, pipeline_folder: Path) -> Iterator[Listening]:
    with Listening(Api(tmp_path / "takes", pipeline_folder)) as listening:
        yield listening
