"""Features of every image or text of a set: python embed.py ckpt=RUN_OR_FILE data=image_folder data.root=DIR"""

from repel.cli.main import embed as main

if __name__ == "__main__":
    main()
