"""The little Markdown that studies write, tables, lists and paragraphs, as HTML."""

import re

from markupsafe import Markup, escape

_RULE = re.compile(r"\|[\s:|-]+\|")


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
    def row(line, tag):
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        made = (Markup(f"<{tag}>{{}}</{tag}>").format(_inline(cell)) for cell in cells)
        return Markup("<tr>{}</tr>").format(Markup("").join(made))

    body = Markup("").join(row(line, "td") for line in lines)
    return Markup(
        '<div class="wide" tabindex="0" role="region" aria-label="table"><table>'
        "<thead>{}</thead><tbody>{}</tbody></table></div>"
    ).format(row(head, "th"), body)


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
