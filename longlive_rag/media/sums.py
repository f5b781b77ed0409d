"""Hashes of a video as it was written, in a file beside it. At each cut, it gets a line on the video so far:

    FRAMES BYTES SHA256

means that the first BYTES bytes, which hold at least FRAMES frames, had this hash. The file is only appended to; an
incomplete last line is ignored.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from retrieval.files import open_plain

LINE = re.compile(r"(?P<frames>[0-9]{1,12}) (?P<bytes>[0-9]{1,15}) (?P<sha256>[0-9a-f]{64})")
CHUNK_BYTES = 2**20
MAX_SUMS_BYTES = 8 * 2**20
"""Enough for a day: a line is shorter than 100 bytes, and there is one about every two seconds."""


def sums_of(video: Path) -> Path:
    """Return the path of a video's hashes."""
    return video.with_suffix(".sums")


def begin_sums(video: Path) -> None:
    """Begin the hashes of a new video, deleting those of an earlier one."""
    sums_of(video).unlink(missing_ok=True)


def add_sum(video: Path, frames: int, size: int, sha256: str) -> None:
    """Record the hash of the first `size` bytes, which hold `frames` frames."""
    with open_plain(sums_of(video), "a+b") as file:
        file.write(f"{frames} {size} {sha256}\n".encode())


def verified_frames(video: Path) -> int | None:
    """Count the leading frames of a video that are as they were written; None if it has no hashes."""
    if not sums_of(video).exists():
        return None
    with open_plain(sums_of(video)) as file:
        text = file.read(MAX_SUMS_BYTES).decode("ascii", "replace")
    said = [match for line in text.splitlines(keepends=True) if (match := LINE.fullmatch(line.removesuffix("\n")))]
    digests = _prefix_digests(video, {int(match["bytes"]) for match in said})
    good = (int(match["frames"]) for match in said if digests.get(int(match["bytes"])) == match["sha256"])
    return max(good, default=0)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a whole file, which must be a plain one."""
    with open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def _prefix_digests(path: Path, sizes: set[int]) -> dict[int, str]:
    """Return the SHA-256 of the file's first bytes, for each of `sizes` that it reaches."""
    found, digest, done = {}, hashlib.sha256(), 0
    with open_plain(path) as file:
        for size in sorted(sizes):
            while done < size and (chunk := file.read(min(CHUNK_BYTES, size - done))):
                digest.update(chunk)
                done += len(chunk)
            if done == size:
                found[size] = digest.copy().hexdigest()
    return found
