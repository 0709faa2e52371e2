"""The spec template of an action: every setting with its default, as TAO's templates have them.

Promises: a template is the default of its schema with the network's example values, and
reads back as a spec once what must be set is set. A setting that follows from another is a
comment, so that one may be changed alone; so are those that a checkpoint tells, in evaluate,
inference and export, so that a template fits every checkpoint.
Leaves out: explaining the settings (`kineme spec` prints templates that do).
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from kineme.skills.tao_schema import other_actions, tao_default
from kineme.spec.fields import Section, Setting, blocks, own_settings
from kineme.spec.schema import flow_yaml
from kineme.spec.sections import Spec

OURS = "  # +"
FOLLOWING = frozenset({"gpu_ids", "num_classes"})  # from num_gpus and label_map, in every block


def spec_template(
    model: type[Spec],
    *,
    values: Mapping[str, Any],
    told_by_checkpoint: Collection[str],
    schema: str,
) -> str:
    """A YAML spec of the model's action.

    values: what is shown in place of defaults, by dotted key. told_by_checkpoint: dotted keys
    that become comments. schema: path of the JSON schema, for editors.
    """
    lines = [
        f"# yaml-language-server: $schema={schema}",
        f"# {model.network} {model.action}, written by `kineme schema generate`.",
        "# '' means not set, ??? must be set, # + is not in TAO. A recipe changes only what is not",
        "# set here. Behind a #: what follows from other settings or has no default"
        + (";" if told_by_checkpoint else "."),
    ]
    if told_by_checkpoint:
        lines.append("# and what a checkpoint tells, to be set for one of TAO's, which does not.")
    writer = _Writer(values, frozenset(told_by_checkpoint), other_actions(model))
    return "\n".join([*lines, *writer.block(model, "")]) + "\n"


class _Writer:
    """The lines of a spec, block by block."""

    def __init__(
        self, values: Mapping[str, Any], comments: frozenset[str], skipped: frozenset[str]
    ) -> None:
        self.values, self.comments, self.skipped = values, comments, skipped

    def block(self, section: type[Section], prefix: str) -> Iterator[str]:
        inner, own = blocks(section), own_settings(section)
        indent = "  " * prefix.count(".")
        for name in section.model_fields:
            if name in own:
                yield self._field(own[name], prefix)
            elif prefix + name not in self.skipped:
                lines = list(self.block(inner[name], f"{prefix}{name}."))
                is_empty = all(line.lstrip().startswith("#") for line in lines)
                yield f"{indent}{'#' if is_empty else ''}{name}:"
                yield from lines

    def _field(self, declared: Setting, prefix: str) -> str:
        key = prefix + declared.key
        value = self.values.get(key, tao_default(declared))
        is_comment = value is None or key in self.comments or declared.key in FOLLOWING
        mark = OURS if declared.rule.ours else ""
        indent = "  " * prefix.count(".")
        return f"{indent}{'#' if is_comment else ''}{declared.key}: {flow_yaml(value)}{mark}"
