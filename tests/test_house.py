"""The rules of the house: who may import whom, what pure folders may not touch, what no file may contain."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"smpc_fl": 0, "smpc_fl.protocols": 1, "smpc_fl.nodes": 2}
"""Each package with its floor: imports go down, never up."""

FACE = "smpc_fl/__init__.py"
"""The lazy public names: the one file that may look upwards."""

IMPURE_MODULES = {
    "asyncio", "datetime", "glob", "io", "logging", "multiprocessing", "os", "pathlib", "random", "secrets", "select",
    "shutil", "signal", "socket", "sqlite3", "ssl", "structlog", "subprocess", "tempfile", "threading", "time", "urllib",
    "uuid", "websockets",
}  # fmt: skip
IMPURE_CALLS = {"open", "print", "input", "breakpoint"}
IMPURE_METHODS = {"urandom", "token_bytes", "getenv", "random_", "default_rng", "manual_seed"}


def sources() -> Iterator[tuple[str, Path]]:
    """(module name, file) of every module of the three packages."""
    for folder, package in (("smpc_fl", "smpc_fl"), ("protocols", "smpc_fl.protocols"), ("nodes", "smpc_fl.nodes")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            inside = path.relative_to(ROOT / folder)
            if folder == "smpc_fl" and inside.parts[0] in ("nodes", "protocols"):
                continue  # the symlinks
            parts = [package, *inside.with_suffix("").parts]
            yield ".".join(part for part in parts if part != "__init__"), path


SOURCES = list(sources())


def floor(module: str) -> int:
    return max(level for package, level in PACKAGES.items() if module == package or module.startswith(package + "."))


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, module) of every import, at any depth; `from smpc_fl import nodes` counts as smpc_fl.nodes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: import absolutely, as smpc_fl.…"
            yield node.lineno, str(node.module)
            if str(node.module).split(".")[0] == "smpc_fl":
                yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def dotted(node: ast.expr) -> str:
    """`a.b.c` of an attribute chain; of anything deeper, its last name."""
    if isinstance(node, ast.Attribute):
        before = dotted(node.value)
        return f"{before}.{node.attr}" if before else node.attr
    return node.id if isinstance(node, ast.Name) else ""


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    yield from ((node, dotted(node.func)) for node in ast.walk(tree) if isinstance(node, ast.Call))


@functools.cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def breaks_direction(module: str, tree: ast.AST) -> list[str]:
    allowed = floor(module)
    return [
        f"{module}:{line} imports {name}, a floor above"
        for line, name in imports(tree)
        if name.split(".")[0] == "smpc_fl" and floor(name) > allowed
    ]


def breaks_purity(module: str, tree: ast.AST) -> list[str]:
    found = [f"{module}:{line} imports {name}" for line, name in imports(tree) if name.split(".")[0] in IMPURE_MODULES]
    for call, name in calls(tree):
        last = name.split(".")[-1]
        draws = last == "generate" and not call.args and not call.keywords  # a key out of thin air
        if name in IMPURE_CALLS or last in IMPURE_METHODS or draws or ".random." in f".{name}":
            found.append(f"{module}:{call.lineno} calls {name}: pass it in as an argument")
    return found


def test_every_package_was_found() -> None:
    names = {module for module, _ in SOURCES}
    assert {"smpc_fl.errors", "smpc_fl.protocols.messages", "smpc_fl.nodes", "smpc_fl.nodes.ledger"} <= names


def test_imports_go_down_only() -> None:
    broken = [line for module, path in SOURCES if path != ROOT / FACE for line in breaks_direction(module, parse(path))]
    assert not broken, "\n".join(broken)


def test_pure_folders_touch_nothing() -> None:
    pure = [(module, path) for module, path in SOURCES if floor(module) < PACKAGES["smpc_fl.nodes"]]
    broken = [line for module, path in pure for line in breaks_purity(module, parse(path))]
    assert not broken, "\n".join(broken)


def test_one_module_imports_syft() -> None:
    users = {
        module for module, path in SOURCES for _, name in imports(parse(path)) if name.split(".")[0].startswith("syft")
    }
    assert users <= {"smpc_fl.nodes.ledger.syft"}


def test_names_of_test_files_are_unique() -> None:
    """Tests are modules without packages: two of one name would be one module, for pytest and for mypy."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("*.py"))
    assert not [name for name, count in names.items() if count > 1]


def test_files_are_short() -> None:
    files = [path for _, path in SOURCES] + [*(ROOT / "tests").rglob("*.py"), *(ROOT / "bench").rglob("*.py")]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert not {name: length for name, length in lengths.items() if length > 600}


@pytest.mark.parametrize(
    ("check", "source"),
    [
        (breaks_direction, "from smpc_fl.nodes.net.link import Link"),
        (breaks_direction, "def f():\n    from smpc_fl import nodes"),
        (breaks_purity, "import os"),
        (breaks_purity, "from time import monotonic"),
        (breaks_purity, "def f():\n    return open('x')"),
        (breaks_purity, "SigningKey.generate()"),
        (breaks_purity, "np.random.normal(3)"),
    ],
)
def test_a_planted_breach_is_seen(check: object, source: str) -> None:
    assert callable(check)
    assert check("smpc_fl.planted", ast.parse(source))


def loaded_by(statement: str) -> set[str]:
    """Names of the top-level packages in memory after `statement`, in a fresh interpreter."""
    code = f"import sys\n{statement}\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


LIGHT = ["smpc_fl", *(name for name, _ in SOURCES if floor(name) == PACKAGES["smpc_fl.protocols"])]


def test_protocols_load_neither_torch_nor_syft() -> None:
    assert not loaded_by("import " + ", ".join(LIGHT)) & {"torch", "syft", "syft_datasets", "websockets"}


@pytest.mark.parametrize("role", ["aggregator", "coordinator", "cli", "owner"])
def test_a_node_starts_without_torch_and_syft(role: str) -> None:
    """The first two never load them; an owner that comes back says its report again before it does."""
    assert not loaded_by(f"import smpc_fl.nodes.{role}") & {"torch", "syft", "syft_datasets"}
