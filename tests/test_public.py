"""The house: which names are public, who may import whom, and that no test is empty."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import allot

ROOT = Path(__file__).parents[1]
HOUSE = ROOT / "allot"
PUBLIC = """
    AXES AllotError Artefact Axis Bank Data Effort Front Graph Ideal InputError JobError Measured
    NotCertified OnnxRuntime OpenVino Option Outcome Part Plan Report Space Statement Table Target
    Task Workload calibrate compress deploy fixed_sequence load network precision split state
    state_agreement to_onnx trace width
""".split()
# what a helper that asserts is called
HELPERS = ("assert_", "same_", "holds_", "check", "keeps_", "repeats_")
NOUNS = set("errors files part processor site option space table plan front target task".split())
ROOMS = set("num options sampling solve harm families runtimes report builtin recipes cli".split())
# libraries that only the one room that needs them imports, and not when it is imported
OPTIONAL = ("onnx", "onnxruntime", "openvino", "onnxscript", "onnx_ir", "sklearn")


def trees(folder: Path) -> Iterator[tuple[Path, ast.Module]]:
    for file in sorted(folder.rglob("*.py")):
        yield file, ast.parse(file.read_text())


def imported(tree: ast.AST) -> Iterator[str]:
    """Dotted names of what a tree imports; `from allot import x` is allot.x."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = node.module == "allot"
            yield from (f"allot.{a.name}" for a in node.names) if whole else (node.module,)


def room(name: str) -> str:
    """The room of a module: a folder of the house, else "noun" or "verb" ("" outside)."""
    parts = name.split(".")
    if parts[0] != "allot" or len(parts) < 2:
        return ""
    return parts[1] if parts[1] in ROOMS else "noun" if parts[1] in NOUNS else "verb"


ALLOWED = {
    "noun": {"noun", "num"},
    "num": {"num"},
    "options": {"options", "sampling", "noun", "num"},
    "sampling": {"sampling", "options", "noun", "num"},
    "solve": {"solve", "noun", "num"},
    "runtimes": {"runtimes", "noun", "num"},
    "report": {"report", "noun"},
    "harm": {"harm", "verb", "noun", "num", "options", "sampling", "solve"},
    "families": {"families", "verb", "noun", "num", "options", "sampling"},
    "builtin": {"builtin", "noun"},
    "verb": set("verb noun num options sampling solve harm report builtin".split()),
    "recipes": set("recipes verb noun num options sampling solve harm".split()),
    "cli": set("cli verb noun num options solve report families runtimes builtin recipes".split()),
}


def strays(here: str, tree: ast.AST) -> set[str]:
    """What a module imports that its room may not."""
    allowed = ALLOWED[room(here)]
    names = {n for n in imported(tree) if room(n) and room(n) not in allowed}
    return names - ({"allot.part", "allot.errors"} if room(here) == "num" else set())


def test_the_public_names_are_these_and_at_most_forty() -> None:
    tree = ast.parse((HOUSE / "__init__.py").read_text())
    exported = {
        a.asname for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)
        for a in n.names if a.asname == a.name
    }  # fmt: skip
    made = {
        t.id
        for n in tree.body
        if isinstance(n, ast.Assign | ast.AnnAssign)
        for t in ast.walk(n)
        if isinstance(t, ast.Name) and isinstance(t.ctx, ast.Store)
    }
    made |= {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}
    assert exported | {n for n in made if not n.startswith("_")} == set(PUBLIC)
    assert set(PUBLIC) <= set(vars(allot)) and len(PUBLIC) <= 40


def test_every_public_name_says_what_it_is() -> None:
    told = [n for n in PUBLIC if n not in ("AXES", "Axis", "Report")]
    assert all((getattr(allot, n).__doc__ or "").strip() for n in told)


def test_importing_allot_imports_no_optional_library() -> None:
    code = "import sys, allot, allot.cli; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    loaded = set(done.stdout.split())
    assert "torch" in loaded, done.stderr
    assert not loaded & set(OPTIONAL)


def test_every_module_imports_only_from_the_rooms_below_it() -> None:
    found = {}
    for file, tree in trees(HOUSE):
        name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        # __init__ sets the defaults: the one exception
        if room(name) and file.parent / file.stem not in (HOUSE / "__init__", HOUSE / "__main__"):
            found[name] = strays(name, tree)
    assert {k: v for k, v in found.items() if v} == {}
    assert len(found) > 60


@pytest.mark.parametrize(
    ("here", "line"),
    [
        ("allot.num.pack", "from allot.site import Graph"),
        ("allot.site", "from allot.bank import Bank"),
        ("allot.options.width", "import allot.runtimes.openvino"),
        ("allot.flow", "from allot.cli import main"),
        ("allot.search", "from allot import runtimes"),
        ("allot.flow", "from allot.recipes import by_name"),
    ],
)
def test_the_import_law_sees_what_it_forbids(here: str, line: str) -> None:
    assert strays(here, ast.parse(line))


def functions_that_test(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield node


def asserts(function: ast.AST) -> bool:
    """Whether a function asserts something or expects an error, perhaps through a helper that says
    so in its name, or through a law of a module of laws."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call):
            module, _, name = ast.unparse(node.func).rpartition(".")
            if name in ("raises", "warns", "law") or module == "laws":
                return True
            if name.startswith(HELPERS):
                return True
    return False


def dropped(tree: ast.AST) -> list[int]:
    """Lines on which the result of a comparison, or of a function that compares, is dropped."""
    compare = ("allclose", "isclose", "equal", "array_equal")
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            call = node.value
            named = isinstance(call, ast.Call) and ast.unparse(call.func).split(".")[-1] in compare
            if named or isinstance(call, ast.Compare):
                found.append(node.lineno)
    return found


def test_every_test_asserts_something_and_no_comparison_is_dropped() -> None:
    empty = [
        f"{file.name}:{t.name}"
        for file, tree in trees(ROOT / "tests")
        for t in functions_that_test(tree)
        if not asserts(t)
    ]
    lost = {file.name: dropped(tree) for file, tree in trees(ROOT / "tests") if dropped(tree)}
    assert empty == [] and lost == {}


def test_the_law_of_tests_sees_an_empty_test_and_a_dropped_comparison() -> None:
    bad = ast.parse("def test_x():\n    a = f()\n    torch.equal(a, b)\n    a == b\n")
    assert not asserts(next(functions_that_test(bad))) and dropped(bad) == [3, 4]
    good = ast.parse("def test_x():\n    assert torch.equal(a, b)\n")
    assert asserts(next(functions_that_test(good))) and dropped(good) == []
