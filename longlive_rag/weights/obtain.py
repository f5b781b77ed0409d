"""Fetch the files of a known backbone and convert them with its settings to a pipeline folder."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from backbone.errors import FieldError
from longlive_rag.presets.catalogue import KnownBackbone
from longlive_rag.presets.needs import weight_bytes
from longlive_rag.presets.preset import preset_to_plan_with
from longlive_rag.rights.records import weights_in
from longlive_rag.weights.convert import Converted, Sources, convert, make_way
from longlive_rag.weights.hub import Fetched, Listing, fetch, list_files
from longlive_rag.weights.layouts import layout_of
from retrieval.files import in_words

NOT_CONVERTED = ("lora", "prompts")


@dataclass(frozen=True)
class Obtained:
    """The result of fetching and converting.

    Attributes:
        fetched: the published files.
        converted: the pipeline folder; None if it was not requested.
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
    """Fetch a known backbone and convert it; existing files are kept, so that a second call resumes the first.

    Args:
        known: the backbone.
        files: where the published files go, `files/<owner>/<repo>/<file>`; backbones share common files.
        folder: the pipeline folder to make, which appears once it is complete; None only fetches.
        base: a local copy, in any layout, of the release that the backbone builds on, which then is not fetched.
        mirror: see `longlive_rag.weights.hub.list_files`.
        dtype: see `Sources`.
        say: called with a line as each step begins.

    Raises:
        ValueError: if the files don't fit together, the disk has no room for them and the folder, or the folder already
            exists; the folder is not written.
        FetchError: if the files can't be fetched.
        OSError: if the disk refuses.
    """
    if folder is not None:
        if folder.exists():
            raise ValueError(f"{folder} already exists, but fetching {known.name} would create it; move it away first")
        make_way(folder)
    if base is not None:
        layout_of(base)
        known = replace(known, files=tuple(each for each in known.files if each.role != "base"))
    listings = list_files(known, files, mirror)
    wanted = {} if folder is None else {folder: _converted_bytes(known, listings, base, dtype)}
    _check_room(known, listings, files, wanted)
    fetched = fetch(known, listings, files, say)
    if folder is None:
        return Obtained(fetched, None)
    say(f"converting to {folder}")
    sources = sources_of(known, fetched, base, dtype)
    try:
        return Obtained(fetched, convert(sources, folder))
    except FieldError as error:
        if error.field != "section":
            raise
        options = {name: getattr(sources, name) for name in ("base", "lora", "encoder", "preset", "dtype")}
        command = command_line("convert", sources.source, folder, **options)
        raise ValueError(f"{error}; the files are fetched; to convert them: {command} --section SECTION") from error


def sources_of(known: KnownBackbone, fetched: Sequence[Fetched], base: Path | None, dtype: str | None) -> Sources:
    """Return the sources of a pipeline folder made of fetched files, and of `base` if that was not fetched."""
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


def command_line(*words: str | Path, **options: str | Path | None) -> str:
    """A command of `longlive-rag models` as it is typed in a shell, without the options that are None."""
    typed = ["longlive-rag", "models", *map(str, words)]
    for name, value in options.items():
        typed += [] if value is None else [f"--{name}", str(value)]
    return shlex.join(typed)


def _converted_bytes(known: KnownBackbone, listings: Sequence[Listing], base: Path | None, dtype: str | None) -> int:
    """Size of the pipeline folder, at most: as its configs say or, if that is less, as its sources can become."""
    sources = [size for each in listings if each.files.role not in NOT_CONVERTED for size in each.bytes_of.values()]
    sources += [path.stat().st_size for path in weights_in(base)] if base is not None else []
    at_most = sum(sources) * (2 if dtype == "float32" else 1)  # they may have 16 bits
    if known.configs is None:
        return at_most
    precision = dtype or "float32"
    return min(at_most, sum(weight_bytes(preset_to_plan_with(known.name), precision, precision).values()))


def _check_room(known: KnownBackbone, listings: Sequence[Listing], files: Path, wanted: dict[Path, int]) -> None:
    """Raise ValueError unless the disks have room for the files that are missing, and for `wanted` bytes of others."""
    missing = 0
    for listing in listings:
        for name, size in listing.bytes_of.items():
            path = files / listing.files.repo / name
            missing += 0 if path.is_file() and path.stat().st_size == size else size
    wanted = {files: missing} | wanted
    disk_of = {place: _existing(place).stat().st_dev for place in wanted}
    for place, disk in disk_of.items():
        needed = sum(size for other, size in wanted.items() if disk_of[other] == disk)
        free = shutil.disk_usage(_existing(place)).free
        if free < needed:
            raise ValueError(
                f"no space left for {known.name} in {_existing(place)}: fetching and converting it needs another "
                f"{in_words(needed)}, but {in_words(free)} are free; nothing was fetched"
            )


def _existing(place: Path) -> Path:
    return next(folder for folder in (place.absolute(), *place.absolute().parents) if folder.exists())
