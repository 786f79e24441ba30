"""Every causal language model that the installed Transformers can build ends exact, whichever path it takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers

from benchmarks.architectures import BEGIN, END, examine, examine_all, model_types, table

PAGE = Path(__file__).resolve().parent.parent / "docs" / "scoring.md"


@pytest.mark.exhaustive
@pytest.mark.timeout(2400)
def test_no_architecture_is_silently_wrong() -> None:
    outcomes = list(examine_all(model_types()))
    print(table(outcomes))
    assert [each for each in outcomes if not each.is_right] == []
    paths = [each.path for each in outcomes]
    assert paths.count("shared") > len(paths) / 3, "the comparison is worth little if hardly any model shares"
    written = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    if f"Transformers {transformers.__version__}," in written:
        names = {each.path: {e.model_type for e in outcomes if e.path == each.path} for each in outcomes}
        shared = written.partition("**One shared pass, exact**")[2].partition("\n")[0]
        assert all(f"`{name}`" in shared for name in names["shared"]), "run python -m benchmarks.architectures --out"


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
