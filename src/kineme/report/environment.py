"""What all pages are made with: templates whose strings are text, whatever they hold.

Promises: every string of the user is escaped, and its control characters, marks that turn text
around and broken Unicode are spelled out; a name that a template misspells is an error.
Leaves out: the pages, and filters of their own.
"""

from typing import TYPE_CHECKING

from kineme.errors import printable

if TYPE_CHECKING:
    from jinja2 import Environment


def environment(*packages: str) -> "Environment":
    """The templates of `packages`, looked for in this order, and what all pages share."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=ChoiceLoader([PackageLoader(name) for name in (*packages, "kineme.report")]),
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        finalize=_spelled_out,
    )  # fmt: skip


def _spelled_out(value: object) -> object:
    """Control characters and broken Unicode in names are shown, not obeyed."""
    return printable(value) if type(value) is str else value
