"""Where this package lies: in a checkout, src/repel next to conf/, or installed, with conf/ inside it."""

import re
from importlib.metadata import requires
from pathlib import Path

__all__ = ["CHECKOUT", "CONF", "install_extra"]

_PACKAGE = Path(__file__).parents[1]
_ROOT = _PACKAGE.parents[1]
CHECKOUT: Path | None = _ROOT if _PACKAGE.parent.name == "src" and (_ROOT / "pyproject.toml").is_file() else None
CONF = (CHECKOUT or _PACKAGE) / "conf"


def install_extra(extra: str) -> str:
    """The command that installs an extra of this package, such as `wandb`.

    Outside a checkout it names the extra's packages: `pip install 'repel[wandb]'` would ask the package index, where
    repel is another project.
    """
    if CHECKOUT:
        return f"pip install -e '.[{extra}]'"
    lines = [line for line in requires("repel") or [] if re.search(rf"""extra == ['"]{extra}['"]""", line)]
    return "pip install " + " ".join(f"'{line.split(';')[0].strip()}'" for line in lines)
