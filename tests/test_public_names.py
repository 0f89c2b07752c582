"""What users type: every public name is there, lazily, and says what it is."""

from __future__ import annotations

import subprocess
import sys

import pytest

import smpc_fl as sf


@pytest.mark.parametrize("name", sf.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(sf, name)
    assert value.__doc__ or issubclass(value, sf.SmpcError)


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = sf.nonsense
    assert set(sf.__all__) <= set(dir(sf))


def test_importing_loads_nothing_heavy() -> None:
    code = "import sys, smpc_fl; print([m for m in ('torch', 'syft', 'websockets', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
