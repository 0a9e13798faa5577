"""Every file by its place, for docs/architecture.md: a table for each room, made from the first lines of the files.

`python -m scripts.file_table` prints the tables, `--write` puts them between their two marks. A test compares.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "architecture.md"
PACKAGES = ("inn_core", "models", "service")
BEGIN = "<!-- files: written by scripts/file_table.py -->\n"
END = "<!-- end of files -->\n"


def file_tables() -> str:
    """A heading and a table for every folder that holds files of ours, in alphabetical order."""
    folders: dict[Path, list[Path]] = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if path.name != "__init__.py" or path.read_text(encoding="utf-8").strip():
                folders.setdefault(path.parent.relative_to(ROOT), []).append(path)
    parts = []
    for folder in sorted(folders):
        rows = [f"| `{path.stem}` | {first_line(path)} |" for path in folders[folder]]
        parts.append("\n".join([f"### `{folder}/`", "", "| file | what it is |", "|---|---|", *rows, ""]))
    return "\n" + "\n".join(parts) + "\n"


def first_line(path: Path) -> str:
    """The first paragraph of a file's docstring, on one line."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.partition("\n\n")[0].split()).replace("|", "\\|")


def with_tables(text: str) -> str:
    """The document with the tables between its marks replaced by the current ones.

    Raises:
        ValueError: the marks are not there, once each and in order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{DOCUMENT.name} needs the lines {BEGIN!r} and {END!r}, in this order")
    return before + begin + file_tables() + end + after


def main() -> None:
    """Print the tables, or write them into the document with `--write`."""
    if "--write" in sys.argv[1:]:
        DOCUMENT.write_text(with_tables(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(file_tables())


if __name__ == "__main__":
    main()
