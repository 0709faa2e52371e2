"""What can be done with a network: one file, one action, `run(network, spec) -> facts`."""

from collections.abc import Mapping

# Import paths, so that help needs no torch.
ACTIONS: Mapping[str, str] = {
    "dataset_convert": "kineme.actions.dataset_convert:run",
    "train": "kineme.actions.train:run",
    "evaluate": "kineme.actions.evaluate:run",
    "inference": "kineme.actions.inference:run",
    "export": "kineme.actions.export:run",
}
