"""Running the command line as a user would."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from fakes import FakePipeline, write_backbone

from longlive_rag.cli.main import main


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def command(monkeypatch, capsys):
    """`command("generate", ...)` runs `longlive-rag generate ...` in this process."""

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["longlive-rag", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return Result(int(ended.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def backbone(tmp_path) -> Path:
    """A folder that passes for a backbone until it is loaded."""
    return write_backbone(tmp_path / "backbone")


@pytest.fixture
def fake_pipeline(monkeypatch):
    """`fake_pipeline(...)` makes the command line load a `FakePipeline` with these arguments."""
    from longlive_rag.weights import load

    def use(**settings: object) -> None:
        monkeypatch.setattr(load, "load_pipeline", lambda _, dtype, *__: FakePipeline(dtype=dtype, **settings))

    return use
