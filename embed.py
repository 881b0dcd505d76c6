"""Features of every image or text of a set: python embed.py ckpt=RUN_OR_FILE data=image_folder data.root=DIR"""

from repel.base.scripts import begin_script

begin_script(__name__)

from repel.cli.main import embed as main

if __name__ == "__main__":
    main()
