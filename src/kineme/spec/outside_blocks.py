"""Blocks of settings that are handed to other programs as they are: Weights & Biases, cuDNN.

Leaves out: the blocks that kineme itself acts on (sections.py).
"""

from kineme.spec.fields import Section, setting


class Wandb(Section):
    """Logging to Weights & Biases."""

    enable: bool = setting(True, "log to wandb; active only with WANDB_API_KEY or ~/.netrc")
    project: str = setting("TAO Toolkit", "project")
    entity: str | None = setting(None, "user or team")
    group: str | None = setting(None, "group of runs")
    tags: list[str] = setting(
        ["training", "tao-toolkit"], "tags of the run", tao_default=["tao-toolkit"]
    )
    reinit: bool = setting(False, "allow several runs in one process")
    sync_tensorboard: bool = setting(False, "copy what TensorBoard gets")
    save_code: bool = setting(False, "save the code with the run")
    name: str = setting(
        "TAO Toolkit training experiment", "name of the run", tao_default="TAO Toolkit Training"
    )
    run_id: str | None = setting(None, "id of a run to continue")


class Cudnn(Section):
    """How cuDNN chooses its kernels."""

    benchmark: bool = setting(False, "try kernels and keep the fastest")
    deterministic: bool = setting(True, "only kernels that repeat bitwise")
