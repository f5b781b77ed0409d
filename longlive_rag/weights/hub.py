"""Getting the files of a known backbone: from the model hub, its cache on this machine, or a mirror in a folder."""

from __future__ import annotations

import fnmatch
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from longlive_rag.presets.catalogue import KnownBackbone, ReleasedFiles
from longlive_rag.rights.hashing import sha256
from longlive_rag.rights.records import is_recorded, record_terms, rights_of
from retrieval.files import appearing, in_words

SUMS = "SHA256SUMS"


class FetchError(Exception):
    """Files could not be fetched: no network, no permission, or a download that does not match the hub's hash."""


@dataclass(frozen=True)
class Fetched:
    """What is there now.

    Attributes:
        folder: of one role.
        files: in it, as far as they were asked for.
        where: `hub`, `cache` or `mirror`.
        checked: how many of the files were compared with a published hash.
    """

    folder: Path
    files: list[Path]
    where: str
    checked: int


def fetch(
    known: KnownBackbone, dest: Path, mirror: Path | None = None, say: Callable[[str], None] = lambda _: None
) -> list[Fetched]:
    """Get everything that a backbone is made of, one folder a role under `dest`; files that are there stay.

    Args:
        known: the backbone.
        dest: `dest/base`, `dest/transformer` ... are written.
        mirror: a folder with a copy of the repositories: `mirror/<owner>/<repo>/<file>`, best with `SHA256SUMS`.
        say: progress, a line each.

    Raises:
        ValueError: if the backbone is built in, or the mirror lacks something.
        FetchError: if the hub can't be reached or refuses, or a file's hash is not the published one.
    """
    if not known.files:
        raise ValueError(f"{known.name} is inside the package; there is nothing to fetch")
    done = []
    for files in known.files:
        target = dest / files.role
        say(f"{files.role}: {files.repo} ({', '.join(files.names)})")
        fetched = _from_hub(files, target) if mirror is None else _from_mirror(files, target, mirror, say)
        _record(files, target)
        done.append(fetched)
    return done


def _from_mirror(files: ReleasedFiles, target: Path, mirror: Path, say: Callable[[str], None]) -> Fetched:
    source = mirror / files.repo
    if not source.is_dir():
        raise ValueError(f"the mirror {mirror} has no {files.repo}/")
    paths = [path for path in sorted(source.rglob("*")) if path.is_file() and _matches(path.relative_to(source), files)]
    missing = _missing(files, [path.relative_to(source) for path in paths])
    if missing:
        raise ValueError(f"the mirror {source} has no {missing[0]}")
    sums = _published_sums(source / SUMS)
    there = []
    for path in paths:
        name = path.relative_to(source).as_posix()
        copy = target / name
        if not copy.is_file() or copy.stat().st_size != path.stat().st_size:
            copy.parent.mkdir(parents=True, exist_ok=True)
            say(f"  {name}, {in_words(path.stat().st_size)}")
            with appearing(copy) as part:
                shutil.copyfile(path, part)
        there.append(copy)
    return Fetched(target, there, "mirror", _check(target, sums, there))


def _from_hub(files: ReleasedFiles, target: Path) -> Fetched:
    from huggingface_hub import constants, snapshot_download

    offline = constants.is_offline_mode() if hasattr(constants, "is_offline_mode") else constants.HF_HUB_OFFLINE
    try:
        snapshot_download(
            files.repo,
            revision=files.revision,
            allow_patterns=list(files.names),
            local_dir=target,
            local_files_only=bool(offline),
        )
        sums = {} if offline else _hub_sums(files)
    except Exception as error:  # the hub's client raises its own, its HTTP library's and the system's errors
        hint = "set HF_HUB_OFFLINE=0" if offline else "check the network and, for gated files, `hf auth login`"
        raise FetchError(
            f"{files.repo} could not be fetched ({type(error).__name__}: {_first_line(error)}); {hint}, "
            "or give --mirror FOLDER with a copy of the repositories"
        ) from error
    there = [path for path in sorted(target.rglob("*")) if path.is_file() and _matches(path.relative_to(target), files)]
    missing = _missing(files, [path.relative_to(target) for path in there])
    if missing:
        where = target if offline else f"the repository {files.repo}"
        raise FetchError(
            f"{where} has no {', '.join(missing)}; existing files are kept. See {files.source} for other names"
        )
    return Fetched(target, there, "cache" if offline else "hub", _check(target, sums, there))


def _hub_sums(files: ReleasedFiles) -> dict[str, str]:
    from huggingface_hub import HfApi

    info = HfApi().model_info(files.repo, revision=files.revision, files_metadata=True)
    return {entry.rfilename: entry.lfs.sha256 for entry in info.siblings or [] if entry.lfs is not None}


def _published_sums(path: Path) -> dict[str, str]:
    """`sha256sum`'s lines: hash, two spaces, name."""
    if not path.is_file():
        return {}
    lines = [line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return {name.lstrip("*").removeprefix("./"): digest for digest, name in lines}


def _check(folder: Path, sums: dict[str, str], files: list[Path]) -> int:
    checked = 0
    for path in files:
        wanted = sums.get(path.relative_to(folder).as_posix())
        if wanted is None:
            continue
        found = sha256(path)
        if found != wanted:
            path.unlink()
            raise FetchError(f"{path} has SHA-256 {found}, but {wanted} is published; it was removed, fetch it again")
        checked += 1
    return checked


def _record(files: ReleasedFiles, folder: Path) -> None:
    """Terms that somebody has looked up are put on record; what a user has recorded stays."""
    if files.spdx is None or files.looked_up_by is None:
        return
    for entry in rights_of(folder):
        if entry.standing != "recorded" and is_recorded(folder / entry.file):
            record_terms(
                folder / entry.file, files.spdx, files.source, files.looked_up_by, looked_up_on=files.looked_up_on
            )


def _missing(files: ReleasedFiles, names: list[Path]) -> list[str]:
    """The patterns that none of the names fits."""
    found = [name.as_posix() for name in names]
    return [pattern for pattern in files.names if not any(fnmatch.fnmatch(name, pattern) for name in found)]


def _matches(path: Path, files: ReleasedFiles) -> bool:
    return any(fnmatch.fnmatch(path.as_posix(), pattern) for pattern in files.names)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:160]
