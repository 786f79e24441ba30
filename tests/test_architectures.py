"""Every causal language model that the installed Transformers can build ends exact, whichever path it takes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import transformers

from benchmarks.architectures import BEGIN, END, SHARED, TITLES, examine, examine_all, model_types, table

PAGE = Path(__file__).resolve().parent.parent / "docs" / "scoring.md"


@pytest.mark.exhaustive
@pytest.mark.timeout(2400)
def test_no_architecture_is_silently_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = list(examine_all(model_types()))
    with capsys.disabled():
        print(table(outcomes))
    assert [each for each in outcomes if not each.is_right] == []
    paths = [each.path for each in outcomes]
    assert paths.count("shared") > len(paths) / 3, "the comparison is worth little if hardly any model shares"
    written = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    if f"Transformers {transformers.__version__}," in written:
        found = {each.model_type: TITLES.get(each.path, SHARED) for each in outcomes}
        assert found == dict(named(written)), "run python -m benchmarks.architectures --out docs/scoring.md"


def named(page: str) -> Iterator[tuple[str, str]]:
    """Each architecture that the page names, with the title that it stands under."""
    title = ""
    for line in page.splitlines():
        heading = re.match(r"\*\*(.+?)\*\* \(\d+\):(.*)", line)
        if heading:
            title = heading[1]
            yield from ((name, title) for name in re.findall(r"`([\w-]+)`", heading[2]))
        elif line.startswith("| `"):
            yield line.split("`")[1], title


def test_the_page_names_every_architecture_once() -> None:
    names = [name for name, _ in named(PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0])]
    assert len(names) == len(set(names)) > 150


@pytest.mark.parametrize(
    ("model_type", "path"), [("emu3", "shared"), ("dbrx", "shared"), ("marian", "copies"), ("xlstm", "alone")]
)
def test_settings_of_their_own_where_defaults_cannot_be_shrunk(model_type: str, path: str) -> None:
    """One of them is in no mapping of Transformers', and its twin is of the model's own class."""
    outcome = examine(model_type)
    assert (outcome.path, outcome.is_right) == (path, True), outcome
    assert outcome.difference < 1e-4


@pytest.mark.parametrize("model_type", ["gemma3n_text", "gemma4_text", "nemotron", "ministral", "falcon"])
def test_odd_configurations_get_the_fast_path(model_type: str) -> None:
    """Layers that share keys and values, sizes a layer, sizes left to be derived, several query heads a key head."""
    outcome = examine(model_type)
    assert (outcome.path, outcome.is_right) == ("shared", True), outcome


@pytest.mark.parametrize("model_type", ["xlnet", "cpmant"])
def test_models_that_look_ahead_are_refused(model_type: str) -> None:
    outcome = examine(model_type)
    assert outcome.path == "refused", outcome
    assert "causal" in outcome.reason or "reads tokens" in outcome.reason
