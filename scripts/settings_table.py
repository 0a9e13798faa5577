"""The table of settings in README.md, made from `service/ground/settings.py`.

`python -m scripts.settings_table` prints it, `--write` puts it into README.md between its two marks. A test compares.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import get_args

from pydantic.fields import FieldInfo

from service.ground.settings import ApiSettings

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN = "<!-- settings: written by scripts/settings_table.py -->\n"
END = "<!-- end of settings -->\n"
GROUPED_FROM = 100_000
"""Integers from here on are written in groups of three digits; the settings read them so, too."""


def settings_table() -> str:
    """Every setting of the hub as a Markdown table: variable, default, meaning."""
    lines = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in ApiSettings.model_fields.items():
        lines.append(f"| `INN_{name.upper()}` | {_default(field)} | {field.description}{_choices(field)} |")
    return "\n".join(lines) + "\n"


def with_table(text: str) -> str:
    """README text with the table between its marks replaced by the current one.

    Raises:
        ValueError: the marks are not there, once each and in order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md needs the lines {BEGIN!r} and {END!r}, in this order")
    return before + begin + settings_table() + end + after


def _default(field: FieldInfo) -> str:
    value = field.get_default()
    if value is None:
        return "unset"
    grouped = isinstance(value, int) and value >= GROUPED_FROM
    return f"`{value:_}`" if grouped else f"`{value}`"


def _choices(field: FieldInfo) -> str:
    choices = get_args(field.annotation)
    named = [choice for choice in choices if isinstance(choice, str)]
    return f" One of {', '.join(f'`{choice}`' for choice in named)}." if named else ""


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
    elif sys.argv[1:]:
        sys.exit("usage: python -m scripts.settings_table [--write]")
    else:
        print(settings_table(), end="")
