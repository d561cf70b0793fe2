"""Results as sections of docs/performance.md, each under a heading of its own that its benchmark may write again."""

from __future__ import annotations

import os
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/performance.md"


def write(heading: str, text: str, page: Path = PAGE) -> None:
    """Put `text` under "## heading" in place of what stands there, or at the end of the page."""
    old, section = page.read_text(encoding="utf-8"), f"## {heading}\n\n{text.strip()}\n"
    found = re.search(rf"^## {re.escape(heading)}$.*?(?=^## |\Z)", old, re.M | re.S)
    if found is None:
        fresh = f"{old.rstrip()}\n\n{section}"
    else:
        rest = old[found.end() :]
        fresh = old[: found.start()] + section + (f"\n{rest}" if rest else "")
    temporary = page.with_suffix(".tmp")
    temporary.write_text(fresh, encoding="utf-8")
    os.replace(temporary, page)
