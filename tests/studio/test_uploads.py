"""Uploaded pictures lie among the takes, and go with the studio that was sent them."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from longlive_rag.studio.uploads import Uploads


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6)).save(buffer, "PNG")
    return buffer.getvalue()


def test_they_go_with_their_studio_or_with_the_next_one(tmp_path: Path) -> None:
    ended, killed = Uploads(tmp_path), Uploads(tmp_path)
    assert list(tmp_path.iterdir()) == []  # before the first picture
    paths = [each.path(each.add(picture()).id) for each in (ended, killed)]
    other = Uploads(tmp_path)
    assert all(path is not None and path.is_file() for path in paths)  # their studios are still there
    ended.close()
    assert list(tmp_path.iterdir()) == [killed.folder]
    killed._held.close()  # the lock of a process ends with it
    Uploads(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert other.path("nothing") is None
    other.close()
