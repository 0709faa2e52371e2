"""Which settings name files, and the values that mean the same file in every folder.

Promises: by a setting's declaration alone, for all who hand specs on to jobs; text that is no
path (an address, a document in JSON where a file may be named) stays as it is.
Leaves out: whether a file is there; fetching what lies at an address (data/remote).
"""

import json
import os
import re
from typing import Any

from kineme.spec.fields import Setting

_NAMES = re.compile(
    r"(\w+_)?(path|dir|file|weights|checkpoint|data|labels|layout|baseline|teacher)"
)


def is_path(declared: Setting) -> bool:
    """Whether a setting names a file or folder."""
    is_free = str in declared.kinds and not declared.rule.choices and not declared.rule.secret
    return is_free and bool(_NAMES.fullmatch(declared.key.rpartition(".")[2]))


def portable(declared: Setting, value: Any) -> Any:
    """The value of a setting, fit to be read in any folder."""
    is_text = isinstance(value, str) and bool(value)
    return absolute(value) if is_text and is_path(declared) and not is_document(value) else value


def absolute(text: str) -> str:
    """A path as it is from here; addresses stay."""
    return text if "://" in text or "\0" in text else os.path.abspath(os.path.expanduser(text))


def is_document(text: str) -> bool:
    """Whether a text that may name a file holds what would be in it, in JSON."""
    if not text.startswith("{"):
        return False
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
