"""What the pages of the docs hold."""

import re

NEW_FILE = re.compile(r"^`([\w/.]+)`:\n\n```\w+\n(.*?)```", re.MULTILINE | re.DOTALL)  # a file that the page adds
