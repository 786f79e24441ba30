"""What is shipped, and who may import whom."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORE = ROOT / "reasoning_guard"
INTEGRATIONS = ROOT / "integrations"
FOREIGN = ("trl", "lightning", "pytorch_lightning", "tensorboard", "torch.utils.tensorboard", "wandb")

# Lowest first. A module imports from its own room and from lower ones.
ROOMS = {
    "errors": ("errors",),
    "values": (
        *(
            "cells",
            "row_files",
            "places",
            "atomic",
            "problems",
            "formats",
            "format_inference",
            "format_file",
            "legible",
            "number_words",
            "plain_numbers",
            "answers",
            "expressions",
            "mentions",
            "options",
            "statements",
            "tokens",
            "traces",
            "tree",
        ),
        "evaluation",
    ),
    "numbers": ("trie", "packing", "masks", "prefixes", "statistics"),
    "reading": ("reader", "seams"),
    "probes": ("probes", "metrics"),
    "models": (
        *("processes", "model_parts", "adapters", "model_context", "device_memory", "compiled"),
        *("logits", "slice_kernel", "hidden", "head"),
        *("divergences", "branch_pass", "forward", "attention_kernel", "table_attention", "one_pass", "twins"),
        *("sequences", "forking", "embeddings", "stopping", "rounding"),
        *("exactness", "verdict", "selftest_twin", "selftest", "effort", "batching", "branch_scorer", "scorer"),
        *("reference", "generation", "paraphrasers"),
    ),
    "evaluating": ("gate", "evaluate", "faithfulness"),
    "judging": ("alerts", "rules", "decision"),
    "keeping": ("history", "sinks", "report"),
    "guarding": (
        *("hosting", "settings", "memory", "scalars", "announce", "cost", "measuring", "guard", "rewards"),
        "healthy",
    ),
    "offline": ("offline",),
    "doors": ("cli", "__main__", "__init__"),
}
RANK = {name: rank for rank, names in enumerate(ROOMS.values()) for name in names}

# Which packages of integrations/ each of them may use.
HOSTS = {
    "reasoning_guard_transformers": (),
    "reasoning_guard_trl": ("reasoning_guard_transformers",),
    "reasoning_guard_lightning": (),
    "reasoning_guard_demo": ("reasoning_guard_transformers", "reasoning_guard_trl"),
}


@dataclass(frozen=True)
class Import:
    source: str
    target: str
    at_import_time: bool

    def reaches(self, package: str) -> bool:
        return f"{self.target}.".startswith(f"{package}.")


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules(package: Path) -> dict[str, Path]:
    return {module_name(path, package.parent): path for path in sorted(package.rglob("*.py"))}


def imports(source: str, path: Path, known: frozenset[str]) -> Iterator[Import]:
    """All imports of one file, those inside functions and under TYPE_CHECKING too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = set(tree.body)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(source, alias.name, node in top)
        elif isinstance(node, ast.ImportFrom):
            package = source if path.name == "__init__.py" else source.rpartition(".")[0]
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield Import(source, full if full in known or full in FOREIGN else base, node in top)


def all_imports(package: Path) -> list[Import]:
    found = modules(package)
    known = frozenset(found)
    return [one for name, path in found.items() for one in imports(name, path, known)]


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def climbs(one: Import) -> bool:
    return one.reaches("reasoning_guard") and RANK[room(one.target)] > RANK[room(one.source)]


def pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def distributions(requirements: list[str]) -> set[str]:
    names = (requirement.split(">")[0].split("[")[0] for requirement in requirements)
    return {name.strip().replace("-", "_") for name in names}


def build(directory: Path, target: str, out: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(out)]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (made,) = out.iterdir()
    return made


