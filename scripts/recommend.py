"""Items for a user: python scripts/recommend.py RUN USER [k=10] [--exclude-known] (--help says more)"""

from repel.base.scripts import begin_script

begin_script(__name__)

import sys

from repel.base.signals import ends_on_signal


@ends_on_signal
def main() -> int:
    from repel.cli.recommend import main

    return main()


if __name__ == "__main__":
    sys.exit(main())
