"""Names of classes in figures, where a font may lack their letters."""

from collections.abc import Sequence

from repel.base.drawing import is_drawable

__all__ = ["class_name", "drawn_name", "numbered_names"]

MOST = 20  # names in a caption


def class_name(classes: Sequence[str], label: int) -> str:
    """A label's class, or the number where the classes have no names."""
    return classes[label] if 0 <= label < len(classes) else str(label)


def drawn_name(classes: Sequence[str], label: int) -> str:
    """A label's class for a figure; its number where no font has the letters of the name."""
    name = class_name(classes, label)
    return name if is_drawable(name) else str(label)


def numbered_names(classes: Sequence[str]) -> str:
    """' (3: NAME, ...)' for the caption of a figure that has the numbers of classes in place of names; or nothing."""
    numbered = [(label, name) for label, name in enumerate(classes) if not is_drawable(name)]
    shown = [f"{label}: {name.encode(errors='backslashreplace').decode()}" for label, name in numbered[:MOST]]
    return f" ({', '.join(shown)}{', ...' * (len(numbered) > MOST)})" if numbered else ""
