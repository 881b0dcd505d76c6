"""A figure of a ranking: whether it finds popular items alone."""

from collections.abc import Sequence

from repel.evaluation.measurement import Measurement
from repel.evaluation.modality import Plot

__all__ = ["popularity_plot"]

TICKS = ("least popular", "second", "third", "fourth", "most popular")


def popularity_plot(measurements: Sequence[Measurement], k: int) -> Plot | None:
    """Recall by fifths of item popularity, a line for each row of the report; None where it was not measured.

    Args:
        k: the length of the list.
    """
    from matplotlib.figure import Figure

    lines: dict[str, dict[int, tuple[float, float]]] = {}
    headline = None
    for m in measurements:
        name, _, fifth = m.score.key.rpartition("_fifth_")
        if name == f"recall_at_{k}" and fifth:
            row = m.row.label if m.row.layer == "h" or m.row.epoch is None else f"{m.row.label}, {m.row.layer}"
            lines.setdefault(row, {})[int(fifth)] = m.score.value, m.score.settings["ci95"]
            headline = row if m.row.headline and m.row.layer == "h" else headline
    if not lines:
        return None
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for number, (row, points) in enumerate(lines.items()):
        x = [fifth + 0.04 * (number - (len(lines) - 1) / 2) for fifth in points]
        values, errors = zip(*points.values(), strict=True)
        width = 2.4 if row == headline else 1.2
        axes.errorbar(x, values, errors, marker="o", markersize=3, linewidth=width, capsize=2, label=row)
    axes.set(ylabel=f"recall@{k}", xlabel="fifths of the items by their training pairs", ylim=(0, None))
    axes.set_xticks(range(1, len(TICKS) + 1), TICKS)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    caption = f"Recall@{k} of each fifth of the items by popularity, with 95 % intervals; thick: the run's result"
    return Plot("popularity", caption, figure)
