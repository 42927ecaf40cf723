"""The little Markdown that studies write, tables, lists and paragraphs, as HTML.

Tables can be sorted: `page.js` reads the keys of their cells.
"""

import re

from markupsafe import Markup, escape

_RULE = re.compile(r"\|[\s:|-]+\|")
_NUMBER = re.compile(r"-?[\d,]+(\.\d+)?(e[+-]?\d+)?")


def as_html(text: str) -> Markup:
    """Tables, lists of `- `, and paragraphs, with `code`; all else is shown as it is written."""
    blocks = re.split(r"\n\s*\n", text.strip())
    return Markup("\n").join(_block(block.splitlines()) for block in blocks if block.strip())


def _block(lines: list[str]) -> Markup:
    if len(lines) > 1 and lines[0].startswith("|") and _RULE.fullmatch(lines[1].strip()):
        return _table(lines[0], lines[2:])
    if all(line.startswith("- ") for line in lines):
        items = (Markup("<li>{}</li>").format(_inline(line[2:])) for line in lines)
        return Markup("<ul>{}</ul>").format(Markup("").join(items))
    return Markup("<p>{}</p>").format(_inline(" ".join(lines)))


def _table(head: str, lines: list[str]) -> Markup:
    def row(line, cell):
        cells = [text.strip() for text in line.strip().strip("|").split("|")]
        return Markup("<tr>{}</tr>").format(Markup("").join(map(cell, cells)))

    def value(text):
        return Markup('<td data-key="{}">{}</td>').format(_key_of(text), _inline(text))

    body = Markup("").join(row(line, value) for line in lines)
    return Markup(
        '<div class="wide" tabindex="0" role="region" aria-label="table"><table class="sortable">'
        "<thead>{}</thead><tbody>{}</tbody></table></div>"
    ).format(row(head, lambda text: sorting_head(_inline(text))), body)


def sorting_head(shown: str | Markup, kind: str = "") -> Markup:
    """Head of a column of a table `sortable`; its button sleeps until the page's script runs.

    Args:
      shown: what it says.
      kind: class of the cell; none if empty.
    """
    chosen = Markup(' class="{}"').format(kind) if kind else ""
    made = Markup('<th scope="col"{}><button type="button" disabled>{}</button></th>')
    return made.format(chosen, shown)


def _key_of(text: str) -> str:
    """What a cell is sorted by: a number without commas, `inf` for "never", nothing for a dash.

    A span from one number to another is sorted by the lower one.
    """
    text = text.strip("*`")
    low, found, high = text.partition(" to ")
    if found and all(_NUMBER.fullmatch(end) or end == "never" for end in (low, high)):
        text = low
    if _NUMBER.fullmatch(text):
        return text.replace(",", "")
    return {"–": "", "never": "inf"}.get(text, text)


def _inline(text: str) -> Markup:
    """Escaped text in which `...` is code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return escape(text)
    made = (
        Markup("<code>{}</code>").format(part) if i % 2 else escape(part)
        for i, part in enumerate(parts)
    )
    return Markup("").join(made)
