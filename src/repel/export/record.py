"""embedding.json, which says what the features in a folder were made of. Imports no torch."""

import json
from pathlib import Path
from typing import Any

__all__ = ["RECORD", "is_of_items", "is_of_texts", "name_column", "read_record"]

RECORD = "embedding.json"  # in the folder: the data and the checkpoint of the features


def read_record(folder: Path) -> dict[str, Any]:
    """Raises ValueError where embed.py wrote none there."""
    if not (folder / RECORD).is_file():
        raise ValueError(f"{folder} holds no features (no {RECORD}); make them: python embed.py ckpt=RUN")
    record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    return record


def is_of_texts(record: dict[str, Any]) -> bool:
    return "texts" in record


def is_of_items(record: dict[str, Any]) -> bool:
    """Whether it is of users and items."""
    return "items" in record


def name_column(record: dict[str, Any]) -> str:
    """What people know a row by."""
    return "text" if is_of_texts(record) else "name" if is_of_items(record) else "file"
