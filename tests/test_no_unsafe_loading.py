"""Nothing that comes from outside is ever run or unpickled: no module of the three packages can get at what would do it.

A search over the syntax tree, by what a name *means*: aliases, `from` imports, `getattr` and names that are only handed on
count as uses. What a few files may do is listed with the reason, and a line of that list that nobody needs is an error."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest
from test_house import SOURCES, imports, parse

MODULES = {
    "_pickle", "cPickle", "cloudpickle", "code", "codeop", "copyreg", "dill", "imp", "joblib", "jsonpickle", "marshal",
    "multiprocessing", "pdb", "pickle", "pty", "random", "ray", "runpy", "ruamel", "shelve", "torch.hub", "torch.jit",
    "torch.multiprocessing", "torch.package", "torch.serialization", "xmlrpc", "yaml",
}  # fmt: skip
"""Modules that unpickle, evaluate, or hand objects between processes; and the one whose random numbers can be foretold."""
NAMES = {
    "__builtins__", "__import__", "asyncio.create_subprocess_shell", "builtins.compile", "builtins.eval", "builtins.exec",
    "compile", "concurrent.futures.ProcessPoolExecutor", "concurrent.futures.process.BrokenProcessPool",
    "ctypes.CDLL", "ctypes.PyDLL", "ctypes.cdll", "ctypes.pythonapi", "eval", "exec",
    "importlib.import_module", "importlib.machinery", "importlib.util.module_from_spec",
    "importlib.util.spec_from_file_location", "numpy.core.multiarray", "numpy.memmap", "os.popen", "os.posix_spawn",
    "os.startfile", "os.system", "pandas.eval", "pandas.read_hdf", "pandas.read_pickle", "sqlite3.enable_load_extension",
    "subprocess.getoutput", "subprocess.getstatusoutput", "torch.export.load", "torch.export.save", "torch.load",
    "torch.save", "types.CodeType", "types.FunctionType",
}  # fmt: skip
FAMILIES = ("os.exec", "os.spawn")
METHODS = {"__reduce__", "__setstate__", "enable_load_extension", "load_extension", "read_pickle", "to_pickle"}
"""Whatever object they are asked of. (`__reduce_ex__` is defined in this house, to refuse.)"""
KEYWORDS = {"allow_pickle": False, "shell": False, "weights_only": True}
"""The one value that a call may pass, as a constant."""

ALLOWED = {
    ("smpc_fl", "importlib.import_module"): "the lazy public names, from a table of constants",
    ("smpc_fl.nodes.cli.main", "importlib.import_module"): "the commands, from a table of constants",
    ("smpc_fl.nodes.cli.nodes", "importlib.import_module"): "the nodes, by constants in this file",
    ("smpc_fl.nodes.ledger.syft", "importlib.import_module"): "Syft's modules, by constants in this file",
    ("smpc_fl.nodes.cli.job_file", "runpy"): "a researcher's own model file, in the researcher's own process",
    ("smpc_fl.nodes.extensions", "importlib.util.spec_from_file_location"): "files that a node's own config names",
    ("smpc_fl.nodes.extensions", "importlib.util.module_from_spec"): "the same",
    ("smpc_fl.nodes.training_files", "torch.export.save"): "writes a researcher's own model; nothing here reads one",
    ("smpc_fl.nodes.hardening", "ctypes.CDLL"): "prctl of the C library",
    ("smpc_fl.nodes.memory", "ctypes.CDLL"): "mallopt of the C library",
    ("smpc_fl.nodes.simulation.executors", "multiprocessing"): "a simulation's own child processes",
    ("smpc_fl.nodes.simulation.executors", "concurrent.futures.ProcessPoolExecutor"): "the same",
    ("smpc_fl.nodes.simulation.executors", "concurrent.futures.process.BrokenProcessPool"): "the same",
    ("smpc_fl.nodes.simulation.on_ray", "ray"): "a simulation's own cluster",
    ("smpc_fl.pointers.operations", "getattr"): "torch's functions, from a table of constants",
    ("smpc_fl.pointers.literals", "getattr"): "torch's dtypes, from a table of constants",
    ("smpc_fl.pointers.pointer", "getattr"): "torch's result types, and whether a method exists",
    ("smpc_fl.plans.operators", "getattr"): "operators by allow-listed name",
}

BUILTIN = {"__builtins__", "__import__", "compile", "eval", "exec", "getattr", "globals", "locals", "vars"}
"""Names that mean something without an import."""
TOP = {"torch", "numpy", "os", "builtins", "importlib", "subprocess", "types", "functools", "operator", "sys"}
"""Modules of which nothing is to be had by a name that is computed."""


class Names(ast.NodeVisitor):
    """What every name of a module means, in full. `uses`: (line, meaning) of each, wherever it stands."""

    def __init__(self) -> None:
        self.meaning: dict[str, str] = {}
        self.uses: list[tuple[int, str]] = []

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.meaning[alias.asname or alias.name.split(".")[0]] = (
                alias.name if alias.asname else alias.name.split(".")[0]
            )
            self.uses.append((node.lineno, alias.name))

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            whole = f"{node.module}.{alias.name}"
            self.meaning[alias.asname or alias.name] = whole
            self.uses.append((node.lineno, whole))
            assert alias.name != "*", "names are imported one by one"

    def of(self, node: ast.expr) -> str:
        """The dotted name that an expression means; of anything deeper, what hangs on it, after a dot."""
        match node:
            case ast.Name(id=name):
                return self.meaning.get(name, name if name in BUILTIN else "")
            case ast.Attribute(value=value, attr=attr):
                return f"{self.of(value)}.{attr}"
            case ast.Call(func=ast.Name(id="getattr"), args=[value, ast.Constant(value=str(attr)), *_]):
                return f"{self.of(value)}.{attr}"
            case ast.Subscript(value=value, slice=ast.Constant(value=str(attr))):
                return f"{self.of(value)}.{attr}"  # vars(module)["name"]
            case ast.Call(func=ast.Name(id="vars" | "__import__"), args=[value, *_]):
                return self.of(value)
        return ""

    def generic_visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.Name | ast.Attribute | ast.Call | ast.Subscript) and (meaning := self.of(node)):
            self.uses.append((node.lineno, meaning))
        super().generic_visit(node)


def banned(meaning: str) -> str:
    """The entry that forbids what a name means, or nothing."""
    parts = meaning.split(".")
    starts = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
    found = [start for start in starts if start in MODULES or start in NAMES or start.startswith(FAMILIES)]
    found += [part for part in parts[1:] if part in METHODS]
    return found[0] if found else ""


def breaches(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, what) of everything that this module could unpickle, evaluate or start a shell with."""
    names = Names()
    names.visit(tree)
    yield from ((line, entry) for line, meaning in names.uses if (entry := banned(meaning)))
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = names.of(node.func)
        for keyword in node.keywords:
            if keyword.arg in KEYWORDS and not (
                isinstance(keyword.value, ast.Constant) and keyword.value.value is KEYWORDS[keyword.arg]
            ):
                yield node.lineno, f"{keyword.arg}="
        if called in ("numpy.load", "pandas.read_hdf") and not any(
            each.arg == "allow_pickle" for each in node.keywords
        ):
            yield node.lineno, "numpy.load without allow_pickle=False"
        if called == "numpy.load" and len(node.args) > 1:
            yield node.lineno, "numpy.load with more than a file"
        computed = called == "getattr" and len(node.args) > 1 and not isinstance(node.args[1], ast.Constant)
        if computed and names.of(node.args[0]).split(".")[0] in TOP:
            yield node.lineno, "getattr"
        if called in ("vars", "globals", "locals") and node.args:
            yield node.lineno, f"{called}()"


