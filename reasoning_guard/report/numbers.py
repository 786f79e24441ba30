"""Format numbers for people: enough digits to decide by, and no more."""

from __future__ import annotations

import json
import math
from typing import Any

MINUS = "\N{MINUS SIGN}"
NOTHING = "\N{EM DASH}"


def number(value: float | None, *, share: bool = False) -> str:
    """Format a value. Shares lose their leading zero, large numbers their decimals.

    Args:
        value: Any float; NaN, infinities and None have nothing to show.
        share: Whether the value lies between 0 and 1 by nature.

    Example:
        >>> number(0.742, share=True), number(1.0, share=True), number(2.5), number(-1234.5), number(float("nan"))
        ('.74', '1.00', '2.50', '−1,234', '—')
    """
    if value is None or not math.isfinite(value):
        return NOTHING
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    text = f"{abs(value):,.{digits}f}"
    if share and text.startswith("0."):
        text = text[1:]
    return MINUS + text if value < 0 and float(text.replace(",", "")) != 0 else text


def signed(value: float) -> str:
    """Format a change, with its sign unless it rounds to nothing.

    Args:
        value: Any float.

    Example:
        >>> signed(1.5), signed(-0.3), signed(0.001)
        ('+1.50', '−0.30', '0.00')
    """
    return f"+{number(value)}" if value >= 0.005 else number(value)


def seconds(value: float) -> str:
    """Format a duration.

    Args:
        value: Seconds.

    Example:
        >>> seconds(0.04), seconds(12.3), seconds(754), seconds(7500)
        ('0.04 s', '12 s', '12 min 34 s', '2 h 05 min')
    """
    if not math.isfinite(value):
        return NOTHING
    if value < 10:
        return f"{value:.2f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def setting(value: Any) -> str:
    """Format a configuration value: strings as they are, the rest as JSON if JSON can express it.

    Example:
        >>> setting("warn"), setting({"a": [1, 2]}), setting(0.05)
        ('warn', '{"a": [1, 2]}', '0.05')
    """
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
