"""A one-page HTML report that stands alone: pictures and the video are embedded."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pointworld.files import write_text

STYLE = """
body{font:16px/1.55 system-ui,sans-serif;margin:0;background:#f4f5f7;color:#1e2228}
main{max-width:1100px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:28px;margin:8px 0 2px} h2{font-size:20px;margin:34px 0 10px}
p.lead{color:#525a66;margin:0 0 18px}
figure{margin:0 0 18px;background:#fff;border:1px solid #e1e4e8;border-radius:10px;overflow:hidden}
figure img,figure video{display:block;width:100%}
figcaption{padding:10px 14px;color:#525a66;font-size:14px}
table{border-collapse:collapse;background:#fff;border:1px solid #e1e4e8;border-radius:10px}
th,td{padding:8px 16px;text-align:right;border-bottom:1px solid #eceef1}
th:first-child,td:first-child{text-align:left}
"""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading, a paragraph, pictures (path, caption), an MP4, and a table whose first row is its heading."""

    title: str
    text: str = ""
    pictures: Sequence[tuple[Path, str]] = ()
    video: Path | None = None
    table: Sequence[Sequence[str]] = ()


def write_report(
    path: Path, *, title: str, lead: str, sections: Sequence[Section], facts: Mapping[str, str]
) -> None:
    """Write the page."""
    body = [f"<h1>{html.escape(title)}</h1><p class=lead>{html.escape(lead)}</p>"]
    body += [_section(section) for section in sections]
    rows = "".join(
        f"<tr><td>{html.escape(k)}</td><td>{html.escape(v)}</td></tr>" for k, v in facts.items()
    )
    body.append(f"<h2>How it was made</h2><table>{rows}</table>")
    page = (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width,initial-scale=1'>"
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )
    write_text(path, page)


def _section(section: Section) -> str:
    parts = [f"<h2>{html.escape(section.title)}</h2>"]
    if section.text:
        parts.append(f"<p>{html.escape(section.text)}</p>")
    for picture, caption in section.pictures:
        parts.append(
            f"<figure><img alt='{html.escape(caption)}' src='{_embedded(picture, 'image/png')}'>"
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        )
    if section.video is not None:
        source = _embedded(section.video, "video/mp4")
        parts.append(
            f"<figure><video src='{source}' controls loop muted autoplay></video></figure>"
        )
    if section.table:
        head, *rows = section.table
        cells = "".join(f"<th>{html.escape(c)}</th>" for c in head)
        lines = "".join(
            "<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in rows
        )
        parts.append(f"<table><tr>{cells}</tr>{lines}</table>")
    return "".join(parts)


def _embedded(path: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
