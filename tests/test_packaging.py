"""What a user installs: the wheel holds `smpc_fl` and nothing beside it, whole, and the sdist makes the same wheel."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def build(source: Path, target: Path, *kinds: str) -> None:
    """Runs `python -m build` without isolation: setuptools is among the pinned packages."""
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", *kinds, "--outdir", str(target), str(source)],
        check=True,
        capture_output=True,
        text=True,
    )


def modules_in_checkout() -> set[str]:
    """Paths, as in the wheel, of every module of the three folders."""
    return {
        str(Path(prefix) / path.relative_to(ROOT / folder))
        for folder, prefix in (("smpc_fl", "smpc_fl"), ("protocols", "smpc_fl/protocols"), ("nodes", "smpc_fl/nodes"))
        for path in (ROOT / folder).rglob("*.py")
        if not (folder == "smpc_fl" and path.relative_to(ROOT / folder).parts[0] in ("nodes", "protocols"))
    }


@pytest.fixture(scope="module")
def clean_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tracked and new files alone, so that build leftovers of the checkout cannot hide a mistake."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (copy / name).write_bytes((ROOT / name).read_bytes())
    for folder in ("smpc_fl", "protocols", "nodes"):
        for path in (ROOT / folder).rglob("*"):
            inside = path.relative_to(ROOT)
            through_link = inside.parts[:2] in (("smpc_fl", "nodes"), ("smpc_fl", "protocols"))
            if path.is_file() and not through_link and "__pycache__" not in inside.parts:
                (copy / inside).parent.mkdir(parents=True, exist_ok=True)
                (copy / inside).write_bytes(path.read_bytes())
    for link in ("nodes", "protocols"):
        os.symlink(f"../{link}", copy / "smpc_fl" / link)
    return copy


@pytest.fixture(scope="module")
def wheel(clean_copy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel made the way a release is: sdist first, the wheel from the sdist."""
    target = tmp_path_factory.mktemp("dist")
    build(clean_copy, target)
    (made,) = target.glob("*.whl")
    return made


def test_the_wheel_holds_smpc_fl_only(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
        (info,) = tops - {"smpc_fl"}
        assert info.endswith(".dist-info")
        assert "smpc_fl/py.typed" in archive.namelist()
        assert f"{info}/licenses/LICENSE" in archive.namelist()
        assert "smpc-fl = smpc_fl.nodes.cli.main:main" in archive.read(f"{info}/entry_points.txt").decode()


def test_every_module_is_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.endswith(".py")}
    assert packed == modules_in_checkout()


def test_every_package_is_listed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {str(Path(name).parent).replace("/", ".") for name in modules_in_checkout()}
    assert set(listed) == folders


def test_the_wheel_works_alone(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = "import smpc_fl.protocols.messages as m, smpc_fl.nodes.ledger as l; print(m.__file__); print(l.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert all(Path(line).is_relative_to(tmp_path) for line in done.stdout.split())


def test_every_dependency_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all("==" in pin and "+" not in pin for pin in pins)
    assert "torch==2.13.0" in pins
    names = {pin.split("==")[0].lower().replace("_", "-") for pin in pins}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    missing = {
        name
        for name in (item.split(">")[0].split("=")[0].split("<")[0].lower() for item in wanted)
        if name not in names
    }
    assert not missing
