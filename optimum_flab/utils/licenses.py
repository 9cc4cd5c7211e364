"""Which files hold licences and notices, by their names."""

from __future__ import annotations

import re


# the whole name, with the licence or its purpose, and a text suffix
LICENSE_FILE = re.compile(
    r"(licen[sc]e|notice|copying|use_policy)"
    r"([-_.](apache|mit|bsd|isc|mpl|[al]?gpl|cc|openrail|gemma|llama|code|model|weights|data)([-_.]?v?\d[\d.]*)?)?"
    r"(\.(txt|md|rst|pdf|html))?",
    re.IGNORECASE,
)


def is_license_file(name: str) -> bool:
    """Whether a file of this name holds a licence or a notice: `LICENSE-MIT` and `notice.txt` do, `license.key` and
    `LICENSE_PASSWORD.txt` do not."""
    return LICENSE_FILE.fullmatch(name) is not None
