"""How figures are drawn: matplotlib's SVG output, cleaned so that it can be part of the page.

Colours are placeholders that become the page's CSS variables, so that one drawing serves light, dark and
print; text stays text in the page's font. The global state of matplotlib is not touched: no pyplot, and
settings in a context.
"""

import html
import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hilbert_ray.reporting.html import Html

WIDTH = 400
"""Units of a drawing's width; a unit is 0.85 pixels on a narrow phone and 1.1 on a desktop."""
# matplotlib refuses `var(--ink)`, so that it gets hex placeholders, which `_clean` replaces.
NAMES = ("ink", "muted", "rule", "panel", "accent", "good", "bad", *(f"c{i}" for i in range(8)))
INK, MUTED, RULE, PANEL, ACCENT, GOOD, BAD, *SERIES = (f"#0a0a{i:02x}" for i in range(len(NAMES)))
"""Colours that occur nowhere else: #0a0a00, #0a0a01, ...; the last byte is an index of `NAMES`."""
STYLES = ("-", "--", ":", "-.")
SETTINGS = {
    # Text and not outlines: it can be searched and selected, and is smaller.
    "svg.fonttype": "none",
    # A fixed salt: matplotlib's ids are random otherwise, and the same run must give the same bytes.
    "svg.hashsalt": "hilbert-ray",
    # A dollar sign in a class name is not a formula.
    "text.parse_math": False,
    # Comes with matplotlib, so that text is measured alike on every machine; the browser draws it in its own
    # font.
    "font.family": "DejaVu Sans",
    "font.size": 12,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    # The page's background shows through, light or dark.
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.labelsize": 12,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 11.5,
    "ytick.labelsize": 11.5,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "legend.frameon": False,
    "legend.fontsize": 11.5,
    "legend.title_fontsize": 11.5,
    "legend.handlelength": 1.6,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "figure.constrained_layout.use": True,
    # In inches, as matplotlib wants it: 4 units.
    "figure.constrained_layout.h_pad": 4 / 72,
    "figure.constrained_layout.w_pad": 4 / 72,
    "path.simplify": True,
}


def draw(
    height: float,
    label: str,
    paint: Callable[[Sequence[Axes]], None],
    rows: int = 1,
    columns: int = 1,
    height_ratios: Sequence[float] | None = None,
) -> Html:
    """Return a drawing as inline SVG.

    Args:
        height: in units, where the width is `WIDTH`.
        label: what the picture shows, in words, for readers who do not see it.
        paint: draws into all axes, which it gets row by row.
        rows: of axes.
        columns: of axes.
        height_ratios: of the rows; equal where None.
    """
    with settings():
        # At 72 dpi a unit of the drawing is a point, so that font sizes are in units as well.
        figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)
        axes = figure.subplots(rows, columns, squeeze=False, height_ratios=height_ratios)
        paint([axis for row in axes for axis in row])
        raw = io.StringIO()
        # Date and creator would change from run to run.
        figure.savefig(raw, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return inline(raw.getvalue(), label)


@contextmanager
def settings() -> Iterator[None]:
    """Apply the report's settings of matplotlib, and silence warnings of letters that its font lacks.

    The reader's browser draws the text, with its own fonts.
    """
    with matplotlib.rc_context(), warnings.catch_warnings():
        # First, so that a matplotlibrc on this machine has no effect.
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def inline(svg: str, label: str) -> Html:
    """Return matplotlib's SVG file as an element of a page: no prolog, metadata, styles or shared ids."""
    # A page has one prolog, and no place for the metadata of a file.
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    # A style element inside a drawing would apply to the whole page.
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)
    box = re.search(r'viewBox="([^"]*)"', body)
    assert box, "matplotlib writes a viewBox"
    inside = body[body.index(">") + 1 : body.rindex("</svg>")]
    # Tags only: a class may be named like a colour, a font or a number.
    inside = in_tags(_clean, inside)
    # matplotlib gives every shape an id; only those that something refers to are needed.
    used = set(re.findall(r'(?:url\(|href=")#([\w-]+)', inside))
    inside = in_tags(
        lambda tag: re.sub(r' id="([\w.-]+)"', lambda m: m[0] if m[1] in used else "", tag), inside
    )
    inside = re.sub(r"\s*\n\s*", "\n", inside)
    # Groups of empty groups become empty in turn; none is nested deeper than this.
    for _ in range(4):
        inside = re.sub(r"<defs>\s*</defs>|<g>\s*</g>", "", inside)
    # `label` has document ids and class names, and goes into an attribute.
    name = html.escape(label)
    return Html(f'<svg viewBox="{box[1]}" role="img" aria-label="{name}">{inside.strip()}</svg>')


def in_tags(change: Callable[[str], str], markup: str) -> str:
    """Return markup with `change` applied to its tags and not to the text between them."""
    return re.sub(r"<[^>]*>", lambda match: change(match[0]), markup)


def _clean(tag: str) -> str:
    """Return a tag with the page's colours and font, and with coordinates cut to two digits."""
    tag = re.sub(r"#0a0a([0-9a-f]{2})", lambda m: f"var(--{NAMES[int(m[1], 16)]})", tag)
    # The size stays, the family is the page's.
    tag = re.sub(r"font: (?:(\d+) )?([\d.]+)px [^;\"]*", _font, tag)
    # Further digits are smaller than a pixel and only make the page larger. `xlink:` needs a namespace that
    # the new root lacks.
    return re.sub(r"(\d+\.\d{2})\d+", r"\1", tag.replace("xlink:href", "href"))


def _font(match: re.Match[str]) -> str:
    weight = f"; font-weight: {match[1]}" if match[1] else ""
    return f"font-size: {match[2]}px{weight}"


def with_unique_ids(page: str) -> str:
    """Return a page in which no two drawings share an id: matplotlib gives equal shapes equal ids."""
    # Browsers resolve an id to its first place on the page: a drawing would be clipped by another one's
    # frame. Numbered in page order, so that the same run gives the same ids.
    pictures = iter(range(page.count("<svg ")))

    def renamed(match: re.Match[str]) -> str:
        prefix = f"p{next(pictures)}-"
        return in_tags(
            lambda tag: re.sub(r'( id="|url\(#|href="#)(?=[\w-])', rf"\g<1>{prefix}", tag), match[0]
        )

    return re.sub(r"<svg .*?</svg>", renamed, page, flags=re.DOTALL)


def shorten(name: str, most: int = 24) -> str:
    """Return a name that fits a picture; tables hold the full name."""
    return name if len(name) <= most else f"{name[: most - 1]}\u2026"


def colour(k: int) -> str:
    """Return the colour of series k."""
    return SERIES[k % len(SERIES)]


def style(k: int) -> str:
    """Return the line style of series k: another dash each time the colours repeat."""
    return STYLES[(k // len(SERIES)) % len(STYLES)]


def legend(axes: Sequence[Axes], columns: int = 2, is_reversed: bool = False, title: str = "") -> None:
    """Put one legend above all axes, each name once, under an optional title."""
    named: dict[str, Artist] = {}
    for axis in axes:
        for handle, name in zip(*axis.get_legend_handles_labels(), strict=True):
            named.setdefault(name, handle)
    # Drawn last lies on top and comes first in a reversed legend.
    entries = list(named.items())[:: -1 if is_reversed else 1]
    names, handles = [name for name, _ in entries], [handle for _, handle in entries]
    # Above and not inside: no corner is free in every run.
    box = axes[0].figure.legend(
        handles, names, loc="outside upper left", ncols=columns, columnspacing=1.2, title=title or None
    )
    # Left, where the names start; matplotlib centres it.
    box.set_alignment("left")
