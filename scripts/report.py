"""A report of a sweep: python scripts/report.py SWEEP [metric=NAME[,NAME]] [against=ROW]"""

import sys

from repel.cli.sweep_report import main

if __name__ == "__main__":
    sys.exit(main())
