"""HTML pieces of the report: escaped text, numbers, tables, figures, sections, and the page around them.

Everything passes through `text`, which escapes plain strings and leaves `Html` as it is, so that a document
id or a class name can never become markup. A figure cannot be made without the table of its numbers.
"""

import html
import math
import re
from collections.abc import Collection, Sequence
from pathlib import Path

STYLE = Path(__file__).with_name("page.css")
SHORT, LONG = 6, 40
"""Characters: row names up to SHORT get a narrow column, cells above LONG a wide one."""
MINUS, DASH = "\u2212", "\u2013"
"""A real minus is as wide as a plus, so that signed numbers line up; the dash is for values not defined."""


# A type and not a flag: what is escaped carries that with it, so that nothing is escaped twice or never.
class Html(str):
    """Markup: a string that is already escaped."""


Cell = str | int | float | None
"""What a table shows: text (escaped unless it is `Html`), a count, a number with three digits, or a dash."""


def text(value: str) -> Html:
    """Return a string as markup: escaped, unless it is markup already."""
    # The only place where content is escaped, so that there is one place to check; attributes escape their
    # own value.
    return value if isinstance(value, Html) else Html(html.escape(value))


def join(parts: Sequence[str], between: str = "\n") -> Html:
    """Return pieces one after another, each escaped unless it is markup."""
    # `str.join` returns a plain string, which the next `text` would escape again.
    return Html(text(between).join(text(part) for part in parts))


def quoted(name: str) -> str:
    """Return a name in typographic quotes."""
    return f"\u201c{name}\u201d"


def number(value: float | None, digits: int = 3, signed: bool = False) -> Html:
    """Return a number as readers see it, with its full value in an attribute; a dash for None."""
    # metrics.json has null for what is not defined, figures computed here have NaN; both are a dash.
    if value is None or not math.isfinite(value):
        return Html(f'<span class="none" title="not defined">{DASH}</span>')
    # Counts get separators and no digits.
    if isinstance(value, int):
        return Html(f'<data value="{value}">{value:,}</data>')
    rounded = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    # `repr` restores a float exactly, so that tables can be copied without loss. Callers pass Python's
    # floats: NumPy's repr is not a plain number.
    return Html(f'<data value="{value!r}">{rounded.replace("-", MINUS)}</data>')


def probability(value: float | None, name: str = "") -> Html:
    """Return a p-value, `<0.001` where three digits would show 0; with a name as in `p = 0.02`."""
    # The full value stays in the attribute; three digits would print 0, which no p-value is.
    if value is not None and value < 0.001:
        return Html(f'{name}{" " if name else ""}<data value="{value!r}">&lt;&#8239;0.001</data>')
    return Html(f"{name}{' = ' if name else ''}{number(value)}")


def interval(low: float | None, high: float | None, digits: int = 3, signed: bool = False) -> Html:
    """Return the two ends of an interval in words."""
    if low is None or high is None:
        return Html('<span class="none">no interval</span>')
    return Html(f"{number(low, digits, signed)} to {number(high, digits, signed)}")


def estimate(
    value: float | None, low: float | None, high: float | None, digits: int = 3, signed: bool = False
) -> Html:
    """Return a number with its interval in small type below it."""
    below = "" if value is None else f'<span class="interval">{interval(low, high, digits, signed)}</span>'
    return Html(f"{number(value, digits, signed)}{below}")


def code(value: str) -> Html:
    """Return a name or hash in a fixed-width font."""
    return Html(f"<code>{text(value)}</code>")


def paragraph(*sentences: str) -> Html:
    """Return a paragraph of sentences."""
    return Html(f"<p>{join(sentences, ' ')}</p>")


def missing(sentence: str) -> Html:
    """Return the sentence shown where a run lacks the input of a part; `x` becomes code."""
    # Escaped first: the tags that are added must stay tags.
    with_code = re.sub(r"`([^`]*)`", r"<code>\1</code>", text(sentence))
    return Html(f'<p class="missing">{with_code}</p>')


