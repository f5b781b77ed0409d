"""Whether a test goes red when one formula of the evaluator is changed.

`python -m tests.eval.mutations` changes one operator, comparison, constant or mean at a time in the modules of `eval`
that hold formulas, runs the quick tests of tests/eval that see that module, and prints the changes that no test
noticed. `EQUIVALENT` lists those that can't be noticed, with the reason.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import gc
import io
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from copy import copy, deepcopy
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from tqdm import tqdm

ROOT = Path(__file__).parents[2]
HERE = "tests/eval"
LEAST_S = 20  # for a child, beside ten times what the tests take without a change

TESTS: dict[str, tuple[str, ...]] = {
    "windows": ("test_drift.py",),
    "drift": ("test_drift.py",),
    "companions": ("test_companions.py",),
    "statistics": ("test_statistics.py", "test_over_time.py"),
    "traits": ("test_oracle.py",),
    "protocols": ("test_protocols.py",),
    "guardrails": ("test_guardrails.py",),
    "outcomes": ("test_outcomes.py",),
    "metrics": ("test_outcomes.py", "test_companions.py"),
    "recalled": ("test_recalled.py",),
    "oracle": ("test_oracle.py", "test_subject.py"),
    "over_time": ("test_over_time.py",),
    "results": ("test_results.py",),
    "measure": ("test_measure_by_hand.py",),
    "takes": ("test_results.py",),
    "subject": ("test_subject.py",),
}
"""Module of eval to the files of tests that hold it to its formulas."""

SLOW = (
    "test_intervals_cover_what_they_say",
    "test_intervals_are_the_wider",
    "test_sign_flip_is_that_of_scipy",
    "test_sign_flip_is_uniform_under_the_null",
    "test_holm_is_that_of_statsmodels",
    "test_power_in_a_simulation",
    "test_resampling_frames_would_have_lied",
)
"""Simulations that the other tests of their file do without."""

LIBRARIES = (
    "scipy.stats", "scipy.ndimage", "statsmodels.stats.multitest", "statsmodels.stats.weightstats",
    "longlive_rag.pipeline", "longlive_rag.sessions.making", "longlive_rag.takes.writer",
    "longlive_rag.tinyworld.oracle", "longlive_rag.tinyworld.text", "retrieval.encoder",
)  # fmt: skip
"""What the tests import beside eval."""

NOT_FORMULAS = {
    "results": ("Results", "warnings"),
    "takes": ("TakeFigures", "Takes", "_read", "_seconds_a_block", "_rounded"),
}
"""Top-level names that read files or make sentences."""

SWAPPED: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.RShift: ast.LShift,
    ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
COMPARED: dict[type, tuple[type, ...]] = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
}  # fmt: skip
CALLED = {
    "mean": "median", "nanmean": "nanmedian", "median": "mean", "sum": "mean", "std": "var", "min": "max",
    "max": "min", "maximum": "minimum", "minimum": "maximum", "any": "all", "all": "any", "floor": "ceil",
    "ceil": "floor",
}  # fmt: skip
IN_NUMPY = ("mean", "median", "sum", "std")  # methods of arrays become functions, since arrays have no median


EQUIVALENT: dict[str, dict[str, tuple[str, ...]]] = {
    "how exactly what is drawn, and not computed from, is published": {"takes": ("6 -> 7", "6 -> 12")},
    "a tolerance for rounding, or what lies exactly on one": {
        "windows": (
            "1e-06 -> 2e-06",
            "seconds >= start - TOLERANCE_S -> seconds > start - TOLERANCE_S",
            "seconds < end - TOLERANCE_S -> seconds <= end - TOLERANCE_S",
        ),
        "drift": ("seconds / step_s + 1e-06 -> seconds / step_s + 2e-06",),
        "measure": ("fps + 1e-06 -> fps + 2e-06",),
        "outcomes": ("each.end_s <= end_s -> each.end_s < end_s",),
        "statistics": (
            "size <= TIE * max(1.0, size.max()) -> size < TIE * max(1.0, size.max())",
            "np.ptp(values) <= TIE * max(1.0, abs(mean)) -> np.ptp(values) < TIE * max(1.0, abs(mean))",
            "errors > TIE * np.abs(values).max() -> errors >= TIE * np.abs(values).max()",
            "1e-12 * np.abs(values).sum() -> 2e-12 * np.abs(values).sum()",
            "np.abs(values).sum() -> np.mean(np.abs(values))",
        ),
        "companions": (
            "seconds <= second - REPEAT_AFTER_S + TOLERANCE_S -> seconds < second - REPEAT_AFTER_S + TOLERANCE_S",
            "apart.min() < SAME_PICTURE_RMS ** 2 -> apart.min() <= SAME_PICTURE_RMS ** 2",
            "apart[place] < NOISY_PICTURE_RMS ** 2 -> apart[place] <= NOISY_PICTURE_RMS ** 2",
            "np.abs(rows[chosen] - rows[frames[place]]).max() < NOISY_CELL -> "
            "np.abs(rows[chosen] - rows[frames[place]]).max() <= NOISY_CELL",
        ),
    },
    "weights of one sign are shares all the same": {
        "outcomes": ("each.end_s - each.start_s -> each.start_s - each.end_s",),
    },
    "the absolute value is taken": {
        "subject": ("luma - self._last[0] -> self._last[0] - luma",),
        "companions": (
            "luma - (luma if self._last is None else self._last) -> "
            "(luma if self._last is None else self._last) - luma",
            "last.mean() - first.mean() -> first.mean() - last.mean()",
            "rows[chosen] - rows[frames[place]] -> rows[frames[place]] - rows[chosen]",
            "around / 4 - middle -> middle - around / 4",
        ),
        "protocols": (
            "np.nanmean(values[:count]) - np.nanmean(values[-count:]) -> "
            "np.nanmean(values[-count:]) - np.nanmean(values[:count])",
            "means[1:] - means[0] -> means[0] - means[1:]",
        ),
    },
    "a unit row is unknown as a whole": {
        "drift": ("np.isnan(rows[first]).any(axis=1) -> np.isnan(rows[first]).all(axis=1)",),
    },
    "takes of one comparison have the same seconds, measured by the same embedders": {
        "over_time": ("curves[0] -> curves[1]", "all_curves[0] -> all_curves[1]"),
    },
    "nothing divided by nothing is no number": {
        "over_time": ("counts > 0 -> counts >= 0",),
        "statistics": ("numbers > 0 -> numbers >= 0", "numbers > 1 -> numbers >= 1"),
    },
    "the square is taken": {"statistics": ("values - mean -> mean - values",)},
    "the same draws, in other portions": {"statistics": ("1000 -> 1001",)},
    "all signs are the other way round, and sizes of sums are the same": {
        "statistics": (
            "1 - 2 * patterns -> 2 * patterns - 1",
            "heads * 2 - 1 -> 1 - heads * 2",
        ),
    },
    "a difference of 0 is a tie": {"statistics": ("values < 0 -> values <= 0",)},
    "only the first two are read": {"traits": ("values.most_common(2) -> values.most_common(3)",)},
    "an interval without zero has no mean of zero": {"results": ("p.mean > 0 -> p.mean >= 0",)},
    "a video of two frames is too short anyway": {
        "companions": ("max(1, len(seconds) - 1) -> max(2, len(seconds) - 1)",),
    },
    "products that nobody reads": {"companions": ("frames.max() + 1 -> frames.max() + 2",)},
    "the only frame is the first, whatever it is divided by": {
        "companions": ("max(1, len(steps)) -> max(2, len(steps))",),
    },
    "the shorter side has more pixels": {
        "companions": (
            "max(1, round(picture.width * scale)) -> max(2, round(picture.width * scale))",
            "max(1, round(picture.height * scale)) -> max(2, round(picture.height * scale))",
        ),
    },
    "as many frames as a clip are one clip, either way": {
        "protocols": ("frames < clip_frames -> frames <= clip_frames",),
    },
}
"""Reason to module to the changes that no test can notice."""


@dataclass(frozen=True)
class Mutation:
    """One change of one module.

    Attributes:
        module: of eval.
        function: the function or method that holds it; empty at the top level of the module.
        line: where it is.
        text: that line, stripped.
        before, after: the changed expression.
    """

    module: str
    function: str
    line: int
    text: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"eval/{self.module}.py:{self.line}, {self.before} -> {self.after}"

    @property
    def is_equivalent(self) -> bool:
        """Whether it is on record as one that can't be noticed."""
        change = f"{self.before} -> {self.after}"
        return any(change in changes.get(self.module, ()) for changes in EQUIVALENT.values())


