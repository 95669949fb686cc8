"""Code blocks of pages of the documentation."""

import re


def blocks(text: str, language: str) -> list[str]:
    """Return the contents of the fenced code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
