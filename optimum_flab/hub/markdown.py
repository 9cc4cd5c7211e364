"""Text in Markdown that is shown as it is."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Any


# what has a meaning in Markdown, and what turns an address into a link
MARKUP = re.compile(r"[\\`*\[\]|~]|@(?=[\w-]+\.)|(?<!\w)_|_(?!\w)|(?<=:)/(?=/)|(?<=www)\.", re.IGNORECASE)


def cell(text: Any) -> str:
    """Text that stays inside one cell of a Markdown table and is shown literally: no mark-up, HTML or links."""
    return MARKUP.sub(r"\\\g<0>", one_line(str(text)).replace("&", "&amp;").replace("<", "&lt;")) or "–"


def code(texts: Iterable[str]) -> str:
    """Texts as inline code, separated by commas."""
    return ", ".join("`" + one_line(text).replace("|", "\\|").replace("`", "'") + "`" for text in texts)


def one_line(text: str) -> str:
    """Text on one line, without characters that are not seen, such as those that turn the direction of text."""
    line = " ".join(text.split())
    return "".join(character for character in line if unicodedata.category(character) not in ("Cc", "Cf"))
