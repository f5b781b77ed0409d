"""Terms as evidence: who states the terms of published files, where, and when that was seen."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Literal, get_args

from backbone.errors import FieldError
from longlive_rag.rights.spdx import NO_ASSERTION, Use, allowed_use, check_expression

Witness = Literal["card", "repository"]
Basis = Literal["recorded", "card", "repository", "contradictory", "not seen"]
"""What terms rest on, best first: a user's own record, or the standing of the publisher's statement."""
IN_WORDS: dict[Basis, str] = {
    "recorded": "recorded",
    "card": "stated by the model card",
    "repository": "stated by the code repository",
    "contradictory": "contradictory",
    "not seen": "not seen",
}
CLEARED: tuple[Basis, ...] = ("recorded", "card")
"""Commercial use requires one of these."""


@dataclass(frozen=True)
class Statement:
    """One place that states the terms.

    Attributes:
        by: `card`, the page or licence file of the model itself; or `repository`, that of its code.
        spdx: the stated terms, as an SPDX expression.
        where: description of the place.
        seen_on: the day (ISO) it was seen.
        said_on: the day (ISO) since when it says so, if known.
    """

    by: Witness
    spdx: str
    where: str
    seen_on: str
    said_on: str | None = None

    def __post_init__(self) -> None:
        check_expression(self.spdx)
        as_day("seen_on", self.seen_on)
        if self.said_on is not None:
            as_day("said_on", self.said_on)

    @property
    def in_words(self) -> str:
        """A phrase such as 'Apache-2.0 by the code repository since 2025-11-01 (LICENSE; seen on 2026-11-25)'."""
        who = {"card": "the model card", "repository": "the code repository"}[self.by]
        since = f" since {self.said_on}" if self.said_on else ""
        return f"{self.spdx} by {who}{since} ({self.where}; seen on {self.seen_on})"


@dataclass(frozen=True)
class Terms:
    """All that is known about the terms of published files.

    Attributes:
        page: URL of the model card, where to read them; only the statements tell whether it was opened.
        looked_up_on: the day (ISO) on which they were looked up.
        statements: the statements that were seen.
    """

    page: str
    looked_up_on: str
    statements: tuple[Statement, ...] = ()

    @property
    def standing(self) -> Basis:
        """`contradictory` if two statements differ, `not seen` if there is none, else the best of their witnesses."""
        if not self.statements:
            return "not seen"
        if len({statement.spdx for statement in self.statements}) > 1:
            return "contradictory"
        return min((statement.by for statement in self.statements), key=get_args(Basis).index)

    @property
    def spdx(self) -> str:
        """What all statements say; NOASSERTION if they differ or there is none."""
        said = {statement.spdx for statement in self.statements}
        return said.pop() if len(said) == 1 else NO_ASSERTION

    @property
    def use(self) -> Use:
        """What the strictest statement allows; unknown if there is none."""
        uses = [allowed_use(statement.spdx) for statement in self.statements]
        return min(uses, key=get_args(Use).index, default="unknown")

    @property
    def in_words(self) -> str:
        """Every statement, with its source and date."""
        said = "; ".join(statement.in_words for statement in self.statements)
        return said or f"not seen on {self.looked_up_on}; see {self.page}"


def as_day(name: str, value: str) -> datetime.date:
    """Parse a day written as 2026-01-31, so that days sort as text; FieldError if it is not one."""
    wanted = "it must be a day such as 2026-01-31"
    try:
        day = datetime.date.fromisoformat(value)
    except (ValueError, TypeError) as error:
        raise FieldError(name, value, wanted) from error
    if day.isoformat() != value:  # other forms of ISO 8601
        raise FieldError(name, value, wanted)
    return day


def cleared_use(use: Use, basis: Basis) -> Use:
    """Limit the use that stated terms allow to what their basis supports."""
    return use if basis in CLEARED else min(use, "research", key=get_args(Use).index)
