"""Terms as evidence: where they are stated decides what they clear, and a user's own record takes their place."""

from __future__ import annotations

import itertools

import pytest

from longlive_rag.rights.policy import LicenseError, enforce
from longlive_rag.rights.records import inherit, read_records, record_released, record_terms, rights_of
from longlive_rag.rights.terms import Statement, Terms

PAGE = "https://example.org/owner/name"
APACHE_BY_CARD = Statement("card", "Apache-2.0", "the card", "2026-11-25")
APACHE_BY_CODE = Statement("repository", "Apache-2.0", "LICENSE", "2026-11-25", "2025-11-01")
NC_BY_CARD = Statement("card", "CC-BY-NC-SA-4.0", "an old copy of the card", "2026-11-25")
STANDINGS = {
    "card": ((APACHE_BY_CARD, APACHE_BY_CODE), "Apache-2.0", "commercial"),
    "repository": ((APACHE_BY_CODE,), "Apache-2.0", "research"),
    "contradictory": ((NC_BY_CARD, APACHE_BY_CODE), "NOASSERTION", "research"),
    "not seen": ((), "NOASSERTION", "unknown"),
}


@pytest.fixture(params=STANDINGS)
def standing(request):
    return request.param


@pytest.fixture
def folder(tmp_path, standing):
    folder = tmp_path / "model"
    (folder / "part").mkdir(parents=True)
    for name in ("a.safetensors", "part/b.safetensors"):
        (folder / name).write_bytes(name.encode())
    files = sorted(folder.rglob("*.safetensors"))
    record_released(folder, files, Terms(PAGE, "2026-11-25", STANDINGS[standing][0]), "a preset")
    return folder


def test_where_terms_are_stated_decides_what_they_clear(folder, standing):
    _, terms, use = STANDINGS[standing]
    for file in rights_of(folder):
        assert (file.record.basis, file.record.terms, file.use) == (standing, terms, use)
        assert "2026-11-25" in file.in_words
        assert all(statement.where in file.record.source for statement in STANDINGS[standing][0])


def test_no_order_of_statements_matters():
    for statements in itertools.permutations((APACHE_BY_CARD, APACHE_BY_CODE, NC_BY_CARD)):
        assert Terms(PAGE, "2026-11-25", statements).standing == "contradictory"
        assert Terms(PAGE, "2026-11-25", statements).use == "research"
        assert Terms(PAGE, "2026-11-25", tuple(set(statements) - {NC_BY_CARD})).standing == "card"


@pytest.mark.parametrize("policy", ["research", "commercial"])
def test_policies(folder, standing, policy):
    use = STANDINGS[standing][2]
    if use == "commercial" or (use, policy) == ("research", "research"):
        assert len(enforce(folder, policy)) == 2
        return
    with pytest.raises(LicenseError) as refused:
        enforce(folder, policy)
    assert f"Read {PAGE}, keep what it says as FILE, and record it: longlive-rag license record" in str(refused.value)
    suggested = "Apache-2.0" if standing == "repository" else "ID"
    places = " ".join(str(folder / name) for name in ("a.safetensors", "part/b.safetensors"))
    assert f"{places} --spdx {suggested} --source {PAGE} --evidence FILE" in str(refused.value)


def test_a_users_record_stays(folder, standing, tmp_path):
    (tmp_path / "card.html").write_text("Apache 2.0")
    record_terms(folder, "MIT", PAGE, "K", evidence=tmp_path / "card.html")
    record_released(folder, sorted(folder.rglob("*.safetensors")), Terms(PAGE, "2026-11-25"), "a preset")
    assert len(enforce(folder, "commercial")) == 2
    (folder / "a.safetensors").write_bytes(b"new")  # a record of other bytes is no record of these
    record_released(folder, [folder / "a.safetensors"], Terms(PAGE, "2026-11-25"), "a preset")
    assert read_records(folder)["a.safetensors"].basis == "not seen"


def test_what_is_made_of_several_rests_on_the_weakest(folder, standing, tmp_path):
    (tmp_path / "other.safetensors").write_bytes(b"other")
    record_terms(tmp_path / "other.safetensors", "MIT", "card", "K")
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "c.safetensors").write_bytes(b"merged")
    inherit(tmp_path / "made", {"c.safetensors": [*rights_of(folder), *rights_of(tmp_path / "other.safetensors")]})
    (made,) = rights_of(tmp_path / "made")
    assert (made.record.basis, made.record.page, made.use) == (standing, PAGE, STANDINGS[standing][2])
