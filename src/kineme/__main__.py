"""`python -m kineme`: the same as `kineme`, where scripts are not on the path."""

import sys

from kineme.cli import main

if __name__ == "__main__":  # processes that are spawned import this file under another name
    sys.exit(main())
