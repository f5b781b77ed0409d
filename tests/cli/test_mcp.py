"""`longlive-rag mcp`: what is refused before a client is listened to; tests/serving/test_mcp.py speaks to it."""

from __future__ import annotations

import sys

import pytest


def test_without_its_package_it_says_what_to_install(command, monkeypatch, tmp_path):
    for name in [name for name in sys.modules if name.startswith("mcp.")]:  # found by their whole names, were they left
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mcp", None)
    monkeypatch.delitem(sys.modules, "longlive_rag.serving.mcp_server", raising=False)
    result = command("mcp", "--takes", tmp_path / "takes")
    assert (result.code, result.out) == (2, "")
    assert "pip install 'longlive-rag[mcp]'" in result.err
    assert not (tmp_path / "takes").exists()


def test_a_backbone_that_is_not_there_is_refused(command, tmp_path):
    pytest.importorskip("mcp")
    result = command("mcp", "--takes", tmp_path / "takes", "--backbone", "nowhere")
    assert (result.code, result.out) == (2, "")
    assert "nowhere" in result.err
    assert not (tmp_path / "takes").exists()
