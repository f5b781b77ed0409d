"""What a licence lets one do, for SPDX expressions: known ids only; everything else is unknown."""

from __future__ import annotations

import re
from typing import Literal

Use = Literal["unknown", "research", "commercial"]

NO_ASSERTION = "NOASSERTION"

# Ids whose text allows commercial use. Their duties (naming the authors, keeping notices) are the user's to follow.
COMMERCIAL = frozenset({
    "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC-BY-3.0", "CC-BY-4.0", "CC0-1.0",
    "CDLA-Permissive-2.0", "CNRI-Python", "HPND", "ISC", "MIT", "MIT-0", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Python-2.0",
    "Unicode-3.0", "Unlicense", "Zlib",
})  # fmt: skip
NON_COMMERCIAL = frozenset(
    f"CC-BY-NC{form}-{version}" for form in ("", "-SA", "-ND") for version in ("2.0", "2.5", "3.0", "4.0")
)
_ORDER: tuple[Use, ...] = ("unknown", "research", "commercial")


def allowed_use(expression: str) -> Use:
    """The most that `expression` allows: all of it for AND, the best of it for OR; unknown ids are unknown.

    Raises:
        ValueError: if it can't be parsed.
    """
    tokens = re.findall(r"[()]|[^\s()]+", expression)
    use, rest = _alternatives(tokens, expression)
    if rest:
        raise ValueError(f"{expression!r} is not an SPDX expression: {rest[0]!r} is out of place")
    return use


def check_expression(expression: str) -> str:
    """The expression in its usual spelling.

    Raises:
        ValueError: if an id is not an SPDX id; says how to name other terms.
    """
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    try:
        return str(canonicalize_license_expression(expression))
    except InvalidLicenseExpression as error:
        raise ValueError(
            f"{expression!r} is not an SPDX expression such as Apache-2.0 or 'MIT AND BSD-3-Clause'; "
            "for terms without an id, write LicenseRef-NAME"
        ) from error


def _alternatives(tokens: list[str], expression: str) -> tuple[Use, list[str]]:
    best, tokens = _conjunction(tokens, expression)
    while tokens and tokens[0].upper() == "OR":
        other, tokens = _conjunction(tokens[1:], expression)
        best = max(best, other, key=_ORDER.index)
    return best, tokens


def _conjunction(tokens: list[str], expression: str) -> tuple[Use, list[str]]:
    worst, tokens = _single(tokens, expression)
    while tokens and tokens[0].upper() == "AND":
        other, tokens = _single(tokens[1:], expression)
        worst = min(worst, other, key=_ORDER.index)
    return worst, tokens


def _single(tokens: list[str], expression: str) -> tuple[Use, list[str]]:
    if not tokens or tokens[0] == ")" or tokens[0].upper() in ("AND", "OR", "WITH"):
        raise ValueError(f"{expression!r} is not an SPDX expression: an id is missing")
    first, rest = tokens[0], tokens[1:]
    if first == "(":
        use, rest = _alternatives(rest, expression)
        if not rest or rest[0] != ")":
            raise ValueError(f"{expression!r} is not an SPDX expression: a bracket is not closed")
        return use, rest[1:]
    if len(rest) > 1 and rest[0].upper() == "WITH":  # exceptions only ever allow more
        rest = rest[2:]
    if first in COMMERCIAL:
        return "commercial", rest
    return ("research" if first in NON_COMMERCIAL else "unknown"), rest