def path_of(module: str) -> Path:
    """A module's source."""
    return ROOT / "eval" / f"{module}.py"


def mutations(module: str) -> list[tuple[Mutation, ast.Module]]:
    """Every change of a module, with the changed tree."""
    source = path_of(module).read_text()
    lines, tree = source.splitlines(), ast.parse(source)
    found = []
    for name, part in _parts(tree):
        if name.partition(".")[0] in NOT_FORMULAS.get(module, ()):
            continue
        for place, (node, shown_in) in enumerate(_formulas(part)):
            for changed in _changes(node):
                changed_part = deepcopy(part)
                target, target_in = list(_formulas(changed_part))[place]
                _replace(changed_part, target, changed)
                after = ast.unparse(ast.fix_missing_locations(changed) if target is target_in else target_in)
                text = lines[node.lineno - 1].strip()
                mutation = Mutation(module, name, node.lineno, text, ast.unparse(shown_in), after)
                found.append((mutation, _with(tree, part, ast.fix_missing_locations(changed_part))))
    return found


def _parts(tree: ast.Module) -> list[tuple[str, ast.stmt]]:
    """Statements of a module, and of its classes, with the name of the function that they are, if any."""
    found = []
    for top in tree.body:
        name = getattr(top, "name", "")
        if isinstance(top, ast.ClassDef):
            found += [(f"{name}.{getattr(each, 'name', '')}", each) for each in top.body]
        else:
            found.append((name, top))
    return found


