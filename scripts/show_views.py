"""A contact sheet of images, their views and the drawn parameters: python scripts/show_views.py data=... views=...

Takes the options of train.py, and images=8: how many. What it shows is what training with these options begins with.
"""

from repel.cli.main import show_views as main

if __name__ == "__main__":
    main()