def wheel_files(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


def test_the_wheel_holds_every_package_and_nothing_else(wheel: Path) -> None:
    shipped = {".py", ".typed", ".j2", ".css", ".js"}
    roots = [(CORE, ROOT), *((p, INTEGRATIONS) for p in INTEGRATIONS.iterdir() if (p / "__init__.py").exists())]
    expected = {
        path.relative_to(root).as_posix()
        for package, root in roots
        for path in package.rglob("*")
        if path.suffix in shipped
    }
    assert "reasoning_guard/__init__.py" in expected
    assert "reasoning_guard_transformers/__init__.py" in expected
    assert wheel_files(wheel) == expected


def test_every_package_is_typed_and_carries_the_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    packages = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert {f"{package}/py.typed" for package in packages} <= set(names)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_sdist_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    sdist = build(ROOT, "sdist", tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    assert wheel_files(build(source, "wheel", tmp_path / "again")) == wheel_files(wheel)


def test_every_host_package_is_in_the_table() -> None:
    there = {path.name for path in INTEGRATIONS.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert there <= HOSTS.keys(), "a new host: enter it in HOSTS and in pyproject.toml"


@pytest.mark.parametrize("host", ["transformers", "trl", "lightning", "demo"])
def test_a_missing_framework_is_named_with_its_extra(host: str) -> None:
    package = f"reasoning_guard_{host}"
    names = ("transformers", "trl", "lightning", "pytorch_lightning")
    hide = f"import sys; sys.modules.update(dict.fromkeys({names})); "
    done = run_python(f"{hide}sys.path[:0] = ['.', 'integrations']; import {package}")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"ImportError: {package} needs ")
    assert last.endswith(f"pip install 'reasoning-guard[{package.removeprefix('reasoning_guard_')}]'")


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def test_importing_the_core_loads_no_foreign_framework() -> None:
    code = """
import importlib, pkgutil, sys
import accelerate, torch, transformers
theirs = set(sys.modules)
import reasoning_guard
for found in pkgutil.walk_packages(reasoning_guard.__path__, "reasoning_guard."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
print(*sorted(set(sys.modules) - theirs), sep="\\n")
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "reasoning_guard.errors" in loaded
    assert not loaded.intersection(FOREIGN)
    assert not [name for name in loaded if name.startswith("reasoning_guard_")]


def test_no_line_of_the_core_imports_a_foreign_framework() -> None:
    wrong = [one for one in all_imports(CORE) if any(one.reaches(name) for name in FOREIGN)]
    assert not wrong


def test_the_core_never_imports_a_host() -> None:
    assert not [one for one in all_imports(CORE) if one.target.startswith("reasoning_guard_")]


def test_every_import_of_the_core_is_a_declared_dependency() -> None:
    project = pyproject()["project"]
    always = distributions(project["dependencies"])
    extras = distributions([name for extra in project["optional-dependencies"].values() for name in extra])
    kernels = {"reasoning_guard.slice_kernel", "reasoning_guard.attention_kernel"}
    # Written in Triton, which comes with what it is for, PyTorch for GPUs; whoever reads them must do without, too.
    for one in all_imports(CORE):
        package = one.target.partition(".")[0]
        if package not in sys.stdlib_module_names and package != "reasoning_guard":
            assert package in (always if one.at_import_time and one.source not in kernels else always | extras), one
        assert not (one.target in kernels and one.at_import_time), one


def test_every_module_has_a_room() -> None:
    homeless = {room(name) for name in modules(CORE)} - RANK.keys()
    assert not homeless, "a new module: enter it in ROOMS"


def test_the_page_about_the_architecture_names_every_module() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = [name for names in ROOMS.values() for name in names if not name.startswith("__")]
    assert [name for name in named if f"`{name}`" not in page and f"`{name}/`" not in page] == []


def test_lower_rooms_never_import_higher_ones() -> None:
    assert not [one for one in all_imports(CORE) if climbs(one)]


def test_modules_of_the_core_do_not_import_each_other_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for one in all_imports(CORE):
        graph.setdefault(one.source, set()).add(one.target)
    graphlib.TopologicalSorter(graph).prepare()


def test_hosts_use_only_the_core_and_what_the_table_allows() -> None:
    for package, allowed in HOSTS.items():
        for one in all_imports(INTEGRATIONS / package):
            target = one.target.partition(".")[0]
            assert not target.startswith("reasoning_guard_") or target in (package, *allowed), one


@pytest.mark.parametrize(
    ("line", "target", "wrong"),
    [
        ("from reasoning_guard.guard import Guard", "reasoning_guard.guard", True),
        ("from reasoning_guard import guard", "reasoning_guard.guard", True),
        ("from reasoning_guard import __version__", "reasoning_guard", True),
        ("from ..guard import Guard", "reasoning_guard.guard", True),
        ("from .base import Probe", "reasoning_guard.probes.base", False),
        ("from reasoning_guard.tree import Branch", "reasoning_guard.tree", False),
        ("def f():\n    import reasoning_guard.guard", "reasoning_guard.guard", True),
    ],
)
def test_the_scanner_sees_imports_in_every_form(tmp_path: Path, line: str, target: str, wrong: bool) -> None:
    (tmp_path / "information.py").write_text(line)
    known = frozenset({"reasoning_guard.guard"})
    (one,) = imports("reasoning_guard.probes.information", tmp_path / "information.py", known)
    assert one.target == target
    assert one.at_import_time == (not line.startswith("def"))
    assert climbs(one) == wrong


def test_every_test_that_may_be_skipped_says_why() -> None:
    for path in (ROOT / "tests").glob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and ast.unparse(call.func).rpartition(".")[2] in {"importorskip", "skipif"}:
                assert "reason" in {keyword.arg for keyword in call.keywords}, f"{path.name}:{call.lineno}"
