"""Simulated owners as Ray tasks: a real, small Ray on this machine (ten seconds), and the tree that adds results up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from smpc_fl.errors import Unavailable
from smpc_fl.nodes.simulation.on_ray import FAN_IN, _Tree, on_ray


@pytest.mark.slow
def test_ray_agrees_with_threads_bit_for_bit() -> None:
    pytest.importorskip("ray")
    script = Path(__file__).with_name("ray_agrees.py")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONWARNINGS": "default"}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment, timeout=110)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["equal"]
    assert said["metrics"]
    assert said["stopped"]
    assert list(said["missing"]) == ["owner-000007"]
    assert "RuntimeError at ray_agrees.py" in said["missing"]["owner-000007"]
    assert said["told"] == sorted(said["told"])
    assert said["told"][-1] == 40


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(Unavailable, match=r"smpc-fl\[ray\]"), on_ray(None, 1):
        pass


def test_a_cluster_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**options: Any) -> None:
        raise ConnectionError("ray client connection timeout")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, init=init))
    with pytest.raises(Unavailable, match=r"ray://127\.0\.0\.1:1 does not answer"), on_ray("ray://127.0.0.1:1", None):
        pass


@pytest.mark.parametrize("count", [1, 2, FAN_IN - 1, FAN_IN, FAN_IN + 1, FAN_IN**2, FAN_IN**2 + FAN_IN + 3, 1000])
def test_the_tree_adds_everything_once_and_is_not_deep(count: int) -> None:
    """Results here are (sum, depth), and a remote task is a call."""
    widest = 0

    def node(*parts: tuple[int, int]) -> tuple[int, int]:
        nonlocal widest
        widest = max(widest, len(parts))
        return sum(total for total, _ in parts), 1 + max(depth for _, depth in parts)

    tree = _Tree(SimpleNamespace(remote=node))
    for number in range(count):
        tree.add((1 << number, 0))
    total, depth = tree.root()
    assert total == (1 << count) - 1
    assert widest <= FAN_IN
    assert depth <= 1 + 2 * (len(f"{count:o}") - 1)
