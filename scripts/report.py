"""A report of a sweep: python scripts/report.py SWEEP [metric=NAME[,NAME]] [against=ROW]"""

from repel.base.scripts import begin_script

begin_script(__name__)

import sys

from repel.base.signals import ends_on_signal


@ends_on_signal
def main() -> int:
    from repel.cli.sweep_report import main

    return main()


if __name__ == "__main__":
    sys.exit(main())