def test_nothing_unpickles_evaluates_or_starts_a_shell() -> None:
    found = {(module, what): line for module, path in SOURCES for line, what in breaches(parse(path))}
    broken = [f"{module}:{line} uses {what}" for (module, what), line in found.items() if (module, what) not in ALLOWED]
    assert not broken, "\n".join(broken)
    assert not ALLOWED.keys() - found.keys(), "these need no exception any more"


def test_no_node_uses_what_simulations_use() -> None:
    """Their workers unpickle what their own parent process sends; a node has no such children, and takes no such bytes."""
    for module, path in SOURCES:
        inside = module.startswith(("smpc_fl.nodes.simulation", "smpc_fl.nodes.cli.simulate", "smpc_fl.nodes.sklearn"))
        inside = inside or module == "smpc_fl"
        imported = {name for _, name in imports(parse(path)) if name.startswith("smpc_fl.nodes.simulation")}
        assert inside or not imported, module


PLANTED = [
    "import pickle",
    "import pickle as p",
    "from pickle import loads",
    "from _pickle import Unpickler as U",
    "def f():\n    import cloudpickle.fast",
    "import torch\ntorch.load(path)",
    "import torch as t\nt.load(path)",
    "from torch import load as read\nread(path)",
    "import torch\nread = torch.load",
    "import torch\nread = getattr(torch, 'load')",
    "import torch\nread = getattr(torch, name)",
    "import torch\nvars(torch)['load'](path)",
    "import torch.serialization",
    "from torch import serialization",
    "import torch\ntorch.jit.load(path)",
    "import torch\ntorch.export.load(path)",
    "import torch\ntorch.load(path, weights_only=True)",
    "eval(text)",
    "run = eval",
    "map(exec, texts)",
    "__builtins__['eval']",
    "import builtins\nbuiltins.exec(text)",
    "from builtins import compile as c",
    "__import__(name)",
    "__import__('torch').load(path)",
    "import importlib\nimportlib.import_module(name)",
    "from importlib import import_module as find\nfind(name)",
    "from importlib.util import spec_from_file_location",
    "import numpy as np\nnp.load(path, allow_pickle=True)",
    "import numpy as np\nnp.load(path, allow_pickle=flag)",
    "import numpy as np\nnp.load(path)",
    "import numpy as np\nnp.load(path, None, True, allow_pickle=False)",
    "from numpy import load\nload(path)",
    "import subprocess\nsubprocess.run(line, shell=True)",
    "import subprocess\nsubprocess.run(line, shell=1)",
    "from subprocess import getoutput",
    "import asyncio\nasyncio.create_subprocess_shell(line)",
    "import os\nos.system(line)",
    "import os\nos.execv(path, line)",
    "from os import popen",
    "import yaml\nyaml.safe_load(text)",
    "import multiprocessing.connection",
    "from concurrent.futures import ProcessPoolExecutor",
    "import pandas as pd\npd.read_pickle(path)",
    "frame.to_pickle(path)",
    "db.enable_load_extension(True)",
    "import types\ntypes.FunctionType(body, {})",
]


@pytest.mark.parametrize("source", PLANTED)
def test_a_planted_use_is_seen(source: str) -> None:
    assert list(breaches(ast.parse(source)))


@pytest.mark.parametrize(
    "source",
    [
        "import re\nre.compile(text)",
        "import numpy as np\nnp.load(path, allow_pickle=False)",
        "import subprocess\nsubprocess.run([program])",
        "model.eval()",
        "import msgspec\nmsgspec.json.decode(data)",
        "getattr(struct, name)",
    ],
)
def test_what_is_harmless_is_let_be(source: str) -> None:
    assert not list(breaches(ast.parse(source)))