def _with(tree: ast.Module, part: ast.stmt, changed: ast.stmt) -> ast.Module:
    """A tree with one of its parts exchanged; it shares all others."""

    def exchanged(node: Any) -> Any:
        node = copy(node)
        node.body = [changed if each is part else each for each in node.body]
        return node

    whole: ast.Module = exchanged(tree)
    whole.body = [exchanged(top) if isinstance(top, ast.ClassDef) else top for top in whole.body]
    return whole


def _formulas(node: ast.AST, shown_in: ast.expr | None = None) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Expressions below a node, but for annotations, texts, messages and assertions; and where each is best shown."""
    if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr | ast.Import | ast.ImportFrom):
        return
    if isinstance(node, ast.keyword) and node.arg == "strict":
        return
    if isinstance(node, ast.expr):
        is_small = isinstance(node, ast.Constant | ast.UnaryOp | ast.Slice | ast.Tuple)
        shown_in = shown_in if is_small and shown_in is not None else node
        yield node, shown_in
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "bases"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _formulas(child, shown_in)


def _changes(node: ast.expr) -> Iterator[ast.expr]:
    match node:
        case ast.BinOp(left, op, right) if type(op) in SWAPPED and not _is_no_arithmetic(node):
            yield ast.BinOp(left, SWAPPED[type(op)](), right)
            if isinstance(op, ast.Sub):
                yield ast.BinOp(right, op, left)
        case ast.Compare(left, ops, comparators):
            for place, op in enumerate(ops):
                for other in COMPARED[type(op)]:
                    yield ast.Compare(left, [*ops[:place], other(), *ops[place + 1 :]], comparators)
        case ast.BoolOp(op, values):
            yield ast.BoolOp(SWAPPED[type(op)](), values)
        case ast.UnaryOp(ast.Not() | ast.USub() | ast.Invert(), operand):
            yield operand
        case ast.Constant(bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(int() as value):
            yield ast.Constant(value + 1)
        case ast.Constant(float() as value):
            yield ast.Constant(2 * value or 1.0)
        case ast.Call(ast.Name("abs") | ast.Attribute(ast.Name("np"), "abs"), [argument]):
            yield argument
        case ast.Call(ast.Attribute(of, name), arguments, keywords) if name in CALLED:
            if name in IN_NUMPY and not (isinstance(of, ast.Name) and of.id == "np"):
                of, arguments = ast.Name("np", ast.Load()), [of, *arguments]
            yield ast.Call(ast.Attribute(of, CALLED[name], ast.Load()), arguments, keywords)
        case ast.Call(ast.Name(name), arguments, keywords) if name in ("min", "max", "any", "all"):
            yield ast.Call(ast.Name(CALLED[name], ast.Load()), arguments, keywords)


def _is_no_arithmetic(node: ast.BinOp) -> bool:
    """Texts that are joined, types and dictionaries that are united."""
    sides = (node.left, node.right)
    texts = any(isinstance(side, ast.JoinedStr) or isinstance(getattr(side, "value", None), str) for side in sides)
    types = isinstance(node.op, ast.BitOr) and all(isinstance(side, ast.Name | ast.Constant) for side in sides)
    return texts or types


def _replace(tree: ast.AST, target: ast.expr, changed: ast.expr) -> None:
    class Replacer(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> ast.AST:
            return deepcopy(changed) if node is target else self.generic_visit(node)

    Replacer().visit(tree)


class Served(MetaPathFinder, Loader):
    """Imports one module of eval from a changed tree."""

    def __init__(self, module: str, tree: ast.Module) -> None:
        self._name, self._path, self._tree = f"eval.{module}", str(path_of(module)), tree

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return spec_from_loader(name, self, origin=self._path) if name == self._name else None

    def exec_module(self, module: ModuleType) -> None:
        module.__file__ = self._path
        module.__dict__["np"] = np
        exec(compile(self._tree, self._path, "exec"), module.__dict__)


def load_libraries() -> None:
    """What all tests import, and nothing of eval: children begin with it."""
    for name in LIBRARIES:
        import_module(name)
    with contextlib.redirect_stdout(io.StringIO()):
        pytest.main(["--version"])  # it imports its plugins

    @hypothesis.given(hypothesis.strategies.floats(0, 1))
    @hypothesis.settings(max_examples=1, database=None)
    def look_for_constants(value: float) -> None:
        """Hypothesis reads the sources of all that is loaded, once."""

    look_for_constants()
    torch.set_num_threads(1)
    assert not any(name.startswith("eval.") for name in sys.modules)
    gc.collect()
    gc.freeze()


def start(module: str, tree: ast.Module, limit_s: float) -> int:
    """Run a module's tests in a child, on a tree of it; gives its process id."""
    child = os.fork()
    if child:
        return child
    code = int(pytest.ExitCode.INTERNAL_ERROR)
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, limit_s)
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        sys.meta_path.insert(0, Served(module, tree))
        names = [f"{HERE}/{file}" for file in TESTS[module]]
        left_out = " and ".join(f"not {name}" for name in SLOW)
        said = ("-q", "--tb=no", "-p", "no:cacheprovider", "-p", "no:unraisableexception")
        code = int(pytest.main([*names, "-x", *said, "-m", "not slow", "-k", left_out]))
    finally:
        os._exit(code)


