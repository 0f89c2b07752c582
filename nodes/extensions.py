"""Python files of a node's own, run once at its start: strategies and other things that jobs name and no job carries."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path

from smpc_fl.errors import ConfigInvalid


def load_extensions(paths: Iterable[Path]) -> None:
    """Run each file, as a module of its own name. Raises `ConfigInvalid` naming the file and what is wrong with it."""
    for path in paths:
        name = f"smpc_fl_extension_{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None or not path.is_file():
            raise ConfigInvalid(f"extensions: {path} must be a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[name]
            raise ConfigInvalid(f"extensions: {path} cannot be run: {type(error).__name__}: {error}") from error
