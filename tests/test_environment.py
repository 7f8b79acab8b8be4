"""pyproject.toml, constraints.txt, environment.yml and the imports agree with one another."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

PACKAGES = ("ppl_vae", "models", "guides", "evaluation", "benchmarks")

IMPORT_NAMES = {
    "PIL": "pillow",
    "arviz_base": "arviz-base",
    "arviz_plots": "arviz-plots",
    "arviz_stats": "arviz-stats",
    "pyro": "pyro-ppl",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}


@pytest.fixture(scope="module")
def project(root: Path) -> dict[str, Any]:
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def pins(root: Path) -> dict[str, Version]:
    found = {}
    for line in (root / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, version = line.split("==")
            found[canonicalize_name(name)] = Version(version)
    return found


def requirements(project: dict[str, Any]) -> list[Requirement]:
    extras = project["optional-dependencies"]
    return [
        Requirement(text)
        for text in (
            *project["dependencies"],
            *(part for parts in extras.values() for part in parts),
        )
    ]


def test_every_dependency_has_a_pin_within_its_range(
    project: dict[str, Any], pins: dict[str, Version]
) -> None:
    for requirement in requirements(project):
        pin = pins.get(canonicalize_name(requirement.name))
        assert pin is not None, f"constraints.txt has no {requirement.name}"
        assert pin in requirement.specifier, f"{requirement.name}=={pin} is not {requirement}"


def test_pins_reach_every_transitive_dependency(
    project: dict[str, Any], pins: dict[str, Version]
) -> None:
    """Walks what is installed, as far as it is the pinned set; `==` is a pin by itself."""
    todo = [
        (r.name, tuple(sorted(r.extras))) for r in requirements(project) if r.extras != {"cuda13"}
    ]
    optional = {
        Requirement(text).name
        for extra in ("hub", "frechet")
        for text in project["optional-dependencies"][extra]
    }
    seen = set()
    while todo:
        name, extras = todo.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            assert name in optional, f"{name} is not installed"
            continue
        pin = pins.get(canonicalize_name(name))
        if pin is None or Version(distribution.version).public != pin.public:
            continue
        for requirement in map(Requirement, distribution.requires or []):
            markers = [{"extra": extra} for extra in ("", *extras)]
            marker = requirement.marker
            if marker is not None and not any(marker.evaluate(m) for m in markers):
                continue
            exact = str(requirement.specifier).startswith("==")
            assert exact or canonicalize_name(requirement.name) in pins, f"{name} -> {requirement}"
            if canonicalize_name(requirement.name) in pins:
                todo.append((requirement.name, tuple(sorted(requirement.extras))))


def test_environment_yml_opens_on_the_same_set(root: Path, project: dict[str, Any]) -> None:
    environment = yaml.safe_load((root / "environment.yml").read_text(encoding="utf-8"))
    assert environment["name"] == project["name"]
    assert environment["channels"] == ["conda-forge"]
    *conda, pip = environment["dependencies"]
    python = next(entry for entry in conda if entry.startswith("python="))
    assert f"{python.partition('=')[2]}.0" in SpecifierSet(project["requires-python"])
    assert {re.split(r"[=<>]", entry)[0] for entry in conda} == {"python", "pip"}
    assert pip == {"pip": ["-c constraints.txt", "-e .[dev]"]}


def test_python_versions_agree(root: Path, project: dict[str, Any]) -> None:
    tools = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    lowest = project["requires-python"].removeprefix(">=")
    assert tools["mypy"]["python_version"] == lowest
    assert tools["ruff"]["target-version"] == "py" + lowest.replace(".", "")
    versions = [c.rpartition(":: ")[2] for c in project["classifiers"] if ":: 3." in c]
    assert versions[0] == lowest
    assert Version(lowest) <= Version("{}.{}".format(*sys.version_info))
    assert lowest.replace(".", ", ") in (root / "Makefile").read_text(encoding="utf-8")


def test_every_import_is_declared(root: Path, project: dict[str, Any]) -> None:
    extras = project["optional-dependencies"]
    texts = [*project["dependencies"], *extras["hub"], *extras["frechet"]]
    declared = {canonicalize_name(Requirement(text).name) for text in texts}
    declared.add("pythae")  # benchmarks.peers makes an environment that has it
    ours = {*PACKAGES, *sys.stdlib_module_names}
    for package in PACKAGES:
        for path in (root / package).rglob("*.py"):
            for name in imported(path) - ours:
                known = canonicalize_name(IMPORT_NAMES.get(name, name))
                assert known in declared, f"{path.relative_to(root)} imports {name}"


def imported(path: Path) -> set[str]:
    """Top-level names of a file's absolute imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def test_licence_is_apache(root: Path, project: dict[str, Any]) -> None:
    assert project["license"] == "Apache-2.0"
    assert "Apache License" in (root / "LICENSE").read_text(encoding="utf-8")
