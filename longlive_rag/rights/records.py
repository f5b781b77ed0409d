"""The licence record of a model folder: `licenses.json`, with one entry per weight file, bound to the file's hash.

An entry holds the file's terms, where they are stated, and who looked them up when. It applies only to the bytes it was
written for: a different hash voids it. If a file came with its publisher's terms, the entry says what these rest on
(`longlive_rag.rights.terms`); a user's own entry replaces it.
"""

from __future__ import annotations

import datetime
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from backbone.errors import FieldError
from longlive_rag.rights.hashing import sha256
from longlive_rag.rights.spdx import NO_ASSERTION, Use, allowed_use, check_expression, conceivable_use
from longlive_rag.rights.terms import IN_WORDS, Basis, Terms, as_day, cleared_use
from retrieval.files import appearing, write_json

RECORDS = "licenses.json"
EVIDENCE = "licenses"
"""Folder beside the record that keeps the files given as evidence."""
RECORDED = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
RECORDED_NAMES = ("tokenizer.json", "spiece.model")
MODEL_INDEX = "model_index.json"

Standing = Literal["recorded", "unrecorded", "changed", "expired"]


@dataclass(frozen=True)
class Evidence:
    """A file beside the record that shows the terms, such as a grant or a saved page, and its hash."""

    file: str
    sha256: str


@dataclass(frozen=True)
class LicenseRecord:
    """What is known about the terms of one file.

    Attributes:
        sha256: hash of the file that this was written for.
        terms: an SPDX expression, or NOASSERTION if only the source is known.
        use: what the terms allow: derived from known ids, or stated by whoever looked them up.
        source: where the terms are stated: a URL, or a contract's name.
        looked_up_by, looked_up_on: who looked them up, and the day (ISO).
        expires: last day (ISO) on which this record is valid; None for no end.
        evidence: the evidence; None if there is none.
        made_from: hashes of the files that this one was converted or merged from.
        basis: what the terms rest on: `recorded` by a user, or the standing of the publisher's statement.
        page: where the publisher states its terms.
    """

    sha256: str
    terms: str
    use: Use
    source: str
    looked_up_by: str
    looked_up_on: str
    expires: str | None = None
    evidence: Evidence | None = None
    made_from: tuple[str, ...] = ()
    basis: Basis = "recorded"
    page: str | None = None

    def __post_init__(self) -> None:
        if self.use not in get_args(Use):
            raise FieldError("use", self.use, f"it must be one of {', '.join(get_args(Use))}")
        if self.use == "commercial" and conceivable_use(self.terms) == "research":
            raise FieldError("use", self.use, shown=f"'commercial', but {self.terms} is known to allow research use")
        for name in ("looked_up_on", "expires"):
            value = getattr(self, name)
            if value is not None:
                as_day(name, value)


@dataclass(frozen=True)
class LicenseRecords:
    """The content of `licenses.json`; `files` is keyed by paths inside the folder."""

    format: Literal[1]
    files: Mapping[str, LicenseRecord]


@dataclass(frozen=True)
class FileRights:
    """A weight file, its current hash, and the standing of its record.

    Attributes:
        file: path inside its folder.
        sha256: current hash.
        standing: `recorded`; or `unrecorded`, `changed` (the record is for other bytes), `expired`.
        use: what the file may be used for: what its record says if that is valid, otherwise unknown. Terms that rest
            on less than a user's record or the model card clear it for research at most.
        record: its record; None if there is none.
    """

    file: str
    sha256: str
    standing: Standing
    use: Use
    record: LicenseRecord | None

    @property
    def in_words(self) -> str:
        """The terms in a few words, such as 'CC-BY-NC-4.0 (research), looked up on 2026-01-31'."""
        if self.record is None:
            return "unrecorded"
        facts = _in_words(self.record)
        voided = {"changed": ", void because the file has changed", "expired": f", expired on {self.record.expires}"}
        return facts + voided.get(self.standing, "")


def unknown_weights(what: str) -> FileRights:
    """The rights of weights of which no file is known; `what` says where they come from."""
    return FileRights(what, "", "unrecorded", "unknown", None)


def _in_words(record: LicenseRecord) -> str:
    if record.basis == "recorded":
        return f"{record.terms} ({record.use}), looked up on {record.looked_up_on}"
    if record.basis == "not seen":
        return record.source
    if record.basis == "contradictory":
        return f"contradictory: {record.source}"
    only = " only" if record.basis == "repository" else ""
    return f"{record.terms} ({record.use}), {IN_WORDS[record.basis]}{only}, seen on {record.looked_up_on}"


def is_recorded(path: Path) -> bool:
    """Whether a file is of a kind that has a record: weights and vocabularies."""
    return path.suffix in RECORDED or path.name in RECORDED_NAMES


