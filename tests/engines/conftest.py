"""An engine with two workers, for all tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from longlive_rag.engines.supervisor import Supervisor
from tests.engines.making import engine_at


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    made = engine_at(tmp_path_factory.mktemp("engine") / "state")
    yield made
    made.close(0)
