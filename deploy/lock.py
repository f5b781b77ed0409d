"""What images are built from: the versions, as installed here, of all that longlive-rag and its extras need.

    python deploy/lock.py          writes deploy/lock.txt
    python deploy/lock.py --check  fails if something that is needed has no version there

Run it in an environment in which all tests pass.
"""

from __future__ import annotations

import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "deploy" / "lock.txt"
EXTRAS = ("studio", "eval", "ray", "mcp")
HEAD = "# Made by deploy/lock.py. Torch is without its build: whether for CPU or CUDA is chosen by the Dockerfile.\n"


def required() -> list[Requirement]:
    """What the package and the extras of images ask for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *(line for extra in EXTRAS for line in extras[extra])]
    return [Requirement(line) for line in lines]


def installed(requirements: list[Requirement]) -> dict[str, str]:
    """Versions by name of all that they need in turn.

    Raises:
        PackageNotFoundError: if one isn't installed here.
    """
    found: dict[str, str] = {}
    waiting = [(each.name, frozenset(each.extras)) for each in requirements]
    seen = set()
    while waiting:
        name, extras = asked = waiting.pop()
        if asked in seen:
            continue
        seen.add(asked)
        package = distribution(name)
        found[canonicalize_name(name)] = Version(package.version).public
        for line in package.requires or []:
            each = Requirement(line)
            if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                waiting.append((each.name, frozenset(each.extras)))
    return found


def locked() -> dict[str, str]:
    """Versions by name in the lock file."""
    lines = [line for line in LOCK.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    return dict(line.split("==") for line in lines)


def missing() -> list[str]:
    """What is needed here and has no version in the lock file."""
    return sorted(installed(required()).keys() - locked().keys())


def main() -> None:
    """Write the lock file, or check it."""
    try:
        if "--check" in sys.argv:
            without = missing()
            sys.exit(f"deploy/lock.txt lacks {', '.join(without)}; run: python deploy/lock.py" if without else 0)
        versions = installed(required())
    except PackageNotFoundError as error:
        sys.exit(f"{error.name} is not installed here, so its version is not known")
    LOCK.write_text(HEAD + "".join(f"{name}=={versions[name]}\n" for name in sorted(versions)), encoding="utf-8")


if __name__ == "__main__":
    main()
