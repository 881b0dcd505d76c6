"""Pack a folder of images into shards for data=stream: python scripts/pack_shards.py DIR OUT (--help says more)"""

from repel.base.scripts import begin_script

begin_script(__name__)

import sys

from repel.base.signals import ends_on_signal


@ends_on_signal
def main() -> int:
    from repel.images.pack_shards import main

    return main()


if __name__ == "__main__":
    sys.exit(main())
