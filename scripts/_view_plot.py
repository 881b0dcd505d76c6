"""The picture of docs/benchmarks/views.md, for benchmark_views.py."""

import re

from _benchmark import PAGES


def plot() -> None:
    """Draw the page's tables of speeds."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    parts = (PAGES / "views.md").read_text(encoding="utf-8").split("\n## `views=")[1:]
    figure, axes = plt.subplots(1, len(parts), figsize=(4.6 * len(parts), 3.4), squeeze=False)
    for axis, part in zip(axes[0], parts, strict=True):
        rows = re.findall(r"^\| (.+?) \| ([\d,]+) \(([\d,]+) to ([\d,]+)\)", part.partition("\n## ")[0], re.MULTILINE)
        names = [name.replace("`", "").replace("views.", "") for name, *_ in rows]
        middle, low, high = ([int(x.replace(",", "")) for x in column] for column in list(zip(*rows, strict=True))[1:])
        error = [[m - x for m, x in zip(middle, low, strict=True)], [x - m for m, x in zip(middle, high, strict=True)]]
        colors = ["C0" if name.startswith("repel") else "0.6" for name in names]
        axis.barh(range(len(rows)), middle, xerr=error, color=colors)
        axis.set_yticks(range(len(rows)), names, fontsize=7)
        axis.invert_yaxis()
        axis.set(xscale="log", xlabel="views/s", title=part.partition("\n")[0].replace("`", ""))
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 3)))  # powers of ten alone are too few
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.tick_params(axis="x", labelsize=7)
        axis.title.set_fontsize(9)
        axis.grid(alpha=0.3, axis="x")
    figure.tight_layout()
    figure.savefig(PAGES / "views.png", dpi=110)
