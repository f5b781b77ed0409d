"""The installed libraries that takes are made with, and their licences."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from typing import TYPE_CHECKING

from longlive_rag.rights.spdx import NO_ASSERTION, allowed_use

if TYPE_CHECKING:
    from packaging.requirements import Requirement

# The run-time dependencies of pyproject.toml (a test compares the two).
RUNTIME = (
    "torch", "diffusers", "transformers", "tokenizers", "accelerate", "safetensors", "huggingface_hub", "faiss-cpu",
    "numpy", "h5py", "click", "tqdm", "av", "pillow", "packaging", "pyyaml", "jinja2", "psutil", "scipy", "pydantic",
)  # fmt: skip

# What packages write instead of an SPDX expression.
PLAIN_WORDS = {
    "Apache": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "ISC License": "ISC",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "NVIDIA Proprietary Software": "LicenseRef-NVIDIA-Proprietary",
    "Python Software Foundation License": "PSF-2.0",
}
# What packages contain besides their own code.
CONTENTS = {
    "av": "published wheels contain FFmpeg (LGPL-3.0-or-later as built there) with libvpx (BSD-3-Clause), and x264 and "
    "x265 (GPL-2.0-or-later); longlive-rag uses libvpx unless told --codec h264",
    "triton": "published wheels contain NVIDIA's ptxas, cuobjdump, nvdisasm, libdevice and CUPTI, under NVIDIA's terms",
}


@dataclass(frozen=True)
class Dependency:
    """An installed library.

    Attributes:
        name, version: as installed.
        license: SPDX expression; NOASSERTION if the package states none that is understood.
        note: what else it contains; empty if nothing is known.
    """

    name: str
    version: str
    license: str
    note: str = ""

    @property
    def fits(self) -> bool:
        """Whether an Apache-2.0 product may depend on it without taking on more than notices and file-level duties."""
        return allowed_use(self.license) == "commercial"


def bill_of_materials(roots: tuple[str, ...] = RUNTIME) -> list[Dependency]:
    """Return `roots` and the installed libraries they need, sorted by name; what isn't installed is left out."""
    from packaging.requirements import Requirement

    found: dict[str, Dependency] = {}
    seen: set[Requirement] = set()
    waiting = [Requirement(root) for root in roots]
    while waiting:
        asked = waiting.pop()
        if asked in seen:
            continue
        seen.add(asked)
        name = _canonical(asked.name)
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue
        version, own = package.version, package.metadata["Name"]
        found[name] = Dependency(own, version, license_of(package), CONTENTS.get(name, ""))
        waiting += _required(package, asked.extras)
    return sorted(found.values(), key=lambda dependency: dependency.name.lower())


def license_of(package: Distribution) -> str:
    """Return the SPDX expression of an installed package, translated from plain words if necessary."""
    metadata = package.metadata
    stated = [*(metadata.get_all("License-Expression") or [None]), *(metadata.get_all("License") or [None])]
    classifiers = [
        line.split("::")[-1].strip() for line in metadata.get_all("Classifier") or [] if "License ::" in line
    ]
    for words in (*stated, *classifiers):
        if not words:
            continue
        expression = PLAIN_WORDS.get(words.strip(), words.strip())
        if _is_expression(expression):
            return expression
    return NO_ASSERTION


def _required(package: Distribution, extras: set[str]) -> list[Requirement]:
    from packaging.requirements import Requirement

    requirements = [Requirement(line) for line in package.requires or []]
    chosen = [{"extra": extra} for extra in ("", *extras)]
    return [each for each in requirements if each.marker is None or any(map(each.marker.evaluate, chosen))]


def _is_expression(words: str) -> bool:
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    try:
        canonicalize_license_expression(words)
    except InvalidLicenseExpression:
        return False
    return True


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
