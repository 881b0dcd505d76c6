"""A contact sheet of images, their views and the views' parameters: python scripts/show_views.py data=... views=...

Takes the options of train.py, and the number of images, images=8. It shows the first views that training with these
options would use.
"""

from repel.base.scripts import begin_script

begin_script(__name__)

from repel.cli.main import show_views as main

if __name__ == "__main__":
    main()
