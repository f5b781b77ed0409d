"""The bill of materials of an image: every Python package in it, under which licence, and how large.

python deploy/bill.py FILE   writes it as SPDX and prints it as a table, the largest first

Fails if a package is not the one that deploy/lock.txt names: the same image could not be built again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.utils import canonicalize_name
from packaging.version import Version

from longlive_rag.rights.bill import spdx_of_installation
from longlive_rag.rights.dependencies import Dependency, bill_of_materials

LOCK = Path(__file__).with_name("lock.txt")


def bytes_of(package: Distribution) -> int:
    """Of its files on disk."""
    paths = [Path(str(package.locate_file(file))) for file in package.files or []]
    return sum(path.stat().st_size for path in paths if path.is_file())


def not_locked(bill: Sequence[Dependency]) -> list[str]:
    """Packages, other than longlive-rag, whose version is not the one in the lock file, whatever the build."""
    locked = set(LOCK.read_text(encoding="utf-8").splitlines())
    pins = {f"{canonicalize_name(each.name)}=={Version(each.version).public}" for each in bill}
    return sorted(pin for pin in pins - locked if not pin.startswith("longlive-rag=="))


def main() -> None:
    """Write the document, print the table."""
    sizes = {package.metadata["Name"].lower(): bytes_of(package) for package in distributions()}
    bill = bill_of_materials(tuple(sizes))
    Path(sys.argv[1]).write_text(json.dumps(spdx_of_installation(bill), indent=2) + "\n", encoding="utf-8")
    for package in sorted(bill, key=lambda package: -sizes[package.name.lower()]):
        mebibytes = sizes[package.name.lower()] / 2**20
        print(f"{mebibytes:9.1f} MiB  {package.name} {package.version}  {package.license}")
    print(f"{sum(sizes.values()) / 2**20:9.1f} MiB  {len(bill)} packages")
    if unpinned := not_locked(bill):
        sys.exit(f"not in {LOCK.name}: {', '.join(unpinned)}; write it again with deploy/lock.py")


if __name__ == "__main__":
    main()