def is_killed(status: int) -> bool:
    """Whether a child's tests were red, by its wait status: they failed, could not be imported, or ended it.

    Raises:
        RuntimeError: if no test ran.
    """
    code = os.waitstatus_to_exitcode(status)
    if code in (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise RuntimeError(f"pytest found nothing to run ({code!r})")
    return code != pytest.ExitCode.OK


def check_green(modules: Sequence[str]) -> dict[str, float]:
    """Seconds that the tests of each module take as it is.

    Raises:
        RuntimeError: if they are red.
    """
    limits = {}
    for module in modules:
        begun = time.monotonic()
        if is_killed(os.waitpid(start(module, ast.parse(path_of(module).read_text()), 600), 0)[1]):
            raise RuntimeError(f"the tests of eval/{module}.py are red without a change: {' '.join(TESTS[module])}")
        limits[module] = time.monotonic() - begun
    return limits


def survivors(
    chosen: Sequence[tuple[Mutation, ast.Module]], taken_s: dict[str, float], jobs: int = 1
) -> list[Mutation]:
    """The changes that no test notices, in the order given; `taken_s` is of `check_green`."""
    running: dict[int, Mutation] = {}
    survived: set[Mutation] = set()
    with tqdm(total=len(chosen), unit="change") as bar:
        todo = iter(chosen)
        while True:
            while len(running) < jobs and (next_one := next(todo, None)):
                each, tree = next_one
                running[start(each.module, tree, LEAST_S + 10 * taken_s[each.module])] = each
            if not running:
                break
            child, status = os.wait()
            each = running.pop(child)
            if not is_killed(status):
                survived.add(each)
                bar.write(f"survived: {each}", file=sys.stderr)
            bar.update()
    return [each for each, _ in chosen if each in survived]


def one_a_function(chosen: Sequence[tuple[Mutation, ast.Module]]) -> list[tuple[Mutation, ast.Module]]:
    """The first change of each function or class that can be noticed."""
    first: dict[tuple[str, str], tuple[Mutation, ast.Module]] = {}
    for each in chosen:
        if not each[0].is_equivalent:
            first.setdefault((each[0].module, each[0].function), each)
    return list(first.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--module", action="append", choices=TESTS, help="only this one; can be given more than once")
    parser.add_argument("--sample", "--limit", type=int, metavar="N", help="only so many changes, drawn by chance")
    parser.add_argument("--one-a-function", action="store_true", help="only the first change of each function")
    parser.add_argument("--seed", type=int, default=0, help="of --sample")
    parser.add_argument("--jobs", type=int, default=1, help="children at a time")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")
    given = parser.parse_args()
    modules = given.module or list(TESTS)
    everything = [each for module in modules for each in mutations(module)]
    chosen = one_a_function(everything) if given.one_a_function else everything
    if given.sample is not None and given.sample < len(chosen):
        chosen = random.Random(given.seed).sample(chosen, given.sample)
    equivalent = [each for each, _ in chosen if each.is_equivalent]
    tested = [pair for pair in chosen if not pair[0].is_equivalent]
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = folder
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # no test here needs one
        load_libraries()
        green_s = check_green(modules)
        survived = survivors(tested, green_s, given.jobs)
    rows = {
        module: {
            "mutants": sum(each.module == module for each, _ in chosen),
            "equivalent": sum(each.module == module for each in equivalent),
            "survived": sum(each.module == module for each in survived),
        }
        for module in modules
    }
    if given.json:
        tried = [asdict(each) for each, _ in tested]
        outcome = {"modules": rows, "green_s": green_s, "tested": tried, "survived": list(map(asdict, survived))}
        print(json.dumps(outcome))
    else:
        report(rows, survived)
    return 1 if survived else 0


def report(rows: dict[str, dict[str, int]], survived: Sequence[Mutation]) -> None:
    """Print the survivors, and a line a module."""
    for each in survived:
        print(f"{each}\n    {each.text}")
    rows = {
        **rows,
        "all": {name: sum(row[name] for row in rows.values()) for name in ("mutants", "equivalent", "survived")},
    }
    print(f"{'module':12} {'mutants':>8} {'killed':>8} {'equivalent':>11} {'survived':>9}")
    for module, row in rows.items():
        killed = row["mutants"] - row["equivalent"] - row["survived"]
        print(f"{module:12} {row['mutants']:8} {killed:8} {row['equivalent']:11} {row['survived']:9}")


if __name__ == "__main__":
    sys.exit(main())
