"""From nothing to a pipeline folder: the files of a known backbone fetched, and converted with its settings."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from longlive_rag.presets.catalogue import KnownBackbone
from longlive_rag.weights.convert import Converted, Sources, convert
from longlive_rag.weights.hub import Fetched, Listing, fetch, list_files
from longlive_rag.weights.layouts import layout_of
from retrieval.files import in_words


@dataclass(frozen=True)
class Obtained:
    """What is there now.

    Attributes:
        fetched: the published files.
        converted: None if it was not asked for.
    """

    fetched: list[Fetched]
    converted: Converted | None


def obtain(
    known: KnownBackbone,
    files: Path,
    folder: Path | None,
    *,
    base: Path | None = None,
    mirror: Path | None = None,
    dtype: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Obtained:
    """Fetch a known backbone and convert it; what is there already stays, so that a second call resumes a first.

    Args:
        known: the backbone.
        files: where the published files go, `files/<owner>/<repo>/<file>`: backbones share what is the same.
        folder: the pipeline folder to be made, which appears when it is whole; None only fetches.
        base: the release that it is made on, where it is at hand, in any layout; it is not fetched then.
        mirror: see `longlive_rag.weights.hub.fetch`.
        dtype: see `Sources`.
        say: each step as it begins, a line each.

    Raises:
        ValueError: if the files don't fit each other, the disk has no room for them and the folder, or the folder is
            there already; nothing of the folder is written then.
        FetchError: if the files can't be fetched.
        OSError: if the disk refuses.
    """
    if folder is not None and folder.exists():
        raise ValueError(f"{folder} is there already, and fetching {known.name} would make it; move it away first")
    if base is not None:
        layout_of(base)
        known = replace(known, files=tuple(each for each in known.files if each.role != "base"))
    listings = list_files(known, files, mirror)
    _check_room(known, listings, files, folder)
    fetched = fetch(known, listings, files, mirror, say)
    if folder is None:
        return Obtained(fetched, None)
    say(f"converting to {folder}")
    return Obtained(fetched, convert(sources_of(known, fetched, base, dtype), folder))


def sources_of(known: KnownBackbone, fetched: Sequence[Fetched], base: Path | None, dtype: str | None) -> Sources:
    """What a pipeline folder of fetched files is made of, and of `base` where that is not among them."""
    base = base or next(each.folder for each in fetched if each.role == "base")
    single = {each.role: each.files[0] for each in fetched if each.role != "base"}
    transformer = single.get("transformer")
    return Sources(
        transformer or base,
        base=base if transformer else None,
        lora=single.get("lora"),
        encoder=single.get("encoder"),
        preset=known.name,
        dtype=dtype,
    )


def _check_room(known: KnownBackbone, listings: Sequence[Listing], files: Path, folder: Path | None) -> None:
    """Raise ValueError unless the disk has room for what is still to come; the folder is no larger than its sources."""
    replaced = any(listing.files.role == "transformer" for listing in listings)
    missing, converted = {}, {}
    for listing in listings:
        for name, size in listing.bytes_of.items():
            path = files / listing.files.repo / name
            if not path.is_file() or path.stat().st_size != size:
                missing[path] = size
            base_transformer = listing.files.role == "base" and path.suffix == ".safetensors" and replaced
            if listing.files.role not in ("lora", "prompts") and not base_transformer:
                converted[path] = size
    wanted = {files: sum(missing.values())}
    if folder is not None:
        wanted[folder] = sum(converted.values())
    disk_of = {place: _existing(place).stat().st_dev for place in wanted}
    for place, disk in disk_of.items():
        needed = sum(size for other, size in wanted.items() if disk_of[other] == disk)
        free = shutil.disk_usage(_existing(place)).free
        if free < needed:
            raise ValueError(
                f"no space left for {known.name} in {_existing(place)}: to fetch and convert it takes "
                f"{in_words(needed)} more, {in_words(free)} are free; nothing was fetched"
            )


def _existing(place: Path) -> Path:
    return next(folder for folder in (place.absolute(), *place.absolute().parents) if folder.exists())