def note(*sentences: str, kind: str = "plain") -> Html:
    """Return a remark that must not be missed; `kind` is plain, good, bad or warning."""
    return Html(f'<p class="note {kind}">{join(sentences, " ")}</p>')


def notes(title: str, items: Sequence[str], kind: str = "plain") -> Html:
    """Return remarks as a list under a title, in one box; `kind` as in `note`."""
    listed = "".join(f"<li>{text(item)}</li>" for item in items)
    return Html(f'<div class="note {kind}"><strong>{text(title)}</strong><ul>{listed}</ul></div>')


def link(section: str, words: str) -> Html:
    """Return words that lead to a section of the page."""
    return Html(f'<a href="#{section}">{text(words)}</a>')


def warned(value: Cell) -> Html:
    """Return a cell with the mark of what must be read with caution; its table or text says why."""
    # The sign is read out as a word: colour and shape alone do not reach every reader.
    return Html(f'<span class="warned" role="img" aria-label="caution">\u25b2</span> {cell(value)}')


def cell(value: Cell) -> Html:
    """Return what a table shows for a value."""
    return text(value) if isinstance(value, str) else number(value)


def table(
    caption: str, head: Sequence[str], rows: Sequence[Sequence[Cell]], marked: Collection[int] = ()
) -> Html:
    """Return a table in a box that scrolls sideways where the page is narrow.

    Args:
        caption: what the table shows; also the name of the box.
        head: names of the columns.
        rows: values; the first of each is the row's name.
        marked: rows to highlight.
    """
    # A column's heading is aligned as its first value.
    sides = ["words", *(_align(value) for value in (rows[0][1:] if rows else head[1:]))]
    columns = "".join(
        f'<th scope="col" class="{side}">{text(name)}</th>' for side, name in zip(sides, head, strict=True)
    )
    body = []
    # For the whole table: one long name makes the column wide anyway.
    short = "" if any(len(str(row[0])) > SHORT for row in rows) else ' class="short"'
    for i, (name, *values) in enumerate(rows):
        cells = "".join(f'<td class="{_align(value)}">{cell(value)}</td>' for value in values)
        mark = ' class="marked"' if i in marked else ""
        body.append(f'<tr{mark}><th scope="row"{short}>{cell(name)}</th>{cells}</tr>')
    return _box(caption, f"<thead><tr>{columns}</tr></thead><tbody>{''.join(body)}</tbody>")


def _align(value: Cell) -> str:
    # A number with its interval is markup too, recognised by its <data> element.
    if not isinstance(value, str) or (isinstance(value, Html) and "<data" in value):
        return "number"
    return "words long" if len(value) > LONG and not isinstance(value, Html) else "words"


def _box(caption: str, inside: str) -> Html:
    # Focusable, so that a keyboard can scroll it; then it needs a role and a name (WCAG 2.1.1, 4.1.2). An
    # `Html` caption is escaped already, without quotes being safe in an attribute.
    label = html.escape(html.unescape(caption), quote=True)
    return Html(
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">'
        f"<table><caption><span>{text(caption)}</span></caption>{inside}</table></div>"
    )


def confusion(caption: str, classes: Sequence[str], counts: Sequence[Sequence[int]]) -> Html:
    """Return confusion counts (rows true, columns predicted), each shaded by its share of the row."""
    columns = "".join(f'<th scope="col">{text(name)}</th>' for name in classes)
    body = []
    for k, (name, row) in enumerate(zip(classes, counts, strict=True)):
        row_sum = sum(row)
        cells = []
        for j, count in enumerate(row):
            # Shades by row: the share of each true class, whatever its size.
            share = count / row_sum if row_sum else 0.0
            right = " right" if j == k else ""
            cells.append(
                f'<td class="shade{right}" style="--share:{share:.3f}">{number(count)}'
                f'<span class="interval">{share:.0%}</span></td>'
            )
        body.append(
            f'<tr><th scope="row">{text(name)}</th>{"".join(cells)}<td '
            f'class="number">{number(row_sum)}</td></tr>'
        )
    head = (
        f'<tr><td></td><th scope="colgroup" colspan="{len(classes)}">predicted</th><td></td></tr>'
        f'<tr><th scope="col">true</th>{columns}<th scope="col">all</th></tr>'
    )
    return _box(caption, f'<thead class="confusion">{head}</thead><tbody>{"".join(body)}</tbody>')


