"""The shared value patterns that verbs use in their schema fragments: ``<ref name="mode"/>``.

Each regular expression is valid, and means the same, in Python's ``re`` and in XML Schema's pattern facet. Every
pattern also accepts a value with a variable in it; expansion checks the value again once it is settled.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

VARIABLE = r".*[$]\{.*"
IDENTIFIER = r"[A-Za-z][A-Za-z0-9_]*"


@dataclass(frozen=True)
class Pattern:
    """*expression* None accepts any text; *meaning* completes "is not …"."""

    expression: str | None
    meaning: str
    variable: bool = True

    @property
    def facet(self) -> str | None:
        """The regular expression, a variable included where allowed."""
        if self.expression is None:
            return None
        return f"({self.expression})|{VARIABLE}" if self.variable else self.expression

    def accepts(self, value: str) -> bool:
        return self.facet is None or re.fullmatch(self.facet, value) is not None


# Numbers of a few thousand digits are none that Python reads: 18 are enough for all, and fit 64 bits.
SHARED = {
    "string": Pattern(None, "text"),
    "text-or-variable": Pattern(None, "text"),
    "word": Pattern(r"\S+", "a single word"),
    "words": Pattern(r"\s*\S.*", "a list of words"),
    "mode": Pattern(r"[0-7]{3,4}", "an octal mode such as 0644"),
    "owner": Pattern(r"[^\s:]+(:[^\s:]+)?", "an owner such as root or www-data:www-data"),
    "yes-no": Pattern(r"yes|no", "yes or no"),
    "path": Pattern(r"/.*", "an absolute path"),
    "integer": Pattern(r"-?[0-9]{1,18}", "a whole number of 18 digits at most"),
    "sha256": Pattern(r"[0-9A-Fa-f]{64}", "a SHA-256 of 64 hexadecimal digits"),
    "name": Pattern(r"[A-Za-z0-9_][A-Za-z0-9_.+\-]*", "a name of letters, digits and _ . + -"),
    "size": Pattern(r"[0-9]{1,18}[KMGT]?", "a size such as 512M or 8G"),
    "part-size": Pattern(
        r"[+]?[0-9]{1,18}[KMGT]?|[0-9]{1,18}%", "a size such as 8G, +500M (what it needs and more) or 50%"
    ),
    "variable": Pattern(VARIABLE, "a value with a variable", variable=False),
    "identifier": Pattern(IDENTIFIER, "an identifier of letters, digits and _", variable=False),
    "node-name": Pattern(
        r"[A-Za-z0-9][A-Za-z0-9_.+\-]{0,199}", "a name of at most 200 letters, digits and _ . + -", variable=False
    ),
}

TYPES = ("string", "integer", "size", "yes-no", "word", "words", "path", "sha256")
"""Those of them that a param can be declared to be."""
