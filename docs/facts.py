"""Facts about the shape of the code, counted in the tree itself; decision 0007 quotes them.

python docs/facts.py        prints all of them, and fails if one is not as it must be
python docs/facts.py TREE   prints the lines of code of another tree, such as an old commit's
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("backbone", "retrieval", "longlive_rag", "eval")
MOST_ENTRIES = 20
FIRST_HOP = "LongLiveRAGPipeline.stream"
ROW = re.compile(r"^\| `(?P<name>[\w.]+)`.* \| (?P<where>.*) \|$", re.MULTILINE)


def entries() -> list[str]:
    """Modules and packages directly in longlive_rag/."""
    found = (ROOT / "longlive_rag").iterdir()
    modules = {path.stem for path in found if path.suffix == ".py"} - {"__init__", "__main__"}
    return sorted(modules | {path.parent.name for path in (ROOT / "longlive_rag").glob("*/__init__.py")})


def click_imports() -> list[str]:
    """`FILE:LINE` of imports of click outside longlive_rag/cli/."""
    return [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        if ROOT / "longlive_rag" / "cli" not in path.parents
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if any(name.split(".")[0] == "click" for name in _imported(node))
    ]


def hops() -> list[tuple[str, str]]:
    """(function, file) from `stream` to the attention call, as docs/design.md lists them."""
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    rows = [(row["name"], row["where"]) for row in ROW.finditer(text[text.index(f"| `{FIRST_HOP}`") :])]
    return [(name, where.split("`")[1]) for name, where in rows]


def missing_hops() -> list[str]:
    """Those whose function is not in its file."""
    return [f"{name} in {file}" for name, file in hops() if not _defines(ROOT / file, name)]


def lines(folder: Path) -> tuple[int, int]:
    """All lines of the Python files in a folder, and those that are neither blank nor a comment alone."""
    texts = [line.strip() for path in folder.rglob("*.py") for line in path.read_text(encoding="utf-8").splitlines()]
    return len(texts), sum(bool(text) and not text.startswith("#") for text in texts)


def line_table(root: Path) -> str:
    """Lines by package, the sum, and those of tests."""
    counts = {package: lines(root / package) for package in PACKAGES}
    counts["together"] = (sum(count for count, _ in counts.values()), sum(code for _, code in counts.values()))
    counts["tests"] = lines(root / "tests")
    rows = [f"{name:<14}{count:>8,}{code:>10,}" for name, (count, code) in counts.items()]
    return "\n".join([f"{'':<14}{'lines':>8}{'of code':>10}", *rows])


def main() -> None:
    """Print the facts; exit code 1 if one that must hold does not."""
    if len(sys.argv) > 1:
        print(line_table(Path(sys.argv[1])))
        return
    inside, click, steps, missing = entries(), click_imports(), hops(), missing_hops()
    contracts = _last_line(f"{Path(sys.executable).parent}/lint-imports", "--no-cache")
    print(f"entries in longlive_rag/: {len(inside)} (at most {MOST_ENTRIES}): {', '.join(inside)}")
    print(f"imports against the contracts: {contracts}")
    print(f"imports of click outside cli/: {len(click)} {' '.join(click)}".rstrip())
    print(f"hops from stream to attention: {len(steps) - 1}: {' > '.join(name for name, _ in steps)}")
    print(f"functions not where docs/design.md says: {len(missing)} {', '.join(missing)}".rstrip())
    print(f"tests: {_last_line(sys.executable, '-m', 'pytest', '--collect-only', '-q')}")
    print(line_table(ROOT))
    sys.exit(len(inside) > MOST_ENTRIES or bool(click) or bool(missing) or " 0 broken" not in contracts)


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []


def _defines(path: Path, name: str) -> bool:
    """Whether a file has a function of this name; `Class.function` is looked for in its class."""
    *classes, function = name.split(".")
    tree: ast.AST = ast.parse(path.read_text(encoding="utf-8"))
    for wanted in classes:
        found = [node for node in _inside(tree) if isinstance(node, ast.ClassDef) and node.name == wanted]
        if not found:
            return False
        tree = found[0]
    return any(isinstance(node, ast.FunctionDef) and node.name == function for node in _inside(tree))


def _inside(tree: ast.AST) -> Iterator[ast.AST]:
    return (node for node in ast.walk(tree) if node is not tree)


def _last_line(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    said = [line for line in done.stdout.splitlines() if line.strip()]
    return said[-1].strip(" =") if said else done.stderr.strip()


if __name__ == "__main__":
    main()
