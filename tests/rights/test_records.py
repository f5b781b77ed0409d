"""Licence records, and what each policy makes of them."""

from __future__ import annotations

import datetime
import itertools
import json

import pytest

from backbone.errors import FieldError
from longlive_rag import environment as settings
from longlive_rag.presets.preset import BUILT_IN
from longlive_rag.rights import hashing
from longlive_rag.rights.policy import LicenseError, enforce, pick_policy
from longlive_rag.rights.records import (
    LicenseRecord,
    inherit,
    read_records,
    record_terms,
    rights_of,
    sha256,
    write_record,
    write_records,
)
from longlive_rag.rights.spdx import allowed_use, check_expression

TODAY = datetime.date(2026, 6, 1)
WHO = "J. Doe"
WHERE = "https://example.org/license"


@pytest.fixture
def folder(tmp_path):
    """A model folder of two weight files, and files that need no record."""
    folder = tmp_path / "model"
    (folder / "vae").mkdir(parents=True)
    (folder / "weights.pt").write_bytes(b"weights")
    (folder / "vae" / "vae.safetensors").write_bytes(b"vae")
    (folder / "vae" / "config.json").write_text("{}")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "half.safetensors").write_bytes(b"half")
    return folder


@pytest.fixture(autouse=True)
def own_home(monkeypatch, tmp_path):
    for name in (settings.POLICY_VARIABLE, settings.CONFIG_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


# ---- expressions ----


@pytest.mark.parametrize(
    ("expression", "use"),
    [
        ("Apache-2.0", "commercial"),
        ("CC-BY-NC-4.0", "research"),
        ("CC-BY-NC-SA-4.0", "research"),
        ("LicenseRef-Odd", "unknown"),
        ("NOASSERTION", "unknown"),
        ("MIT AND CC-BY-NC-4.0", "research"),
        ("MIT OR CC-BY-NC-4.0", "commercial"),
        ("MIT AND LicenseRef-Odd", "unknown"),
        ("CC-BY-NC-4.0 AND (MIT OR LicenseRef-Odd)", "research"),
        ("(MIT AND CC-BY-NC-4.0) OR LicenseRef-Odd", "research"),
        ("Apache-2.0 WITH LLVM-exception", "commercial"),
        ("GPL-3.0-or-later", "unknown"),
    ],
)
def test_what_expressions_allow(expression, use):
    assert allowed_use(expression) == use


@pytest.mark.parametrize(
    "terms",
    [
        "LicenseRef-Foo AND CC-BY-NC-4.0", "CC-BY-NC-1.0", "CC-BY-NC-SA-2.0-FR", "PolyForm-Noncommercial-1.0.0",
        "MIT AND (LicenseRef-Foo AND CC-BY-NC-ND-3.0-IGO)",
    ],
)  # fmt: skip
def test_what_a_part_of_the_terms_forbids_is_not_recorded_as_commercial(folder, tmp_path, terms):
    (tmp_path / "grant.txt").write_text("granted")
    with pytest.raises(FieldError, match=r"use is 'commercial', but .* is known to allow research use"):
        record_terms(folder, terms, WHERE, WHO, use="commercial", evidence=tmp_path / "grant.txt")
    assert not (folder / "licenses.json").exists()


def test_a_record_written_by_hand_is_held_to_the_same(folder):
    record_terms(folder, "LicenseRef-Foo", WHERE, WHO)
    written = (folder / "licenses.json").read_text()
    lie = written.replace('"LicenseRef-Foo"', '"LicenseRef-Foo AND cc-by-nc-4.0"').replace('"unknown"', '"commercial"')
    (folder / "licenses.json").write_text(lie)
    with pytest.raises(ValueError, match="is known to allow research use"):
        enforce(folder, "commercial")


@pytest.mark.parametrize("expression", ["", "MIT AND", "(MIT", "MIT MIT", "OR MIT", "MIT)"])
def test_what_is_no_expression(expression):
    with pytest.raises(ValueError, match="is not an SPDX expression"):
        allowed_use(expression)


def test_misspelled_ids_are_refused():
    assert check_expression("apache-2.0 and mit") == "Apache-2.0 AND MIT"
    assert check_expression("LicenseRef-Grant-7") == "LicenseRef-Grant-7"
    with pytest.raises(ValueError, match=r"'Apache 2' is not an SPDX expression .* write LicenseRef-NAME"):
        check_expression("Apache 2")


# ---- records ----


def test_recording_a_file_and_a_folder(folder):
    assert record_terms(folder / "weights.pt", "MIT", WHERE, WHO, looked_up_on="2026-01-31") == ["weights.pt"]
    standings = {file.file: (file.standing, file.use) for file in rights_of(folder, TODAY)}
    assert standings == {"weights.pt": ("recorded", "commercial"), "vae/vae.safetensors": ("unrecorded", "unknown")}
    record_terms(folder, "CC-BY-NC-4.0", WHERE, WHO)
    assert {file.use for file in rights_of(folder)} == {"research"}
    record = read_records(folder)["vae/vae.safetensors"]
    assert (record.source, record.looked_up_by) == (WHERE, WHO)
    assert record.looked_up_on == datetime.date.today().isoformat()


def test_a_changed_file_voids_its_record(folder):
    record_terms(folder, "MIT", WHERE, WHO)
    (folder / "weights.pt").write_bytes(b"weightz")
    file = next(file for file in rights_of(folder) if file.file == "weights.pt")
    assert (file.standing, file.use) == ("changed", "unknown")
    assert "void because the file has changed" in file.in_words


def test_evidence_of_the_same_name_takes_no_others_place(folder, tmp_path):
    files, grants = (folder / "weights.pt", folder / "vae" / "vae.safetensors"), []
    for number, file in enumerate(files):
        grants.append(tmp_path / str(number) / "grant.txt")
        grants[-1].parent.mkdir()
        grants[-1].write_text(f"grant {number}")
        record_terms(file, f"LicenseRef-{number}", "a contract", WHO, use="commercial", evidence=grants[-1])
    assert [rights.use for rights in rights_of(folder)] == ["commercial"] * 2
    kept = {path.read_text() for path in (folder / "licenses").iterdir()}
    assert kept == {"grant 0", "grant 1"}
    for file, grant in zip(files, grants, strict=True):  # again, and with the copy itself
        record_terms(file, "LicenseRef-2", "a contract", WHO, use="commercial", evidence=grant)
    copy = folder / "licenses" / "grant.txt"
    record_terms(files[0], "LicenseRef-3", "a contract", WHO, use="commercial", evidence=copy)
    assert len(list((folder / "licenses").iterdir())) == 2
    assert [rights.use for rights in rights_of(folder)] == ["commercial"] * 2


def test_evidence_is_kept_and_bound(folder, tmp_path):
    grant = tmp_path / "grant.txt"
    grant.write_text("You may.")
    record_terms(folder, "LicenseRef-Grant", "contract 7", WHO, use="commercial", evidence=grant)
    assert {file.use for file in rights_of(folder)} == {"commercial"}
    (folder / "licenses" / "grant.txt").write_text("You may not.")
    assert {file.standing for file in rights_of(folder)} == {"changed"}
    (folder / "licenses" / "grant.txt").unlink()
    assert {file.use for file in rights_of(folder)} == {"unknown"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"terms": "Apache2"}, "'Apache2' is not an SPDX expression"),
        ({"source": " "}, "source is empty"),
        ({"looked_up_by": ""}, "by is empty"),
        ({"terms": "CC-BY-NC-4.0", "use": "commercial"}, "CC-BY-NC-4.0 is known to allow research use"),
        ({"terms": "LicenseRef-X", "use": "commercial"}, "give a file as evidence"),
        ({"looked_up_on": "31.1.2026"}, "looked_up_on is '31.1.2026'; it must be a day such as 2026-01-31"),
        ({"expires": "soon"}, "expires is 'soon'"),
        (
            {"looked_up_on": "2026-01-31", "expires": "2025-01-31"},
            "expires is 2025-01-31, before 2026-01-31; the record would never be valid",
        ),
        (
            {"expires": "20270101"},
            "expires is '20270101'; it must be a day such as 2026-01-31",
        ),  # sorts after 2027-12-31
        ({"expires": "2027-W01-5"}, "expires is '2027-W01-5'; it must be a day such as 2026-01-31"),
        ({"path": "vae/config.json"}, "is not a weight file"),
        ({"path": "nothing.pt"}, "does not exist"),
    ],
)
def test_bad_records_are_refused_and_nothing_is_written(folder, settings, message):
    arguments = {"terms": "MIT", "source": WHERE, "looked_up_by": WHO, **settings}
    path = folder / arguments.pop("path", "weights.pt")
    with pytest.raises(ValueError, match=message):
        record_terms(path, **arguments)
    assert not (folder / "licenses.json").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "can't be read"),
        ("[]", "it is a list; it should be an object"),
        ('{"format": 9, "files": {}}', "format is 9; it should be 1"),
        (
            '{"format": 1, "files": {"weights.pt": {"terms": "MIT"}}}',
            r"licenses.json: files.weights.pt.sha256 is missing",
        ),
        ('{"format": 1}', "files is missing"),
        ('{"format": 1, "files": {}, "file": {}}', "file is not known; did you mean 'files'?"),
    ],
)
def test_damaged_records_are_refused(folder, content, message):
    (folder / "licenses.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        rights_of(folder)


# ---- the matrix ----

TERMS = {
    "permissive": ("MIT", None),
    "non-commercial": ("CC-BY-NC-4.0", None),
    "unknown": ("LicenseRef-Odd", None),
    "research only, stated": ("LicenseRef-Odd", "research"),
    "granted": ("LicenseRef-Grant", "commercial"),
}
USES = {"permissive": 2, "non-commercial": 1, "unknown": 0, "research only, stated": 1, "granted": 2}
NEEDS = {"any": 0, "research": 1, "commercial": 2}
STATES = ("recorded", "unrecorded", "changed", "expired", "expires today")


@pytest.mark.parametrize(("terms", "state", "policy"), list(itertools.product(TERMS, STATES, NEEDS)))
def test_policy_matrix(folder, tmp_path, terms, state, policy):
    grant = tmp_path / "grant.txt"
    grant.write_text("You may.")
    id_, use = TERMS[terms]
    expires = {"expired": "2026-05-31", "expires today": "2026-06-01"}.get(state)
    if state != "unrecorded":
        record_terms(folder, id_, WHERE, WHO, use=use, expires=expires, evidence=grant, looked_up_on="2026-01-31")
    if state == "changed":
        for name in ("weights.pt", "vae/vae.safetensors"):
            (folder / name).write_bytes(b"other weights")
    allowed = USES[terms] if state in ("recorded", "expires today") else 0
    if allowed >= NEEDS[policy]:
        assert len(enforce(folder, policy, TODAY)) == 2
        return
    with pytest.raises(LicenseError) as error:
        enforce(folder, policy, TODAY)
    message = str(error.value)
    assert message.startswith(f"license policy {policy!r} does not allow {folder}")
    assert f"longlive-rag license record {folder}" in message
    words = {"unrecorded": "unrecorded", "changed": "the file has changed", "expired": "expired on 2026-05-31"}
    assert words.get(state, id_) in message
    assert ("; license policy 'any' loads it whatever its terms. " in message) == (policy == "research")
    assert "\n" not in message


def test_one_bad_file_is_enough(folder):
    record_terms(folder / "weights.pt", "MIT", WHERE, WHO)
    with pytest.raises(LicenseError, match=r"does not allow .*vae\.safetensors; its terms: unrecorded"):
        enforce(folder, "commercial")
    assert [file.use for file in enforce(folder / "weights.pt", "commercial")] == ["commercial"]


def test_where_the_policy_comes_from(monkeypatch, tmp_path):
    assert pick_policy() == "any"
    config = tmp_path / "config" / "longlive-rag" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text('license_policy = "research"\n')
    assert pick_policy() == "research"
    monkeypatch.setenv(settings.POLICY_VARIABLE, "commercial")
    assert pick_policy() == "commercial"
    assert pick_policy("any") == "any"
    monkeypatch.setenv(settings.POLICY_VARIABLE, "Commercial")
    with pytest.raises(ValueError, match=r"LONGLIVE_RAG_LICENSE_POLICY is 'Commercial'; it must be one of any"):
        pick_policy()
    monkeypatch.delenv(settings.POLICY_VARIABLE)
    config.write_text('licence_policy = "research"\n')
    with pytest.raises(ValueError, match="licence_policy is not known; did you mean 'license_policy'"):
        pick_policy()
    config.write_text("license_policy = \n")
    with pytest.raises(ValueError, match=r"config\.toml can't be read"):
        pick_policy()
    config.write_text("license_policy = " + "[" * 5000)
    with pytest.raises(ValueError, match=r"config\.toml can't be read: it is nested too deeply"):
        pick_policy()
    monkeypatch.setenv(settings.CONFIG_VARIABLE, str(tmp_path / "none.toml"))
    with pytest.raises(ValueError, match=r"LONGLIVE_RAG_CONFIG names .*none\.toml, which is not a file"):
        pick_policy()


# ---- records that are derived, and our own ----


def test_converted_files_inherit_all_terms(folder):
    record_terms(folder / "weights.pt", "Apache-2.0", WHERE, WHO, looked_up_on="2026-01-31", expires="2027-01-01")
    record_terms(folder / "vae/vae.safetensors", "CC-BY-NC-4.0", "card", "K", looked_up_on="2026-02-01")
    parents = rights_of(folder, TODAY)
    made = folder.parent / "made"
    made.mkdir()
    for name in ("merged.safetensors", "orphan.safetensors", "plain.safetensors"):
        (made / name).write_bytes(name.encode())
    lone = next(file for file in parents if file.file == "weights.pt")
    gone = next(file for file in rights_of(folder, datetime.date(2028, 1, 1)) if file.file == "weights.pt")
    inherit(made, {"merged.safetensors": parents, "orphan.safetensors": [gone, lone], "plain.safetensors": [lone]})
    merged = read_records(made)["merged.safetensors"]
    assert set(merged.terms.split(" AND ")) == {"Apache-2.0", "CC-BY-NC-4.0"}
    assert (merged.use, merged.looked_up_on, merged.expires) == ("research", "2026-01-31", "2027-01-01")
    assert set(merged.made_from) == {file.sha256 for file in parents}
    assert read_records(made)["plain.safetensors"].use == "commercial"
    standing = {file.file: file.standing for file in rights_of(made, TODAY)}
    assert standing["merged.safetensors"] == "recorded"
    assert (gone.standing, standing["orphan.safetensors"]) == ("expired", "unrecorded")


def test_a_damaged_use_is_refused():
    with pytest.raises(ValueError, match="use is 'all'; it must be one of unknown"):
        LicenseRecord("0", "MIT", "all", WHERE, WHO, "2026-01-31")


def test_a_record_that_claims_more_than_its_terms_is_refused(folder):
    record_terms(folder, "CC-BY-NC-4.0", WHERE, WHO)
    written = (folder / "licenses.json").read_text()
    (folder / "licenses.json").write_text(written.replace('"research"', '"commercial"'))
    with pytest.raises(ValueError, match=r"safetensors: use is 'commercial', but CC-BY-NC-4\.0 is known"):
        enforce(folder, "commercial")


def test_our_own_record(folder):
    write_record(folder, TODAY)
    assert len(enforce(folder, "commercial")) == 2
    assert {record.terms for record in read_records(folder).values()} == {"Apache-2.0"}


@pytest.mark.parametrize("backbone", BUILT_IN)
def test_built_in_backbones_are_cleared_for_commercial_use(backbone):
    """Fails after new weights were put in: then call `longlive_rag.rights.records.write_record(folder)`."""
    if (BUILT_IN[backbone] / "model_index.json").is_file():
        assert enforce(BUILT_IN[backbone], "commercial")


# ---- hashes ----


def test_large_files_are_hashed_once(tmp_path, monkeypatch):
    monkeypatch.setattr(hashing, "REMEMBERED_FROM_BYTES", 4)
    path = tmp_path / "weights.pt"
    path.write_bytes(b"weights")
    digest = sha256(path)
    monkeypatch.setattr(hashing, "_digest", lambda _: "read again")
    assert sha256(path) == digest
    path.write_bytes(b"weightz")
    assert sha256(path) == "read again"
    assert digest in json.loads((tmp_path / "cache" / "longlive-rag" / "hashes.json").read_text()).values()


def test_a_record_round_trip(folder):
    record = LicenseRecord("0", "MIT", "commercial", WHERE, WHO, "2026-01-31", made_from=("1", "2"))
    write_records(folder, {"weights.pt": record})
    assert read_records(folder) == {"weights.pt": record}
