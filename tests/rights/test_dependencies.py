"""What the project depends on fits a product under Apache-2.0."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import Distribution
from pathlib import Path

import pytest

from longlive_rag.media.video import CODECS
from longlive_rag.rights.dependencies import RUNTIME, Dependency, bill_of_materials, license_of

ROOT = Path(__file__).parents[2]


def required(group: list[str]) -> set[str]:
    return {re.split(r"[<>=!~ \[]", line)[0] for line in group}


def test_the_runtime_libraries_are_those_of_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(RUNTIME) == required(project["dependencies"])


def test_every_dependency_fits_an_apache_product():
    libraries = bill_of_materials()
    names = {library.name.lower() for library in libraries}
    assert {"torch", "diffusers", "transformers", "av", "regex"} <= names  # the tree, not only its roots
    assert [f"{library.name}: {library.license}" for library in libraries if not library.fits] == []


@pytest.mark.parametrize(
    ("license_", "fits"),
    [("MIT", True), ("MPL-2.0", True), ("GPL-3.0-only", False), ("AGPL-3.0-only OR MIT", True), ("NOASSERTION", False),
     ("CC-BY-NC-4.0", False), ("MIT AND LGPL-2.1-only", False)],
)  # fmt: skip
def test_what_fits(license_, fits):
    assert Dependency("x", "1", license_).fits is fits


class Package(Distribution):
    """A package with some metadata."""

    def __init__(self, *lines: str) -> None:
        self.lines = lines

    def read_text(self, filename: str) -> str | None:
        return (
            "\n".join(("Metadata-Version: 2.4", "Name: x", "Version: 1", *self.lines)) if "META" in filename else None
        )

    def locate_file(self, path: object) -> Path:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("lines", "expression"),
    [
        (["License-Expression: MIT AND BSD-3-Clause"], "MIT AND BSD-3-Clause"),
        (["License: Apache 2.0 License"], "Apache-2.0"),
        (["Classifier: License :: OSI Approved :: ISC License (ISCL)"], "ISC"),
        (["License: NVIDIA Proprietary Software"], "LicenseRef-NVIDIA-Proprietary"),
        (["License: whatever we like"], "NOASSERTION"),
        ([], "NOASSERTION"),
    ],
)
def test_what_packages_say(lines, expression):
    assert license_of(Package(*lines)) == expression


def test_the_extras_that_a_package_asks_for_are_followed(tmp_path, monkeypatch):
    """As torch's build with CUDA asks for cuda-toolkit[cublas,cufft,...]."""
    needs = {
        "asking": ["Requires-Dist: bundle[fast]", "Requires-Dist: bundle"],
        "bundle": ["Requires-Dist: quick; extra == 'fast'", "Requires-Dist: pretty; extra == 'nice'"],
        "quick": ["License: NVIDIA Proprietary Software"],
        "pretty": [],
    }
    for name, lines in needs.items():
        folder = tmp_path / f"{name}-1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("\n".join(("Metadata-Version: 2.4", f"Name: {name}", "Version: 1", *lines)))
    monkeypatch.syspath_prepend(tmp_path)
    bill = bill_of_materials(("asking",))
    assert [library.name for library in bill] == ["asking", "bundle", "quick"]
    assert (bill[-1].license, bill[-1].fits) == ("LicenseRef-NVIDIA-Proprietary", False)


def test_the_default_encoder_has_no_copyleft():
    assert CODECS["vp9"].license == "BSD-3-Clause"


def test_notice_names_every_direct_dependency():
    notice = (ROOT / "NOTICE").read_text()
    assert [name for name in RUNTIME if not re.search(rf"^  {name}\b", notice, re.MULTILINE)] == []
