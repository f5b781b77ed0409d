"""Terms as evidence: who says what the terms of published files are, where, and when that was seen."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Literal, get_args

from backbone.errors import FieldError
from longlive_rag.rights.spdx import NO_ASSERTION, Use, allowed_use, check_expression

Witness = Literal["card", "repository"]
Basis = Literal["recorded", "card", "repository", "contradictory", "not seen"]
"""On what terms rest, the best first: a user's own record, or the standing of what the publisher says."""
IN_WORDS: dict[Basis, str] = {
    "recorded": "recorded",
    "card": "stated by the model card",
    "repository": "stated by the code repository",
    "contradictory": "contradictory",
    "not seen": "not seen",
}
CLEARED: tuple[Basis, ...] = ("recorded", "card")
"""Only on these may commercial use rest."""


@dataclass(frozen=True)
class Statement:
    """One place that says what the terms are.

    Attributes:
        by: `card`, the page or the licence file of the model itself; or `repository`, that of its code.
        spdx: what it says, as an SPDX expression.
        where: the place, in words.
        seen_on: when it was seen, a day (ISO).
        said_on: since when it says so, where that is known.
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
        """Such as 'Apache-2.0 by the code repository since 2025-11-01 (LICENSE; seen on 2026-11-25)'."""
        who = {"card": "the model card", "repository": "the code repository"}[self.by]
        since = f" since {self.said_on}" if self.said_on else ""
        return f"{self.spdx} by {who}{since} ({self.where}; seen on {self.seen_on})"


@dataclass(frozen=True)
class Terms:
    """All that is known of the terms of published files.

    Attributes:
        page: the model card, where they are to be read; whether it was opened, the statements say.
        looked_up_on: the day (ISO) on which they were looked for.
        statements: what was seen.
    """

    page: str
    looked_up_on: str
    statements: tuple[Statement, ...] = ()

    @property
    def standing(self) -> Basis:
        """`card`, `repository`, `contradictory` if two statements differ, `not seen` if there is none."""
        if not self.statements:
            return "not seen"
        if len({statement.spdx for statement in self.statements}) > 1:
            return "contradictory"
        return min((statement.by for statement in self.statements), key=get_args(Basis).index)

    @property
    def spdx(self) -> str:
        """What all statements say; NOASSERTION where they differ, or there is none."""
        said = {statement.spdx for statement in self.statements}
        return said.pop() if len(said) == 1 else NO_ASSERTION

    @property
    def use(self) -> Use:
        """What the strictest of the statements allows; unknown if there is none."""
        uses = [allowed_use(statement.spdx) for statement in self.statements]
        return min(uses, key=get_args(Use).index, default="unknown")

    @property
    def in_words(self) -> str:
        """Every statement, with its source and date."""
        said = "; ".join(statement.in_words for statement in self.statements)
        return said or f"not seen on {self.looked_up_on}; to be read at {self.page}"


def as_day(name: str, value: str) -> datetime.date:
    """A day in ISO form; FieldError if it is none."""
    try:
        return datetime.date.fromisoformat(value)
    except (ValueError, TypeError) as error:
        raise FieldError(name, value, "it must be a day such as 2026-01-31") from error


def cleared_use(use: Use, basis: Basis) -> Use:
    """What may be relied on of `use`, which terms allow if they are as they are said to be."""
    return use if basis in CLEARED else min(use, "research", key=get_args(Use).index)
