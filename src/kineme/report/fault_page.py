"""data_check.html: what is wrong with a data set, as a page that makes no request.

Promises: every string of the user is escaped; no script.
Leaves out: finding it.
"""

from collections.abc import Mapping
from typing import Any

from kineme.report.environment import environment

SHOWN = 2000  # faults; all of them are in the JSON


def render_faults(facts: Mapping[str, Any]) -> str:
    """The page, from the facts of data_check.json."""
    pages = environment()
    pages.filters["percent"] = lambda share: "" if share is None else f"{100 * share:.1f} %"
    return pages.get_template("data_check.html").render(facts=facts, shown=SHOWN)