def weights_in(folder: Path) -> list[Path]:
    """List the files of a folder that need records, including hidden ones (an index may name them) and behind links.

    Hidden folders (download caches) are left out.
    """
    found: list[Path] = []
    seen = set()
    for base, folders, names in os.walk(folder, followlinks=True):
        place = os.path.realpath(base)
        if place in seen:  # linked twice, or a cycle of links
            folders.clear()
            continue
        seen.add(place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(base, name) for name in names if is_recorded(Path(name)) and Path(base, name).is_file()]
    return sorted(found)


def place_of(path: Path, folder: Path) -> tuple[Path, str]:
    """Return the folder that keeps a file's record, and its name there: `folder`, or the actual file's if elsewhere."""
    real, home = path.resolve(), folder.resolve()
    if not real.is_relative_to(home):
        folder = home = folder_of(real)
    return folder, real.relative_to(home).as_posix()


def folder_of(path: Path) -> Path:
    """Return the folder whose record covers `path`: the nearest one, itself included, that has a record or is a
    pipeline; if there is none, the folder itself or the file's own."""
    own = path if path.is_dir() else path.parent
    for folder in (own, *own.parents):
        if (folder / RECORDS).is_file() or (folder / MODEL_INDEX).is_file():
            return folder
    return own


def read_records(folder: Path) -> dict[str, LicenseRecord]:
    """Read the record of a folder, by file; empty if there is none.

    Raises:
        ValueError: if it can't be read.
    """
    path = folder / RECORDS
    if not path.is_file():
        return {}
    from longlive_rag.documents import read_document  # pydantic is slow to import, and --help does not need it

    return dict(read_document(path, LicenseRecords).files)


def write_records(folder: Path, records: Mapping[str, LicenseRecord]) -> None:
    """Write the record of a folder atomically."""
    write_json(folder / RECORDS, asdict(LicenseRecords(1, {file: records[file] for file in sorted(records)})))


def rights_of(path: Path, today: datetime.date | None = None) -> list[FileRights]:
    """Return the rights of every weight file in a folder, or of one file.

    Args:
        path: a folder or a weight file.
        today: date to check expiry against; the machine's date by default.

    Raises:
        ValueError: if a record can't be read.
    """
    folder = folder_of(path)
    records = read_records(folder)
    files = weights_in(path) if path.is_dir() else [path]
    return [_rights(file, folder, records, today or datetime.date.today()) for file in files]


def _rights(path: Path, folder: Path, records: Mapping[str, LicenseRecord], today: datetime.date) -> FileRights:
    name, digest = path.relative_to(folder).as_posix(), sha256(path)
    home, real_name = place_of(path, folder)
    found = [(folder, records.get(name)), (home, (records if home == folder else read_records(home)).get(real_name))]
    known = [(place, each) for place, each in found if each is not None]
    folder, record = next((pair for pair in known if pair[1].sha256 == digest), known[0] if known else (folder, None))
    standing: Standing = "recorded"
    if record is None:
        standing = "unrecorded"
    elif record.sha256 != digest or not _evidence_stands(folder, record):
        standing = "changed"
    elif record.expires is not None and as_day("expires", record.expires) < today:
        standing = "expired"
    use: Use = cleared_use(record.use, record.basis) if record and standing == "recorded" else "unknown"
    return FileRights(name, digest, standing, use, record)


def _evidence_stands(folder: Path, record: LicenseRecord) -> bool:
    if record.evidence is None:
        return True
    path = folder / EVIDENCE / record.evidence.file
    return path.is_file() and sha256(path) == record.evidence.sha256


def record_terms(
    path: Path,
    terms: str,
    source: str,
    looked_up_by: str,
    *,
    use: Use | None = None,
    looked_up_on: str | None = None,
    expires: str | None = None,
    evidence: Path | None = None,
) -> list[str]:
    """Record the terms of a weight file, or of all weight files in a folder, replacing earlier entries.

    Args:
        path: a file or a folder.
        terms: an SPDX expression; `LicenseRef-NAME` for terms without an id.
        source: where the terms are stated.
        looked_up_by: who looked them up.
        use: what they allow; only for terms without a known id, and `commercial` only with evidence.
        looked_up_on, expires: days (ISO); today and never by default.
        evidence: a file that shows the terms, copied beside the record.

    Returns:
        The files that were recorded, as the record names them.

    Raises:
        ValueError: if a value is invalid; nothing is written.
    """
    for name, value in (("source", source), ("by", looked_up_by)):
        if not value.strip():
            raise FieldError(name, value, "a record needs one", "empty")
    if evidence is not None and not evidence.is_file():
        raise ValueError(f"evidence {evidence} is not a file")
    terms = check_expression(terms)
    use = _stated_use(terms, use, evidence)
    folder = folder_of(path)
    files = files_to_record(path)
    digest = None if evidence is None else sha256(evidence)
    day = looked_up_on or datetime.date.today().isoformat()
    if expires is not None and as_day("expires", expires) < as_day("looked_up_on", day):
        raise FieldError("expires", expires, "the record would never be valid", f"{expires}, before {day}")
    made: dict[Path, dict[str, LicenseRecord]] = {}
    for file in files:
        home, name = place_of(file, folder)
        made.setdefault(home, {})[name] = LicenseRecord(sha256(file), terms, use, source, looked_up_by, day, expires)
    for home, records in made.items():
        if evidence is not None and digest is not None:
            kept = Evidence(_keep_evidence(evidence, digest, home / EVIDENCE), digest)
            records = {name: replace(record, evidence=kept) for name, record in records.items()}
        write_records(home, {**read_records(home), **records})
    return [file.relative_to(folder).as_posix() for file in files]


