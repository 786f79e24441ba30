"""What the documentation promises exists: its links, its code, the names it uses."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from transformers.integrations.integration_utils import rewrite_logs

import reasoning_guard_lightning
from documents import PAGES, ROOT, blocks
from reasoning_guard import PRESETS, Guard
from reasoning_guard.probes import Probe, all_probes, default_probes
from reasoning_guard.rules import AXES
from reasoning_guard_transformers import ReasoningGuardCallback

SUITE = {type(probe).__name__: probe for probe in all_probes(paraphraser=list)}
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_guard_is_given_arguments_that_exist() -> None:
    """Also in blocks that construct a guard and never use it."""
    taken = (ReasoningGuardCallback, reasoning_guard_lightning.ReasoningGuardCallback, Guard)
    known = {name for one in taken for name in inspect.signature(one).parameters}
    found = [call for page in PAGES for block in blocks(page, "python") for call in ast.walk(ast.parse(block.code))]
    calls = [call for call in found if isinstance(call, ast.Call) and _name(call) in {c.__name__ for c in taken}]
    assert calls
    for call in calls:
        assert {keyword.arg for keyword in call.keywords} <= known


def _name(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else ""


def test_the_readme_opens_with_the_line_that_the_example_has() -> None:
    added = [line[1:].strip() for line in README.splitlines() if line.startswith("+ ")]
    assert added[0] == "from reasoning_guard_transformers import ReasoningGuardCallback"
    assert added[1] == "trainer.add_callback(ReasoningGuardCallback(trainer, problems=held_out))"
    example = (ROOT / "examples" / "sft_with_guard.py").read_text(encoding="utf-8")
    assert added[0] in example
    assert "ReasoningGuardCallback(trainer, problems=held_out" in example


def test_the_names_that_trackers_show_are_those_that_the_trainer_makes_of_ours() -> None:
    (shown,) = rewrite_logs({"eval_guard/<name>": 0.0})
    assert shown == "eval/guard/<name>"
    table = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in table for name in ("guard/<name>", "eval_guard/<name>", shown))
    assert "TensorBoard and W&B show it as `eval/guard/...`" in README


def test_every_preset_and_every_name_of_an_axis_is_real() -> None:
    for preset in PRESETS:
        assert preset in README
    reported = {name for probe in default_probes() for name in probe.names}
    for names in AXES.values():
        assert {name.removeprefix("reference/") for name in names} <= reported
        for name in names:
            assert f"`{name}`" in README


@pytest.mark.parametrize("probe", SUITE.values(), ids=list(SUITE))
def test_every_probe_says_what_it_cannot_tell_and_where_it_comes_from(probe: Probe) -> None:
    said = inspect.getdoc(type(probe)) or ""
    assert re.search(r"^What (it|they) cannot tell: ", said, re.MULTILINE)
    assert re.search(r"arXiv\s+\d{4}\.\d{5}|\b(19|20)\d\d\b|VLADriveBench", said)
    if probe.gated:
        page = (ROOT / "docs" / "faithfulness.md").read_text(encoding="utf-8")
        assert f"| `{type(probe).__name__}" in page, "the map of what each probe asks and cannot tell"


def test_make_targets_that_are_named_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in PAGES:
        code = "\n".join(block.text for block in blocks(page, "bash"))
        named = re.findall(r"^make ([a-z-]+)", code, re.MULTILINE)
        named += re.findall(r"`make ([a-z-]+)", page.read_text(encoding="utf-8"))
        assert set(named) <= targets, page.name


def _script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_api_page_is_what_the_docstrings_say() -> None:
    maker = _script("make_api")
    assert maker.page() == maker.PAGE.read_text(encoding="utf-8"), "run `make docs`"


def test_the_cost_table_is_what_was_measured() -> None:
    maker = _script("make_costs")
    assert maker.readme() == README, "run `make docs`"
    assert len(maker.table().splitlines()) > 3
