"""What images are built from: the versions, as installed here, of all that longlive-rag and its extras need.

    python deploy/lock.py          writes deploy/lock.txt
    python deploy/lock.py --check  fails if what is needed has no version there, or one that somebody refuses

Run it in an environment in which all tests pass. What only torch's build with CUDA needs isn't installed there: pip is
asked for it, which installs nothing. So write it on Linux, with a pip that finds the package index's torch.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from tempfile import NamedTemporaryFile

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "deploy" / "lock.txt"
EXTRAS = ("studio", "eval", "ray", "mcp")
HEAD = "# Made by deploy/lock.py. Torch is without its build: whether for CPU or CUDA is chosen by the Dockerfile.\n"
HEAD_CUDA = "# With CUDA, torch needs these too:\n"


def required() -> list[Requirement]:
    """What the package and the extras of images ask for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *(line for extra in EXTRAS for line in extras[extra])]
    return [Requirement(line) for line in lines]


def all_required() -> Iterator[Requirement]:
    """What is required in turn, as installed here; a package may come more than once.

    Raises:
        PackageNotFoundError: if one isn't installed here.
    """
    waiting = required()
    seen: set[str] = set()
    while waiting:
        asked = waiting.pop()
        yield asked
        if str(asked) in seen:
            continue
        seen.add(str(asked))
        for line in distribution(asked.name).requires or []:
            each = Requirement(line)
            if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in ("", *asked.extras)):
                waiting.append(each)


def installed() -> dict[str, str]:
    """Versions by name of all that is required, without the build."""
    names = {canonicalize_name(asked.name) for asked in all_required()}
    return {name: Version(distribution(name).version).public for name in sorted(names)}


def for_cuda(versions: dict[str, str]) -> dict[str, str]:
    """Versions by name of what torch's build with CUDA needs beside `versions`, as pip would choose them now.

    Raises:
        ValueError: if the torch that pip finds is not built with CUDA.
        subprocess.CalledProcessError: if pip fails; it has said why.
    """
    asked = ["--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    with NamedTemporaryFile("w", suffix=".txt") as constraints:
        constraints.write(pins(versions))
        constraints.flush()
        command = [sys.executable, "-m", "pip", "install", *asked, "--constraint", constraints.name, "torch"]
        pip = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    chosen = [each["metadata"] for each in json.loads(pip.stdout)["install"]]
    names = {canonicalize_name(each["name"]): Version(each["version"]).public for each in chosen}
    if not any(name.startswith("nvidia-") for name in names):
        (torch,) = (each["version"] for each in chosen if each["name"] == "torch")
        raise ValueError(f"pip finds torch {torch}, a build without CUDA; let it find the package index's, on Linux")
    return {name: names[name] for name in sorted(names.keys() - versions.keys())}


def pins(versions: dict[str, str]) -> str:
    """Lines of the lock file."""
    return "".join(f"{name}=={version}\n" for name, version in versions.items())


def locked() -> dict[str, str]:
    """Versions by name in the lock file."""
    lines = [line for line in LOCK.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    return dict(line.split("==") for line in lines)


def problems() -> list[str]:
    """What the lock file lacks, and which of its versions somebody refuses."""
    versions, found = locked(), []
    for asked in all_required():
        version = versions.get(canonicalize_name(asked.name))
        if version is None:
            found.append(f"{asked.name} has no version")
        elif not asked.specifier.contains(version, prereleases=True):
            found.append(f"{asked.name} is {version}, but {asked} is required")
    return sorted(set(found))


def main() -> None:
    """Write the lock file, or check it."""
    try:
        if "--check" not in sys.argv:
            versions = installed()
            LOCK.write_text(HEAD + pins(versions) + HEAD_CUDA + pins(for_cuda(versions)), encoding="utf-8")
        found = problems()
    except PackageNotFoundError as error:
        sys.exit(f"{error.name} is not installed here, so its version is not known")
    except (ValueError, subprocess.CalledProcessError) as error:
        sys.exit(f"deploy/lock.txt has no versions for CUDA: {error}")
    if found:
        sys.exit(f"deploy/lock.txt: {'; '.join(found)}")


if __name__ == "__main__":
    main()
