"""Refuse weights that a policy does not allow, before anything loads.

`any` loads everything. `research` requires recorded terms that allow research; `commercial` requires recorded terms
that allow commercial use and rest on a user's own record or the model card. Unknown, changed and expired records count
as not allowed.
"""

from __future__ import annotations

import datetime
import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, cast, get_args

from longlive_rag.environment import stated_policy
from longlive_rag.rights.records import FileRights, folder_of, rights_of
from longlive_rag.rights.spdx import NO_ASSERTION, Use
from longlive_rag.rights.terms import CLEARED

LicensePolicy = Literal["any", "research", "commercial"]
DEFAULT_POLICY: LicensePolicy = "any"
ALLOWED: dict[str, tuple[Use, ...]] = {
    "any": ("unknown", "research", "commercial"),
    "research": ("research", "commercial"),
    "commercial": ("commercial",),
}


class LicenseError(ValueError):
    """Raised for weights that the policy in force does not allow."""


def pick_policy(policy: str | None = None) -> LicensePolicy:
    """Return the policy in force: the caller's, else the environment's, else the config file's, else `any`.

    Raises:
        ValueError: if it is not a policy, naming where it was stated.
    """
    stated = (policy, "license policy") if policy is not None else stated_policy()
    if stated is None:
        return DEFAULT_POLICY
    value, where = stated
    if value not in get_args(LicensePolicy):
        raise ValueError(f"{where} is {value!r}; it must be one of {', '.join(get_args(LicensePolicy))}")
    return cast(LicensePolicy, value)


def enforce(path: Path, policy: str | None = None, today: datetime.date | None = None) -> list[FileRights]:
    """Check every weight file of a folder, or one file, against the policy in force.

    Args:
        path: a folder or a weight file.
        policy: see `pick_policy`.
        today: date to check expiry against; today by default.

    Returns:
        The rights of each file, for the take's record.

    Raises:
        LicenseError: if a file is not allowed; names the first one, its terms, and how to record others.
    """
    chosen = pick_policy(policy)
    rights = rights_of(path, today)
    refuse(rights, folder_of(path), chosen)
    return rights


def enforce_place(place: str | os.PathLike[str], policy: str | None = None) -> LicensePolicy:
    """Refuse what is about to be loaded from `place` if it is not allowed; under `any`, read nothing.

    Args:
        place: a folder, a weight file, or the name of a repository on a hub (which has no record).
        policy: see `pick_policy`.

    Returns:
        The policy in force.

    Raises:
        LicenseError: if the policy does not allow a weight file there.
    """
    chosen = pick_policy(policy)
    if chosen != "any":
        if not Path(place).exists():
            why = "only local files can have a record" + or_any(chosen)
            raise LicenseError(f"license policy {chosen!r} does not allow {place}: {why}")
        enforce(Path(place), chosen)
    return chosen


def weaker(one: LicensePolicy, other: LicensePolicy) -> LicensePolicy:
    """Return the policy of the two that allows more."""
    return min(one, other, key=get_args(LicensePolicy).index)


def refuse_stricter(policy: LicensePolicy, before: LicensePolicy, what: str) -> None:
    """Raise `LicenseError` if something made under one policy is to be used under a stricter one.

    Args:
        policy: the policy it is to be used under.
        before: the policy it was made under.
        what: how to name it in the message.
    """
    if policy != before and weaker(policy, before) == before:
        raise LicenseError(
            f"{what} was made under license policy {before!r} and can't be used under {policy!r}: it may come from "
            f"weights that {policy!r} does not allow. Use license policy {before!r}, or remake it"
        )


def refuse(rights: Iterable[FileRights], folder: Path, policy: LicensePolicy) -> None:
    """Raise `LicenseError` if one of the files is not allowed under `policy`."""
    refused = [file for file in rights if file.use not in ALLOWED[policy]]
    if not refused:
        return
    first, count = refused[0], len(refused) - 1
    more = f" (and {count} more {'file' if count == 1 else 'files'})" if count else ""
    raise LicenseError(
        f"license policy {policy!r} does not allow {folder / first.file}{more}; its terms: {first.in_words}"
        f"{or_any(policy)}. {how_to_record(refused, folder)}"
    )


def or_any(policy: LicensePolicy) -> str:
    """The rest of a refusal: that `any` loads weights of any terms; not for who needs terms for commercial use."""
    return "; license policy 'any' loads it whatever its terms" if policy == "research" else ""


def how_to_record(files: Sequence[FileRights], folder: Path) -> str:
    """Say what to read, and the command that records it, for the first of `files` and those with the same terms.

    Terms that nobody has seen, or that are contradictory, are not suggested: ID stands for what the reader finds.
    """
    wanted = _to_read(files[0])
    if wanted is None:
        place, page, terms = shlex.quote(str(folder / files[0].file)), "WHERE", "ID"
        what = "If you hold other terms, record them"
    else:
        place = " ".join(shlex.quote(str(folder / file.file)) for file in files if _to_read(file) == wanted)
        page, terms = wanted
        what = f"Read {page}, keep what it says as FILE, and record it"
    return f"{what}: longlive-rag license record {place} --spdx {terms} --source {page} --evidence FILE"


def _to_read(file: FileRights) -> tuple[str, str] | None:
    """Return where the publisher states a file's terms and what they are said to be; None if reading can't clear it."""
    record = file.record
    if record is None or file.standing != "recorded" or record.basis in CLEARED or record.page is None:
        return None
    return record.page, "ID" if record.terms == NO_ASSERTION else shlex.quote(record.terms)
