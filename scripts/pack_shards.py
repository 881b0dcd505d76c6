"""Pack a folder of images into shards for data=stream: python scripts/pack_shards.py DIR OUT (--help says more)"""

import sys

from repel.base.signals import ends_on_signal


@ends_on_signal
def main() -> int:
    from repel.images.pack_shards import main

    return main()


if __name__ == "__main__":
    sys.exit(main())