def details(summary: str, *parts: str) -> Html:
    """Return a part that stays closed until the reader opens it."""
    return Html(f"<details><summary>{text(summary)}</summary>{join(parts)}</details>")


def fold(summary: str, *parts: str, is_open: bool = False) -> Html:
    """Return a larger part that can be folded away; unlike `details` it is printed in full."""
    state = " open" if is_open else ""
    return Html(f'<details class="part"{state}><summary>{text(summary)}</summary>{join(parts)}</details>')


def figure(picture: str, caption: str, numbers: str, summary: str = "Numbers of this figure") -> Html:
    """Return a picture with its caption and, closed, the table of its numbers."""
    return Html(
        # Closed, since open tables would bury the pictures; always there, since not everyone can see a
        # picture.
        f'<figure><div class="picture">{text(picture)}</div><figcaption>{text(caption)}</figcaption>'
        f"{details(summary, numbers)}</figure>"
    )


def figures(*items: str) -> Html:
    """Return figures side by side where there is room."""
    return Html(f'<div class="figures">{join(items)}</div>')


def blocks(*items: str, is_narrow: bool = False) -> Html:
    """Return pieces of any kind side by side where there is room; three of them where they are narrow."""
    listed = join([Html(f"<div>{text(item)}</div>") for item in items])
    return Html(f'<div class="figures{" narrow" if is_narrow else ""}">{listed}</div>')


def facts(pairs: Sequence[tuple[str, Cell]]) -> Html:
    """Return short facts, a name above each value."""
    items = "".join(f"<div><dt>{text(name)}</dt><dd>{cell(value)}</dd></div>" for name, value in pairs)
    return Html(f'<dl class="facts">{items}</dl>')


def section(identifier: str, title: str, *parts: str) -> Html:
    """Return one section of the page, with its heading."""
    return Html(
        f'<section id="{identifier}" aria-labelledby="{identifier}-title">'
        f'<h2 id="{identifier}-title">{text(title)}</h2>{join(parts)}</section>'
    )


def heading(level: int, title: str, identifier: str = "") -> Html:
    """Return a heading inside a section; links may lead to its identifier."""
    anchor = f' id="{identifier}"' if identifier else ""
    return Html(f"<h{level}{anchor}>{text(title)}</h{level}>")


def page(title: str, top: str, sections: Sequence[tuple[str, str, Html]], foot: str) -> str:
    """Return the whole document.

    Args:
        title: of the document.
        top: what comes before the sections, with the only h1.
        sections: (id, short name for the table of contents, section).
        foot: last line.
    """
    links = "".join(f'<li><a href="#{anchor}">{text(name)}</a></li>' for anchor, name, _ in sections)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # Without it, scroll bars stay light on a dark page.
        '<meta name="color-scheme" content="light dark">\n'
        # An empty icon: browsers would request one otherwise, and the page needs no network.
        '<link rel="icon" href="data:,">\n'
        # Inlined for the same reason: the report is one file that can be mailed or archived.
        f"<title>{text(title)}</title>\n<style>\n{STYLE.read_text(encoding='utf-8')}</style>\n</head>\n<body>\n"
        # Lets keyboard users pass over the table of contents (WCAG 2.4.1).
        '<a class="skip" href="#main">Skip to the results</a>\n<div class="layout">\n'
        f'<nav class="contents" aria-label="Contents"><ol>{links}</ol></nav>\n'
        f'<main id="main">\n{text(top)}\n{join([body for _, _, body in sections])}\n</main>\n</div>\n'
        f"<footer>{text(foot)}</footer>\n</body>\n</html>\n"
    )
