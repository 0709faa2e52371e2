"""Whether a search that a job is asked for can be made: told before there is a job.

Promises: settings of the search and the space that they and the spec make are checked as the search
itself will, all problems told at once. Nothing is written, no data are looked at.
Leaves out: what only the data tell, and where the search writes (trial_specs.py).
"""

from collections.abc import Mapping
from typing import Any

from kineme.automl.algorithms import check
from kineme.automl.settings import read_settings
from kineme.automl.space import build_space
from kineme.skills import load_schema
from kineme.spec.schema import resolved


def check_asked(network: str, block: Mapping[str, Any], spec: Any) -> tuple[str, ...]:
    """Notes on the block `automl` of a training. spec: of the training, None where it is wrong.

    Raises SpecError with all problems.
    """
    epochs = None if spec is None else spec.train.num_epochs
    settings, notes = read_settings(block, num_epochs=epochs)
    if spec is None:
        return notes
    space, ignored = build_space(
        load_schema(network, "train"), resolved(spec), settings, idle=dict(spec.ignored())
    )
    return (*notes, *ignored, *check(space, settings))
