"""The API, with and without an address."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from video_api import Api, Listening


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, pipeline_folder: Path) -> Iterator[Api]:
    with Api(tmp_path_factory.mktemp("api") / "takes", pipeline_folder) as api:
        yield api


@pytest.fixture
def stuck(tmp_path: Path, pipeline_folder: Path) -> Iterator[Api]:
    """One without workers: what it is asked for stays queued, three videos at most."""
    with Api(tmp_path / "takes", pipeline_folder, workers=0, waiting=3) as api:
        yield api


@pytest.fixture(scope="module")
def listening(tmp_path_factory: pytest.TempPathFactory, pipeline_folder: Path) -> Iterator[Listening]:
    with Listening(Api(tmp_path_factory.mktemp("listening") / "takes", pipeline_folder)) as listening:
        yield listening
