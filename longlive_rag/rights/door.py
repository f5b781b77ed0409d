"""The door that all weights of a pipeline pass: they are judged by their bytes and recorded in its takes.

The policy judges what is loaded, not file names: links are followed to the actual file, every file is hashed whole, and
what has no file has no record.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from longlive_rag.rights.policy import ALLOWED, LicenseError, LicensePolicy, or_any, refuse
from longlive_rag.rights.records import FileRights, folder_of, rights_of, unknown_weights, weights_in

HANDED_OVER = "frames in `remembered` (handed over from Python)"
Signature = tuple[int, int, int, int]


class Door:
    """Keeps account of what one pipeline has loaded, under a policy that never changes.

    Args:
        policy: the policy, which also applies to everything loaded later.
    """

    def __init__(self, policy: LicensePolicy) -> None:
        self._policy: LicensePolicy = policy
        self._places: list[Path] = []
        self._signatures: dict[Path, Signature] = {}
        self._without_file: list[FileRights] = []
        self._parts: dict[str, Any] = {}
        self._is_open = False
        self._judged: tuple[dict[Path, Signature], tuple[FileRights, ...]] | None = None

    @property
    def policy(self) -> LicensePolicy:
        """The policy in force for this pipeline."""
        return self._policy

    def admit(self, place: Path) -> None:
        """Admit the weight files of a folder, or one file.

        Raises:
            LicenseError: if the policy does not allow one of them, before anything is loaded.
        """
        files = weights_in(place) if place.is_dir() else [place]
        signatures = {path: _signature(path) for path in files}
        if self._policy != "any":
            refuse(rights_of(place), folder_of(place), self._policy)
        self._signatures |= signatures
        self._places.append(place)

    def admit_bytes(self, path: Path, content: bytes) -> None:
        """Admit a file by the bytes that were read from it.

        Raises:
            LicenseError: if the policy does not allow it, or the file has changed since it was read.
        """
        self.admit(path)
        if hashlib.sha256(content).hexdigest() != rights_of(path)[0].sha256:
            raise LicenseError(f"{path} has changed while it was read")

    def admit_without_file(self, what: str) -> None:
        """Admit weights that come from no local file: tensors, or those of a name on a hub.

        Raises:
            LicenseError: if the policy is not `any`, because they have no record.
        """
        if self._is_open:
            return
        if self._policy != "any":
            raise LicenseError(
                f"license policy {self._policy!r} does not allow {what}: it is not a local file, so it has no record"
                + or_any(self._policy)
            )
        if what not in [each.file for each in self._without_file]:
            self._without_file.append(unknown_weights(what))

    def admit_frames(self, files: Sequence[FileRights]) -> tuple[FileRights, ...]:
        """Admit frames of other takes that were handed over from Python, and return what is recorded of their weights.

        Args:
            files: the weight files that they were made from; if there are none, these are not known.

        Raises:
            LicenseError: if the policy does not allow one of them.
        """
        found = tuple(files) or (unknown_weights(HANDED_OVER),)
        refused = next((file for file in found if file.use not in ALLOWED[self._policy]), None)
        if refused is not None:
            raise LicenseError(
                f"license policy {self._policy!r} does not allow {HANDED_OVER}, because of the weights that they were "
                f"made from; terms of {refused.file}: {refused.in_words}{or_any(self._policy)}"
            )
        return found

    @contextmanager
    def open(self) -> Iterator[None]:
        """Within the `with` body, tensors that come in are those that `admit` has judged."""
        self._is_open = True
        try:
            yield
        finally:
            self._is_open = False

    def keep(self, parts: Mapping[str, Any]) -> None:
        """Remember the parts that were made from what was admitted; any others are new."""
        self.check_unchanged()
        self._parts = dict(parts)

    def check_parts(self, parts: Mapping[str, Any]) -> None:
        """Judge the parts of a pipeline that did not come through the door, but were set by hand.

        Raises:
            LicenseError: if the policy is not `any`.
        """
        for name, part in parts.items():
            if part is not None and self._parts.get(name) is not part:
                self.admit_without_file(f"{name} (put in from Python)")

    def check_unchanged(self) -> None:
        """Raise `LicenseError` if a file has changed since it was judged; `any` judges none."""
        for path, signature in self._signatures.items():
            if self._policy != "any" and (not path.is_file() or _signature(path) != signature):
                raise LicenseError(f"{path} has changed while it was loaded")

    @property
    def rights(self) -> tuple[FileRights, ...]:
        """The rights of everything that was admitted, as it is now."""
        signatures = {path: _signature(path) for path in self._signatures if path.is_file()}
        if self._judged is None or self._judged[0] != signatures:
            found = {(place, each.file): each for place in self._places for each in rights_of(place)}
            self._judged = signatures, tuple(found.values())
        return (*self._judged[1], *self._without_file)


def _signature(path: Path) -> Signature:
    stat = os.stat(path)
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
