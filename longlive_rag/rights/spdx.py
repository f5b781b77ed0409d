"""What the licences in an SPDX expression allow. Only some ids are known; everything else is unknown."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

Use = Literal["unknown", "research", "commercial"]

NO_ASSERTION = "NOASSERTION"

# Ids whose text allows commercial use. Meeting their conditions (attribution, keeping notices) is up to the user.
COMMERCIAL = frozenset({
    "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC-BY-3.0", "CC-BY-4.0", "CC0-1.0",
    "CDLA-Permissive-2.0", "CNRI-Python", "HPND", "ISC", "MIT", "MIT-0", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Python-2.0",
    "Unicode-3.0", "Unlicense", "Zlib",
})  # fmt: skip
NON_COMMERCIAL = ("cc-by-nc", "polyform-noncommercial", "ncgl-uk")  # prefixes of ids, any case and version
_ORDER: tuple[Use, ...] = ("unknown", "research", "commercial")
_COMMERCIAL = frozenset(name.casefold() for name in COMMERCIAL)


def allowed_use(expression: str) -> Use:
    """Return the most that `expression` allows: its strictest part for AND, its best for OR; unknown for unknown ids.

    Raises:
        ValueError: if it can't be parsed.
    """
    return _read(expression)[0]


def conceivable_use(expression: str) -> Use:
    """Return the most that `expression` could allow if everything unknown in it allowed all.

    Raises:
        ValueError: if it can't be parsed.
    """
    return _read(expression)[1]


def check_expression(expression: str) -> str:
    """Return the expression in canonical spelling.

    Raises:
        ValueError: if an id is not an SPDX id, saying how to name other terms.
    """
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    try:
        return str(canonicalize_license_expression(expression))
    except InvalidLicenseExpression as error:
        raise ValueError(
            f"{expression!r} is not an SPDX expression such as Apache-2.0 or 'MIT AND BSD-3-Clause'; "
            "for terms without an id, write LicenseRef-NAME"
        ) from error


Uses = tuple[Use, Use]  # known to be allowed, conceivably allowed


def _read(expression: str) -> Uses:
    tokens = re.findall(r"[()]|[^\s()]+", expression)
    uses, rest = _alternatives(tokens, expression)
    if rest:
        raise ValueError(f"{expression!r} is not an SPDX expression: {rest[0]!r} is out of place")
    return uses


def _alternatives(tokens: list[str], expression: str) -> tuple[Uses, list[str]]:
    best, tokens = _conjunction(tokens, expression)
    while tokens and tokens[0].upper() == "OR":
        other, tokens = _conjunction(tokens[1:], expression)
        best = _each(max, best, other)
    return best, tokens


def _conjunction(tokens: list[str], expression: str) -> tuple[Uses, list[str]]:
    worst, tokens = _single(tokens, expression)
    while tokens and tokens[0].upper() == "AND":
        other, tokens = _single(tokens[1:], expression)
        worst = _each(min, worst, other)
    return worst, tokens


def _each(pick: Callable[..., Use], one: Uses, other: Uses) -> Uses:
    return pick(one[0], other[0], key=_ORDER.index), pick(one[1], other[1], key=_ORDER.index)


def _single(tokens: list[str], expression: str) -> tuple[Uses, list[str]]:
    if not tokens or tokens[0] == ")" or tokens[0].upper() in ("AND", "OR", "WITH"):
        raise ValueError(f"{expression!r} is not an SPDX expression: an id is missing")
    first, rest = tokens[0], tokens[1:]
    if first == "(":
        uses, rest = _alternatives(rest, expression)
        if not rest or rest[0] != ")":
            raise ValueError(f"{expression!r} is not an SPDX expression: a bracket is not closed")
        return uses, rest[1:]
    if len(rest) > 1 and rest[0].upper() == "WITH":  # exceptions only add permissions
        rest = rest[2:]
    known = first.casefold()
    if known in _COMMERCIAL:
        return ("commercial", "commercial"), rest
    return (("research", "research") if known.startswith(NON_COMMERCIAL) else ("unknown", "commercial")), rest
