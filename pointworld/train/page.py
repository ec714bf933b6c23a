"""Generated parts of a documentation page: what stands between two marks is replaced, the rest is left alone.

<!-- generated: summary -->
| predictor | ...
<!-- end: summary -->
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pointworld.errors import InputError

_MARK = re.compile(r"<!-- (generated|end): ([a-z0-9_-]+) -->")


def page_blocks(text: str) -> list[str]:
    """Names of the generated parts of a page, in order.

    Raises:
        InputError: a mark without its other half, or one part inside another.
    """
    names: list[str] = []
    opened: str | None = None
    for kind, name in _MARK.findall(text):
        if (kind == "generated") != (opened is None) or (kind == "end" and name != opened):
            raise InputError(
                f"the page's mark '{kind}: {name}' has no other half, or stands inside the part '{opened}'"
            )
        opened = name if kind == "generated" else None
        if kind == "generated":
            names.append(name)
    if opened is not None:
        raise InputError(f"the page's part '{opened}' has no mark 'end: {opened}'")
    return names


def fill_page(text: str, blocks: Mapping[str, str]) -> str:
    """The page with the parts in `blocks` replaced; other parts stay as they are.

    Raises:
        InputError: marks that do not match, or none of the parts is on the page.
    """
    names = page_blocks(text)
    if not set(names) & set(blocks):
        raise InputError(
            f"the page has no part to fill: it marks {names or 'none'}, and there are {', '.join(blocks)}. "
            "Mark a part with <!-- generated: NAME --> and <!-- end: NAME -->"
        )
    for name in names:
        if name in blocks:
            begin, end = f"<!-- generated: {name} -->", f"<!-- end: {name} -->"
            before, _, rest = text.partition(begin)
            _, _, after = rest.partition(end)
            text = f"{before}{begin}\n{blocks[name].strip()}\n{end}{after}"
    return text
