"""Pack a folder of images into shards for data=stream: python scripts/pack_shards.py DIR OUT (--help says more)"""

import sys

from repel.images.pack_shards import main

if __name__ == "__main__":
    sys.exit(main())
