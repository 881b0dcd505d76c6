"""What scripts with arguments of their own share: help, and one line for a mistake."""

import sys
from collections.abc import Callable

from repel.engine.outcomes import is_mistake

__all__ = ["run_script"]


def run_script(documentation: str | None, run: Callable[[list[str]], None]) -> int:
    """Run a script on what was typed behind its name; its exit status, 2 for the user's mistake.

    Args:
        documentation: what -h and --help print.
        run: takes the arguments.
    """
    if {"-h", "--help"} & set(sys.argv):
        print(documentation)
        return 0
    try:
        run(sys.argv[1:])
    except (ValueError, OSError) as error:
        if isinstance(error, ValueError) and not is_mistake(error):
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0
