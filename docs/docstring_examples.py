"""For make docs: docstrings as mkdocstrings reads them."""

import re
import textwrap

import griffe


class DocstringExamples(griffe.Extension):
    """Examples stand in docstrings without a title, and ranges begin with >: in Markdown both would be quotations."""

    def on_object(self, *, obj: griffe.Object, **_) -> None:
        if obj.docstring:
            obj.docstring.value = titled(re.sub(r"(?m)^(\s+[^:\n]+: )>", r"\1\>", obj.docstring.value))


def titled(text: str) -> str:
    """From the first >>> to the end, as a section that mkdocstrings shows as code."""
    text = re.sub(r"(?m)^Examples?:\n(?=\s+>>> )", "Examples:\n", text)
    if found := re.search(r"(?m)^>>> ", text):
        text = text[: found.start()] + "Examples:\n" + textwrap.indent(text[found.start() :], "    ")
    return text
