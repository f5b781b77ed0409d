"""Fetch the files of a known backbone from the model hub, its local cache, or a mirror in a folder."""

from __future__ import annotations

import fnmatch
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from longlive_rag.presets.catalogue import KnownBackbone, ReleasedFiles
from longlive_rag.rights.hashing import sha256
from longlive_rag.rights.records import RECORDS, is_recorded, record_released
from retrieval.files import appearing, in_words

SUMS = "SHA256SUMS"
SUM = re.compile(r"(?P<sha256>[0-9a-fA-F]{64})\s+\*?(?P<name>\S.*)")


class FetchError(Exception):
    """Raised if files could not be fetched: no network, no permission, or a hash that does not match the hub's."""


@dataclass(frozen=True)
class Fetched:
    """The files of one role, once fetched.

    Attributes:
        role: their role.
        folder: the folder of their repository.
        files: the requested files in it.
        where: `hub`, `cache` or `mirror`.
        checked: number of files compared with a published hash.
    """

    role: str
    folder: Path
    files: list[Path]
    where: str
    checked: int


@dataclass(frozen=True)
class Listing:
    """The files of one role that a source has.

    Attributes:
        files: the requested files.
        where: `hub`, `cache` or `mirror`.
        bytes_of: size of each matching file, by its name in the repository; 0 if the hub does not tell.
        sums: published SHA-256, by name.
        folder: the folder to copy them from; None for the hub.
    """

    files: ReleasedFiles
    where: str
    bytes_of: dict[str, int]
    sums: dict[str, str]
    folder: Path | None = None


def list_files(known: KnownBackbone, dest: Path, mirror: Path | None = None) -> list[Listing]:
    """List what would be fetched, without fetching it.

    Args:
        known: the backbone.
        dest: where the files go, in the hub's layout.
        mirror: a folder with a copy of the repositories in the same layout, ideally with `SHA256SUMS`.

    Raises:
        ValueError: if the backbone is built in, or the mirror lacks something.
        FetchError: if the hub can't be reached or refuses, or lacks a file; or, offline, if this machine has not all.
    """
    if not known.files:
        raise ValueError(f"{known.name} is part of the package; there is nothing to fetch")
    if mirror is not None:
        return [_in_mirror(files, mirror) for files in known.files]
    if _is_offline():
        return [_in_cache(files, dest / files.repo) for files in known.files]
    return [_on_hub(files) for files in known.files]


def fetch(
    known: KnownBackbone,
    listings: Sequence[Listing],
    dest: Path,
    say: Callable[[str], None] = lambda _: None,
) -> list[Fetched]:
    """Fetch all files of a backbone; existing files are kept.

    Args:
        known: the backbone.
        listings: listings of its files.
        dest: folder to write to, as `dest/<owner>/<repo>/<file>`.
        say: called with each line of progress.

    Raises:
        FetchError: if the hub can't be reached or refuses, or a file's hash is not the published one.
    """
    done = []
    for listing in listings:
        files = listing.files
        say(f"fetching {files.role}: {files.repo} ({', '.join(files.names)})")
        target = dest / files.repo
        if listing.folder is None:
            _download(files, target)
        else:
            _copy(listing, listing.folder, target, say)
        there = _fitting(files, target)
        missing = _missing(files, [path.relative_to(target).as_posix() for path in there])
        if missing:
            raise FetchError(f"{target} has no {', '.join(missing)}; existing files are kept. See {files.page}")
        checked = _check(target, listing.sums, there)
        recorded = [path for path in there if is_recorded(path)]
        record_released(target, recorded, files.terms, f"the preset {known.name} of longlive-rag")
        done.append(Fetched(files.role, target, there, listing.where, checked))
    return done


# ---- from a mirror ----


def _in_mirror(files: ReleasedFiles, mirror: Path) -> Listing:
    source = mirror / files.repo
    if not source.is_dir():
        raise ValueError(f"the mirror {mirror} has no {files.repo}/")
    found = _in_folder(files, source, "mirror")
    missing = _missing(files, list(found.bytes_of))
    if missing:
        raise ValueError(f"the mirror {source} has no {missing[0]}")
    return found


def _in_folder(files: ReleasedFiles, folder: Path, where: str) -> Listing:
    paths = _fitting(files, folder)
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}
    return Listing(files, where, sizes, _published_sums(folder / SUMS) if where == "mirror" else {}, folder)


