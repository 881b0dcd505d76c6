"""Secrets of the environment: a run may use them, and no file of it may hold them."""

import os
import re
from typing import Any

SECRET = re.compile("key|token|secret|passw|credential", re.IGNORECASE)  # in the name of an environment variable
SHORT = 8  # characters; a shorter value is found in too many words


def secrets() -> dict[str, str]:
    """Value -> name of the environment's variables that are called like secrets."""
    return {value: name for name, value in os.environ.items() if SECRET.search(name) and len(value) >= SHORT}


def without_secrets(value: Any) -> Any:
    """Containers in which a secret's value is the interpolation that finds it again, so that no file ever holds it."""
    known = secrets()
    return replaced(value, known) if known else value


def replaced(value: Any, known: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: replaced(item, known) for key, item in value.items()}
    if isinstance(value, list):
        return [replaced(item, known) for item in value]
    if isinstance(value, str):
        for secret, name in known.items():
            value = value.replace(secret, f"${{oc.env:{name}}}")
    return value


def check_secrets(overrides: list[str]) -> None:
    """Raises ValueError where a secret was typed: Hydra and a run keep what was typed."""
    for override in overrides:
        for secret, name in secrets().items():
            if secret in override:
                key = override.split("=")[0]
                instead = f"{key}='${{oc.env:{name}}}'"
                raise ValueError(f"{key} holds the value of ${name}, which would be kept: type {instead}")
