"""Values -> text of a Markdown table, with a remark where something was not measured."""

from __future__ import annotations

import math
import re
import unicodedata
from typing import Any

from ..measuring.scores import Score, retained, retention_text


MISSING, UNMEASURED = "not recorded", "not measured"
# what has a meaning in Markdown, and what turns an address into a link
MARKUP = re.compile(r"[\\`*\[\]|~]|@(?=[\w-]+\.)|(?<!\w)_|_(?!\w)|(?<=:)/(?=/)|(?<=www)\.", re.IGNORECASE)


def cell(text: Any) -> str:
    """Text that stays inside one cell of a Markdown table and is shown literally: no mark-up, HTML or links."""
    line = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;")
    return MARKUP.sub(r"\\\g<0>", line) or "–"


def heading(text: str) -> str:
    """Text of a heading that is shown literally."""
    return cell(seen(text))


def seen(text: str) -> str:
    """Text without characters that are not seen, such as those that turn the direction of what follows."""
    return "".join(character for character in text if unicodedata.category(character) not in ("Cc", "Cf"))


def code(texts: Any) -> list[str]:
    """The texts of a list as inline code, anything else left out."""
    texts = (
        [seen(" ".join(text.split())) for text in texts if isinstance(text, str)] if isinstance(texts, list) else []
    )
    return ["`" + text.replace("|", "\\|").replace("`", "'") + "`" for text in texts]


def sentence(text: str) -> str:
    """A note as a sentence of a card."""
    return f"{cell(text)[0].upper()}{cell(text)[1:]}."


def count(value: int | None) -> str:
    return MISSING if value is None else f"{value:,}"


def megabytes(value: int | None) -> str:
    """Bytes as MB."""
    return MISSING if value is None else f"{value / 1e6:,.0f} MB"


def decimals(value: float | None) -> str:
    return UNMEASURED if value is None or not math.isfinite(value) else f"{value:.4g}"


def percent(value: float | None, digits: int = 1) -> str:
    """A share between 0 and 1."""
    return UNMEASURED if value is None or not math.isfinite(value) else f"{value:.{digits}%}"


def typeset(text: str) -> str:
    """Terminal text with typographic signs: minus signs, and a dash where there is nothing."""
    return "–" if text == "-" else re.sub(r"(?<![\w-])-(?=[\d∞])", "−", text)


def change(before: float | None, after: float | None) -> str:
    """`after` against `before` in percent, signed; a dash where one is missing."""
    if before is None or after is None or not (math.isfinite(before) and math.isfinite(after)):
        return "–"
    return typeset(retention_text(Score(retained(after, before)), higher_is_better=False))


def changed(before: int, after: int | None) -> str:
    """[`change`] of a size, or that there is none."""
    return "unchanged" if before == after else change(before, after)


def removed_share(before: int, after: int) -> str:
    """The share of `before` that is gone; a dash where there was nothing."""
    return f"{1 - after / before:.1%}" if before else "–"


def joined(words: list[str]) -> str:
    """Words joined as in a sentence."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))
