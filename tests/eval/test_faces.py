"""Face embedders are of the user's own, and only under terms that were looked at."""

from __future__ import annotations

import json

import numpy as np
import pytest

from eval.embedders import EmbedderSpec

CODE = """
import numpy as np

class Faces:
    name = "face"
    def embed(self, frames):
        return np.stack([[1.0, 0.0] if frame.any() else [np.nan, np.nan] for frame in frames])
    def describe(self):
        return {"embedder": "face"}

def open(folder, device):
    return Faces()
"""
TERMS = {"model": "M", "license": "L", "commercial_use": True, "source": "https://x", "looked_up": "2026-01-31"}


def folder_with(path, **changes):
    (path / "face_embedder.py").write_text(CODE)
    (path / "terms.json").write_text(json.dumps({k: v for k, v in {**TERMS, **changes}.items() if v != "left out"}))
    return EmbedderSpec(f"face={path}")


def test_terms_that_allow(tmp_path):
    spec = folder_with(tmp_path)
    spec.check()
    rows = spec.open().embed(np.stack([np.zeros((4, 4, 3)), np.ones((4, 4, 3))]))
    assert np.isnan(rows[0]).all()
    assert rows[1].tolist() == [1.0, 0.0]


@pytest.mark.parametrize("use", [False, None, "unknown"])
def test_terms_that_do_not_need_consent(tmp_path, monkeypatch, use):
    spec = folder_with(tmp_path, commercial_use=use)
    with pytest.raises(ValueError, match="may not be used commercially, or its terms don't say; set LONGLIVE_RAG_"):
        spec.check()
    with pytest.raises(ValueError, match="may not be used commercially"):
        spec.open()
    monkeypatch.setenv("LONGLIVE_RAG_NONCOMMERCIAL", "yes")
    spec.check()


def test_terms_that_are_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"terms\.json: license is missing"):
        folder_with(tmp_path, license="left out").check()
    (tmp_path / "terms.json").unlink()
    with pytest.raises(ValueError, match=r"has no terms\.json"):
        EmbedderSpec(f"face={tmp_path}").check()


@pytest.mark.parametrize(
    "code", ["import nothing_like_it", "def open(folder", "x = 1", "def open(*_): raise OSError('no')"]
)
def test_code_that_fails_is_told_by_its_file(tmp_path, code):
    spec = folder_with(tmp_path)
    (tmp_path / "face_embedder.py").write_text(code)
    with pytest.raises(ValueError, match=r"face_embedder\.py failed: \w+Error: "):
        spec.open()
