"""Scores on disk as they come, from several processes, so that a kill costs no more than one chunk."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from reasoning_guard.atomic import replace_file
from reasoning_guard.errors import ConfigurationError
from reasoning_guard.offline.jsonl import append, drop_torn, line, read_whole


class ScoreFile:
    """A file of scores in the making: ``<name>.part-<process>`` until it is whole, then ``<name>``.

    Beside it, ``<name>.run.json`` says what was scored and how, so that scores of different settings are never mixed.

    Args:
        path: Where the whole file goes.
        settings: What must be unchanged for a stopped scoring to go on.
    """

    def __init__(self, path: str | os.PathLike[str], settings: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.settings = dict(settings)
        self._run = self.path.with_name(self.path.name + ".run.json")

    def begin(self) -> set[int]:
        """Take up what is there. Called by the main process only, before any other writes.

        Returns:
            The lines that are scored already.

        Raises:
            ConfigurationError: The files were made with other settings, or not by this package.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.check({**dict.fromkeys(self._before() or ()), **self.settings})
        for part in self._parts():
            drop_torn(part)
        replace_file(self._run, (json.dumps(self.settings, indent=2) + "\n").encode())
        return {record["line"] for record in self.records()}

    def check(self, known: Mapping[str, Any]) -> None:
        """See that what is there may be gone on with, as far as settings are known.

        Args:
            known: Settings, or some of them: what can be said before a model is loaded.

        Raises:
            ConfigurationError: The files were made with other settings, or not by this package.
        """
        before = self._before()
        if before is None:
            if self.path.exists():
                raise ConfigurationError(
                    f"{self.path} exists and holds no scores of ours; give another file to write to"
                )
            return
        changed = sorted(k for k in known if before.get(k) != known[k])
        if changed:
            what = "; ".join(f"{k}: {before.get(k)} then, {known[k]} now" for k in changed)
            raise ConfigurationError(
                f"{self.path} was begun with other settings ({what}); give another file to write to, or remove "
                f"{self._run.name} and what belongs to it"
            )

    @property
    def is_whole(self) -> bool:
        """Say whether the scoring has ended."""
        return self.path.exists()

    def add(self, process: int, records: Iterable[Mapping[str, Any]]) -> None:
        """Keep the scores of one chunk. When this returns, they are on the disk."""
        append(self.path.with_name(f"{self.path.name}.part-{process}"), records)

    def records(self) -> list[dict[str, Any]]:
        """Return what is scored so far, in the order of the traces.

        Raises:
            ConfigurationError: A file holds something other than scores.
        """
        found: dict[int, dict[str, Any]] = {}
        for file in [self.path] if self.is_whole else self._parts():
            try:
                found |= {record["line"]: record for record in read_whole(file)}
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigurationError(
                    f"{file} holds something else than scores of ours; give another file to write to, or move it away"
                ) from error
        return [found[number] for number in sorted(found)]

    def finish(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Write the whole file and remove its parts."""
        replace_file(self.path, b"".join(map(line, records)))
        for part in self._parts():
            part.unlink()

    def _parts(self) -> list[Path]:
        """Return the parts, without a glob, which would take brackets in a name for a pattern."""
        return sorted(path for path in self.path.parent.iterdir() if path.name.startswith(f"{self.path.name}.part-"))

    def _before(self) -> dict[str, Any] | None:
        """Return the settings that the files were begun with; None if none were."""
        if not self._run.exists():
            return None
        try:
            return dict(json.loads(self._run.read_text("utf-8")))
        except (ValueError, TypeError) as error:
            raise ConfigurationError(
                f"{self._run} holds no settings of ours; give another file to write to, or move it away"
            ) from error
