"""Choose which framework's ``Callback`` to be: both frameworks have their own, and neither knows the other's."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning.pytorch import Callback as CallbackBase
else:

    def _callbacks() -> tuple[type[Any], ...]:
        """``Callback`` of the framework that the script has imported; of each that is installed when it has none.

        So the framework that a script does not use is not imported for it.
        """
        names = ("lightning.pytorch", "pytorch_lightning")
        used = [name for name in names if name in sys.modules]
        there = [name for name in names if find_spec(name.partition(".")[0]) is not None]
        return tuple(import_module(name).Callback for name in used or there)

    CallbackBase = type("CallbackBase", _callbacks(), {"__doc__": "The ``Callback`` of the frameworks in use."})

__all__ = ["CallbackBase"]