def record_released(folder: Path, files: Iterable[Path], terms: Terms, by: str) -> None:
    """Record what the publisher of files says about their terms; a user's own entries are kept.

    Args:
        folder: the folder that holds the files and their record.
        files: the files that need records.
        terms: the terms that were seen.
        by: who saw them.
    """
    records = read_records(folder)
    for file in files:
        name, digest = file.relative_to(folder).as_posix(), sha256(file)
        before = records.get(name)
        if before is None or before.basis != "recorded" or before.sha256 != digest:
            records[name] = LicenseRecord(
                digest,
                terms.spdx,
                terms.use,
                terms.in_words,
                by,
                terms.looked_up_on,
                basis=terms.standing,
                page=terms.page,
            )
    write_records(folder, records)


def _keep_evidence(evidence: Path, digest: str, folder: Path) -> str:
    """Copy evidence beside a record, under a name that no other evidence has, and return that."""
    folder.mkdir(exist_ok=True)
    target = folder / evidence.name
    if target.is_file() and sha256(target) != digest:  # of other terms, which rest on it
        target = folder / f"{evidence.stem}-{digest[:12]}{evidence.suffix}"
    if not target.is_file() or sha256(target) != digest:
        with appearing(target) as part:
            shutil.copy(evidence, part)
    return target.name


def files_to_record(path: Path) -> list[Path]:
    """Return the weight files that `path` stands for: itself, or those in it.

    Raises:
        ValueError: if there are none.
    """
    if path.is_dir():
        files = weights_in(path)
        if not files:
            raise ValueError(f"{path} holds no weight files ({', '.join(RECORDED)})")
        return files
    if not path.is_file():
        raise ValueError(f"{path} does not exist")
    if not is_recorded(path):
        raise ValueError(f"{path} is not a weight file ({', '.join(RECORDED)})")
    return [path]


def _stated_use(terms: str, use: Use | None, evidence: Path | None) -> Use:
    known = allowed_use(terms)
    if use is None or use == known:
        return known
    if known == "unknown" and conceivable_use(terms) != "commercial":
        known = conceivable_use(terms)
    if known != "unknown" and use != known:
        wanted = "for other terms that were granted to you, write LicenseRef-NAME and give the grant as evidence"
        raise FieldError("use", use, wanted, f"{use!r}, but {terms} is known to allow {known} use")
    if use == "commercial" and evidence is None:
        shown = f"'commercial' for {terms}, which has no known text"
        raise FieldError("use", use, "give a file as evidence", shown)
    return use


def write_record(folder: Path, today: datetime.date | None = None) -> None:
    """Record that a folder's weights were trained by this repository's own scripts and are Apache-2.0 like the rest."""
    record_terms(
        folder,
        "Apache-2.0",
        "trained from scratch by longlive-rag's own scripts (longlive_rag/tinyworld)",
        "the longlive-rag authors",
        looked_up_on=(today or datetime.date.today()).isoformat(),
    )


def inherit(folder: Path, made: Mapping[str, Iterable[FileRights]], today: datetime.date | None = None) -> None:
    """Record files that were converted or merged from others, under the terms of all of these together.

    A file with an unrecorded, changed or expired origin stays unrecorded.

    Args:
        folder: the new folder.
        made: file in it -> the rights of what it was made from.
        today: overridden in tests.
    """
    records = read_records(folder)
    for file, origins in made.items():
        parents = list(origins)
        if not parents or any(parent.standing != "recorded" for parent in parents):
            continue
        known = [parent.record for parent in parents if parent.record is not None]
        terms = list(dict.fromkeys(record.terms for record in known))
        order = get_args(Use)
        weakest = max(known, key=lambda record: get_args(Basis).index(record.basis))
        records[file] = LicenseRecord(
            sha256(folder / file),
            terms[0] if len(terms) == 1 else _all_of(terms),
            min((record.use for record in known), key=order.index),
            "; ".join(dict.fromkeys(record.source for record in known)),
            ", ".join(dict.fromkeys(record.looked_up_by for record in known)),
            min(record.looked_up_on for record in known),
            min((record.expires for record in known if record.expires), default=None),
            made_from=tuple(dict.fromkeys(parent.sha256 for parent in parents)),
            basis=weakest.basis,
            page=weakest.page,
        )
    write_records(folder, records)


def _all_of(terms: list[str]) -> str:
    if NO_ASSERTION in terms:
        return NO_ASSERTION
    return " AND ".join(f"({term})" if " " in term else term for term in terms)
