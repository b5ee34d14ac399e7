"""Charts of a report as SVG files: lines through points, or violins.

matplotlib is an extra (``plots``): an agent on a small machine never draws. It is imported here alone, and only when
somebody asks for files. The SVG holds neither date nor random ids: the same report gives the same file.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from shoal_agent.errors import UnavailableError
from shoal_agent.experiments.report import Chart

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE_INCHES: Final = (7.0, 4.5)


def draw(chart: Chart, folder: Path) -> Path:
    """Write ``chart`` into ``folder``; where it stands."""
    figure = _figure()
    axes: Any = figure.subplots()
    axes.set(title=chart.title, xlabel=chart.x, ylabel=chart.y)
    if chart.violins:
        names = list(chart.violins)
        axes.violinplot([list(chart.violins[name]) for name in names], showmeans=True, showextrema=True)
        axes.set_xticks(range(1, len(names) + 1), labels=names, rotation=30, ha="right")
    for name, points in chart.lines.items():
        axes.plot([x for x, _ in points], [y for _, y in points], marker="o", label=name)
    if chart.log_x:
        axes.set_xscale("log")
    if chart.log_y:
        axes.set_yscale("log")
    if chart.lines:
        axes.legend()
    axes.grid(visible=True, alpha=0.3)
    path = folder / f"{chart.name}.svg"
    figure.savefig(path, format="svg", metadata={"Date": None})
    return path


def _figure() -> "Figure":
    """A figure without a window system."""
    try:
        import matplotlib as mpl  # noqa: PLC0415 -- an extra, and half a second that only a drawing costs
        from matplotlib.figure import Figure  # noqa: PLC0415 -- same
    except ImportError as missing:
        raise UnavailableError("charts need matplotlib", "pip install 'shoal[plots]'") from missing
    mpl.rcParams["svg.hashsalt"] = "shoal"
    return Figure(figsize=SIZE_INCHES, layout="constrained")
