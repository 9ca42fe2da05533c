"""SVG from matplotlib: the same bytes every time, text as text, and colours that follow the page's theme."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from html import escape
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from steerkit.report.numbers import clean

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK: Final = "#1f2328"
MUTED: Final = "#59636e"
GRID: Final = "#d8dee4"
CARD: Final = "#ffffff"
DIRECTION: Final = "#0072b2"
CONTROL: Final = "#7d8590"
CHOSEN: Final = "#d55e00"
SERIES: Final = (DIRECTION, "#009e73", "#a8558a", "#9a6700", "#3f4cb5", "#5a5f66")
"""From the palette of Okabe and Ito, the lighter ones darkened to stand on white."""
MARKERS: Final = ("o", "s", "^", "D", "v", "P")
"""One for each of them, since not everybody tells them apart by colour."""

THEME: Final[Mapping[str, str]] = MappingProxyType(
    {
        INK: "ink",
        MUTED: "muted",
        GRID: "grid",
        CARD: "card",
        DIRECTION: "direction",
        CONTROL: "control",
        CHOSEN: "chosen",
        **{colour: f"series-{number}" for number, colour in enumerate(SERIES[1:], start=1)},
    }
)
"""Colours of the figures, and the variables of the page that stand in for them."""

_RC: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "svg.fonttype": "none",
        "svg.hashsalt": "steerkit",
        "text.parse_math": False,
        "font.family": "DejaVu Sans",
        "font.size": 9.5,
        "axes.edgecolor": MUTED,
        "axes.labelcolor": MUTED,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlelocation": "left",
        "axes.titlesize": 9.5,
        "axes.titlecolor": INK,
        "axes.unicode_minus": True,
        "axes.formatter.useoffset": False,
        "text.color": INK,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.labelsize": 9,
        "ytick.labelsize": 9,
        "figure.facecolor": CARD,
        "axes.facecolor": CARD,
        "savefig.facecolor": CARD,
        "lines.solid_capstyle": "butt",
    }
)

_FONTS: Final = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'DejaVu Sans', sans-serif"


@dataclass(frozen=True)
class Plot:
    """A figure, drawn.

    Args:
        key: what it shows: ``conditions``, ``separation`` or ``dose``, with the number of its block.
        file: its name under ``plots/``.
        title: what a reader who can't see it is told.
        svg: the whole file.
    """

    key: str
    file: str
    title: str
    svg: str

    @property
    def inline(self) -> str:
        """For a page: no prologue, ids that are its own, colours as variables of the page."""
        body = _in_tags(self._own, self.svg[self.svg.index("<svg") :])
        label = f'role="img" aria-labelledby="{self.key}-title"'
        heading = f'<title id="{self.key}-title">{escape(self.title)}</title>'
        size = re.compile(r'<svg [^>]*?(viewBox="[^"]+")[^>]*>')
        return size.sub(lambda found: f"<svg {found[1]} {label}>{heading}", body, count=1)

    def _own(self, tag: str) -> str:
        tag = re.sub(r'\b(id|xlink:href|href)="(#?)([^"]+)"', rf'\1="\2{self.key}-\3"', tag)
        tag = re.sub(r"url\(#([^)]+)\)", rf"url(#{self.key}-\1)", tag).replace("xlink:href", "href")
        return re.sub(
            r"\b(fill|stroke): (#[0-9a-f]{6})\b",
            lambda found: f"{found[1]}: var(--{THEME[found[2]]}, {found[2]})" if found[2] in THEME else found[0],
            tag,
        )


def _in_tags(change: Callable[[str], str], svg: str) -> str:
    """Apply ``change`` to the tags alone, never to what a name or a label says."""
    return re.sub(r"<[^<>]+>", lambda found: change(found[0]), svg)


def render(draw: Callable[[], Figure]) -> str:
    """Call ``draw`` under this module's settings and return the SVG.

    Raises nothing of its own: a character that the measuring font lacks is still written, and the
    reader's font shows it.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    settings: Any = _RC
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(settings)
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        buffer = io.StringIO()
        no_dates = {"Date": None, "Creator": None, "Format": None, "Type": None}
        canvas: Any = FigureCanvasSVG(draw())
        canvas.print_svg(buffer, metadata=no_dates)
    return _tidy(buffer.getvalue())


def make_plot(kind: str, number: int, names: Iterable[str], title: str, draw: Callable[[], Figure]) -> Plot:
    """Draw a figure, with a key and a file of its own.

    Args:
        kind: of figure, with which key and file begin.
        number: of this one among those of its kind.
        names: what it is of, for its file.
        title: what a reader who can't see it is told.
        draw: makes it.
    """
    slug = re.sub(r"[^a-z0-9_.]+", "-", "-".join(names).lower()).strip("-.")[:60]
    file = "-".join(part for part in (kind, str(number), slug) if part) + ".svg"
    return Plot(f"{kind}-{number}", file, clean(title), render(draw))


def _tidy(svg: str) -> str:
    svg = re.sub(r"[ \t]+\n", "\n", svg)
    return _in_tags(lambda tag: tag.replace("'DejaVu Sans'", _FONTS), svg)
