"""Terms that forbid selling stay what they are, in any spelling, version and company."""

from __future__ import annotations

from pathlib import Path

import pytest

from longlive_rag.rights.policy import LicenseError, enforce
from longlive_rag.rights.records import record_terms
from longlive_rag.rights.spdx import allowed_use, conceivable_use

WHO = ("https://example.org/license", "J. Doe")
NOT_FOR_SALE = [
    "CC-BY-NC-1.0", "CC-BY-NC-2.0", "CC-BY-NC-4.0", "CC-BY-NC-ND-4.0", "CC-BY-NC-SA-3.0-IGO", "cc-by-nc-4.0",
    "PolyForm-Noncommercial-1.0.0", "NCGL-UK-2.0",
]  # fmt: skip


@pytest.mark.parametrize("terms", NOT_FOR_SALE)
def test_ids_that_forbid_selling(terms: str) -> None:
    assert (allowed_use(terms), conceivable_use(terms)) == ("research", "research")


@pytest.mark.parametrize(
    ("terms", "allowed", "conceivable"),
    [
        ("LicenseRef-Foo AND CC-BY-NC-4.0", "unknown", "research"),
        ("(LicenseRef-Foo OR MIT) AND CC-BY-NC-4.0", "research", "research"),
        ("CC-BY-NC-4.0 OR LicenseRef-Foo", "research", "commercial"),
        ("CC-BY-NC-4.0 WITH LLVM-exception", "research", "research"),
        ("LicenseRef-Foo", "unknown", "commercial"),
    ],
)
def test_what_unknown_terms_could_allow(terms: str, allowed: str, conceivable: str) -> None:
    assert (allowed_use(terms), conceivable_use(terms)) == (allowed, conceivable)


@pytest.mark.parametrize("terms", [*NOT_FOR_SALE, "LicenseRef-Foo AND CC-BY-NC-4.0", "CC-BY-NC-4.0 AND MIT"])
def test_they_are_not_recorded_as_commercial(tmp_path: Path, terms: str) -> None:
    weights, grant = tmp_path / "weights.pt", tmp_path / "grant.pdf"
    weights.write_bytes(b"weights")
    grant.write_text("You may.")
    with pytest.raises(ValueError, match=r"is known to allow research use; for other terms that were granted"):
        record_terms(weights, terms, *WHO, use="commercial", evidence=grant)
    record_terms(weights, terms, *WHO)
    with pytest.raises(LicenseError):
        enforce(tmp_path, "commercial")
