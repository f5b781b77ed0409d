"""The bill of materials of an image: every Python package in it, under which licence, and how large.

python deploy/bill.py FILE   writes it as SPDX and prints it as a table, the largest first
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path

from longlive_rag.rights.bill import spdx_of_installation
from longlive_rag.rights.dependencies import bill_of_materials


def bytes_of(package: Distribution) -> int:
    """Of its files on disk."""
    paths = [Path(str(package.locate_file(file))) for file in package.files or []]
    return sum(path.stat().st_size for path in paths if path.is_file())


def main() -> None:
    """Write the document, print the table."""
    sizes = {package.metadata["Name"].lower(): bytes_of(package) for package in distributions()}
    bill = bill_of_materials(tuple(sizes))
    Path(sys.argv[1]).write_text(json.dumps(spdx_of_installation(bill), indent=2) + "\n", encoding="utf-8")
    for package in sorted(bill, key=lambda package: -sizes[package.name.lower()]):
        mebibytes = sizes[package.name.lower()] / 2**20
        print(f"{mebibytes:9.1f} MiB  {package.name} {package.version}  {package.license}")
    print(f"{sum(sizes.values()) / 2**20:9.1f} MiB  {len(bill)} packages")


if __name__ == "__main__":
    main()