def _copy(listing: Listing, source: Path, target: Path, say: Callable[[str], None]) -> None:
    for name, size in listing.bytes_of.items():
        copy = target / name
        if not copy.is_file() or copy.stat().st_size != size:
            copy.parent.mkdir(parents=True, exist_ok=True)
            say(f"  {name}, {in_words(size)}")
            with appearing(copy) as part:
                shutil.copyfile(source / name, part)


def _published_sums(path: Path) -> dict[str, str]:
    """Read the lines of `sha256sum`: hash, two spaces, name. ValueError if one is not such a line."""
    if not path.is_file():
        return {}
    found = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        match = SUM.fullmatch(line.rstrip())
        if match is None and line.strip():
            raise ValueError(f"{path}, line {number}, is not a hash and a file name, as sha256sum writes them")
        if match is not None:
            found[match["name"].removeprefix("./")] = match["sha256"].lower()
    return found


# ---- from this machine ----


def _in_cache(files: ReleasedFiles, target: Path) -> Listing:
    """List what was fetched before or, if that is not all, what the hub's client has in its cache."""
    fetched = _in_folder(files, target, "cache")
    return fetched if not _missing(files, list(fetched.bytes_of)) else _in_folder(files, _snapshot(files), "cache")


def _snapshot(files: ReleasedFiles) -> Path:
    """Return a repository's folder in the cache of the hub's client; FetchError if it isn't there, or not whole."""
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            files.repo, revision=files.revision, allow_patterns=list(files.names), local_files_only=True
        )
    except Exception as error:  # the hub's client raises its own, its HTTP library's and system errors
        raise _not_fetched(files, error, "set HF_HUB_OFFLINE=0") from error
    missing = _missing(files, list(_in_folder(files, Path(folder), "cache").bytes_of))
    if missing:
        raise FetchError(f"{folder} has no {', '.join(missing)}; set HF_HUB_OFFLINE=0 to fetch it")
    return Path(folder)


# ---- from the hub ----


def _is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.is_offline_mode() if hasattr(constants, "is_offline_mode") else constants.HF_HUB_OFFLINE)


def _on_hub(files: ReleasedFiles) -> Listing:
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(files.repo, revision=files.revision, files_metadata=True)
    except Exception as error:  # the hub's client raises its own, its HTTP library's and system errors
        raise _not_fetched(files, error, "check the network and, for gated files, `hf auth login`") from error
    fitting = [entry for entry in info.siblings or [] if _matches(entry.rfilename, files)]
    missing = _missing(files, [entry.rfilename for entry in fitting])
    if missing:
        raise FetchError(
            f"the repository {files.repo} has no {', '.join(missing)}; nothing was fetched. See {files.page} for other "
            "names"
        )
    sums = {entry.rfilename: entry.lfs.sha256 for entry in fitting if entry.lfs is not None}
    return Listing(files, "hub", {entry.rfilename: entry.size or 0 for entry in fitting}, sums)


def _download(files: ReleasedFiles, target: Path) -> None:
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(
            files.repo,
            revision=files.revision,
            allow_patterns=list(files.names),
            ignore_patterns=[RECORDS, f"*/{RECORDS}"],  # only a user records what a user has read
            local_dir=target,
        )
    except Exception as error:  # as above
        raise _not_fetched(files, error, "the same command resumes it") from error


def _not_fetched(files: ReleasedFiles, error: Exception, hint: str) -> FetchError:
    return FetchError(
        f"{files.repo} could not be fetched ({type(error).__name__}: {_first_line(error)}); {hint}, "
        "or give --mirror FOLDER with a copy of the repositories"
    )


def _check(folder: Path, sums: dict[str, str], files: list[Path]) -> int:
    checked = 0
    for path in files:
        wanted = sums.get(path.relative_to(folder).as_posix())
        if wanted is None:
            continue
        found = sha256(path)
        if found != wanted:
            path.unlink()
            raise FetchError(f"{path} has SHA-256 {found}, but {wanted} is published; it was deleted, fetch it again")
        checked += 1
    return checked


# ---- names ----


def _fitting(files: ReleasedFiles, folder: Path) -> list[Path]:
    """List the requested files in a folder, without our licence records and lists of hashes."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in (RECORDS, SUMS)]
    return [path for path in paths if _matches(path.relative_to(folder).as_posix(), files)]


def _missing(files: ReleasedFiles, names: list[str]) -> list[str]:
    """Return the patterns that no name matches."""
    return [pattern for pattern in files.names if not any(fnmatch.fnmatch(name, pattern) for name in names)]


def _matches(name: str, files: ReleasedFiles) -> bool:
    hidden = any(part.startswith(".") for part in name.split("/"))
    return not hidden and any(fnmatch.fnmatch(name, pattern) for pattern in files.names)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:160]
