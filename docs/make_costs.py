"""Put the README's cost table together from benchmarks/RESULTS.md: ``python docs/make_costs.py``, or ``make docs``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README, RESULTS = ROOT / "README.md", ROOT / "benchmarks" / "RESULTS.md"
BEGIN, END = "<!-- costs: begin, made by docs/make_costs.py -->", "<!-- costs: end -->"

COLUMNS = {
    "model, vocabulary": "model, vocabulary",
    "n": "steps",
    "answer": "answer tokens",
    "shared / (c)": "the shared pass, in plain forwards of the trace",
    "shared / (d)": "in the limit (one forward over the unique tokens)",
    "(a) / shared": "one forward a prefix, in shared passes",
}
"""Columns of the results and what the README calls them."""
TABLE, LONGEST = "## One trace", "8"
"""The results' table that is shown, and of it the longest answers, where sharing gains least."""


def readme() -> str:
    """The README with the table as the results have it now."""
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def table() -> str:
    """One trace at a time and the longest answers: every model and number of steps that was measured."""
    lines = [COLUMNS.values(), ["---"] * len(COLUMNS)]
    lines += [[_median(row[name]) for name in COLUMNS] for row in rows() if row["answer"] == LONGEST]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def rows() -> Iterator[dict[str, str]]:
    """The rows of the results' table, by column name."""
    names: list[str] = []
    _, _, rest = RESULTS.read_text(encoding="utf-8").partition(f"{TABLE}\n")
    shown, _, _ = rest.partition("\n## ")
    for line in shown.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []
        if cells and not names:
            names = cells
        elif cells and not set(line) <= set("|-: "):
            yield dict(zip(names, cells, strict=True))


def _median(cell: str) -> str:
    """A cell without its range; what was not run says so."""
    plain = re.sub(r"\s*\(.*?\)", "", cell)
    return plain if plain not in ("–", "-", "") else "not run"


if __name__ == "__main__":
    README.write_text(readme(), encoding="utf-8")
