"""The nearest images to one image: python scripts/search.py QUERY.png EMBED_FOLDER (--help says more)"""

import sys

from repel.cli.search import main

if __name__ == "__main__":
    sys.exit(main())
