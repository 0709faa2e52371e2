"""Whether the file of a checkpoint is whole and one that torch wrote, without torch.

Promises: every record is held against its checksum, which torch itself does not; what only looks
like a checkpoint is told by what it may be. Raises CheckpointError only.
Leaves out: reading it (checkpoint.py, foreign.py), and what is encrypted (encryption.py).
"""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from kineme.errors import CheckpointError

PICKLE_NAME = "data.pkl"
_BEGINNINGS = {  # of files that are no checkpoints of torch
    b"\x89HDF": "an HDF5 file, as Keras writes",
    b"\x1f\x8b": "a gzip archive; unpack it first",
    b"ftrt": "a TensorRT engine",
    b"ptrt": "a TensorRT engine",
}
_NO_TENSORS = {  # of files that lie beside checkpoints
    ".onnx": "an exported model; it cannot be trained or read back",
    ".json": "JSON, which holds no weights",
    ".yaml": "a spec, which holds no weights",
}
_ENCRYPTED_SUFFIXES = (".tlt", ".etlt", ".eff")


def check_whole(path: Path, file: IO[bytes], *, is_thorough: bool = True) -> None:
    """Refuse the checkpoint in `file`, named `path`, if it is not whole.

    is_thorough: all of it is read. Files of torch before 1.6 have no checksums.
    """
    file.seek(0)
    start = file.read(512)
    size_bytes = file.seek(0, io.SEEK_END)
    file.seek(0)
    if start[:1] == b"\x80" and start[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return
    if not start.startswith(b"PK"):
        raise no_checkpoint(path, start)
    try:
        with zipfile.ZipFile(file) as archive:
            check_names(path, archive.namelist())
            if any(record.compress_type != zipfile.ZIP_STORED for record in archive.infolist()):
                raise damaged(path, "compressed records, which torch never writes")
            if sum(record.file_size for record in archive.infolist()) > size_bytes:
                raise damaged(path, "records larger than the file")
            broken = archive.testzip() if is_thorough else None
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError, EOFError) as error:
        raise damaged(path, f"a truncated or damaged one ({error})") from error
    if broken is not None:
        raise damaged(path, f"a damaged one (wrong checksum of {broken!r})")
    file.seek(0)


def damaged(path: Path, received: str) -> CheckpointError:
    """What to say of a checkpoint that is not whole."""
    return CheckpointError(
        str(path), "a whole checkpoint", received, "Use another checkpoint of the same run."
    )


def check_names(path: Path, names: Sequence[str]) -> None:
    """Refuse a zip archive whose records are not those of a checkpoint."""
    ends = {name.rpartition("/")[2] for name in names}
    if PICKLE_NAME not in ends:
        is_package = "manifest.yaml" in ends
        raise CheckpointError(
            str(path), "a checkpoint",
            "an EFF package of TAO's, which is encrypted" if is_package
            else "a zip archive that torch did not write",
            "Save the model in TAO without encryption_key." if is_package else "",
        )  # fmt: skip
    if "constants.pkl" in ends:
        fix = "Save its state_dict, from a program you trust."
        raise CheckpointError(str(path), "a dict of tensors", "a program (TorchScript)", fix)


def no_checkpoint(path: Path, start: bytes) -> CheckpointError:
    """What to say of a file that begins like none of torch's."""
    fix = "Use another checkpoint of the same run."
    begins = f"a file that starts with {start[:2]!r}"
    kind = next((kind for head, kind in _BEGINNINGS.items() if start.startswith(head)), "")
    if start[257:262] == b"ustar":
        kind = "a tar archive, as the first releases of torch wrote"
    if start and not kind and path.suffix in _ENCRYPTED_SUFFIXES:
        kind = "encrypted, if TAO wrote it"
        fix = "kineme does not have TAO's cipher: save the model in TAO without encryption_key."
    if start and not kind and path.suffix in _NO_TENSORS:
        kind = _NO_TENSORS[path.suffix]
        fix = "Name the checkpoint of a training: best.pth or another .pth file in its folder."
        return CheckpointError(str(path), "a checkpoint", kind, fix)
    received = f"{begins} ({kind})" if kind else begins if start else "an empty file"
    return CheckpointError(str(path), "a whole checkpoint", received, fix)
