"""Parts that go together: the room of a class tells the kind of data that it is for."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["NOUNS", "check_modality", "modality_of", "other_modality"]

NOUNS = {"images": "images", "text": "texts", "interactions": "users and items"}  # room -> what its samples are
OF_PAIRS = ("repel.evaluation.ranking.", "repel.monitoring.validation_ranking.")  # which stand in rooms of all data
FIX = {
    "images": "leave it out; experiment=text trains on texts, experiment=recommendation on users and items",
    "text": "choose parts for texts, as experiment=text does",
    "interactions": "choose parts for users and items, as experiment=recommendation does",
}


def modality_of(node: Any) -> str | None:
    """The room of what a part of a config calls; None: a user's own, or of any data.

    >>> modality_of({"_target_": "repel.images.encoders.SmallResNet"}), modality_of({"_target_": "mine.Encoder"})
    ('images', None)
    """
    target = node.get("_target_") if isinstance(node, Mapping) else None
    if str(target).startswith(OF_PAIRS):
        return "interactions"
    found = re.match(rf"repel\.({'|'.join(NOUNS)})\.", str(target))
    return found and found[1]


def check_modality(config: Mapping[str, Any], chosen: Mapping[str, Any]) -> None:
    """Raises ValueError where parts of a config are for another kind of data than is read.

    Args:
        config: of a run, as it was composed.
        chosen: group -> the choice, for messages.
    """
    ours = modality_of(config["data"]["datamodule"]["read"])
    for key in ("labels", "tasks") if ours == "interactions" else ():
        if config["data"].get(key):
            raise ValueError(
                f"data.{key} labels images or texts, and pairs of users and items have none; labels of items are "
                "data.items=FILE data.item_label=COLUMN of data=interactions_csv"
            )
    _check_item_text((config.get("encoder") or {}).get("item_text"), chosen)
    for key, node in _parts(config):
        theirs = modality_of(node)
        if ours and theirs and ours != theirs:
            name, data = _named(key, chosen), _named("data", chosen)
            raise ValueError(f"{name} is for {NOUNS[theirs]}, and {data} is {NOUNS[ours]}: {FIX[ours]}")


def other_modality(config: Mapping[str, Any], nodes: Mapping[str, Any]) -> list[str]:
    """Names of parts that are for another kind of data than the config's."""
    ours = modality_of(config["data"]["datamodule"]["read"])
    return [name for name, node in nodes.items() if ours and modality_of(node) not in (None, ours)]


def _check_item_text(node: Any, chosen: Mapping[str, Any]) -> None:
    """The one place where a part for texts stands in a part for users and items."""
    key = "encoder@encoder.item_text"
    if isinstance(node, str):
        raise ValueError(f"encoder.item_text={node}: type encoder=two_tower_text {key}={node}")
    if modality_of(node) not in (None, "text"):
        name = f"{key}={chosen[key]}" if key in chosen else "encoder.item_text"
        theirs = NOUNS[str(modality_of(node))]
        raise ValueError(f"{name} is for {theirs}, and items have texts: bag, bag_of_ngrams or transformer")


def _parts(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key in ("encoder", "views"):
        yield key, config.get(key)
    for group in ("callbacks", "evaluators"):
        for name, node in (config.get(group) or {}).items():
            yield f"{group}.{name}", node


def _named(key: str, chosen: Mapping[str, Any]) -> str:
    return f"{key}={chosen[key]}" if key in chosen else key
