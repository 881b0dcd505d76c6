"""Is this machine ready? python scripts/doctor.py"""

import sys

from repel.cli.doctor import main

if __name__ == "__main__":
    sys.exit(main())
