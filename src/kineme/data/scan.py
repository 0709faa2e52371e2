"""One pass over skeletons that says what is in them: lengths, ranges, holes, damage.

Promises: memory stays at one chunk, the pass runs at the speed of reading, and its
result is cached by path, size, time and inode, so that it is paid once per file.
Leaves out: deciding (the room's nan_policy) and mending.

Shapes: N samples, C channels, T frames, V joints, M persons.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from kineme.data.arrays import Skeletons
from kineme.data.cache import default_cache
from kineme.data.inputs import read_bytes
from kineme.errors import DataError, Problem, ResourceError, listed
from kineme.files import write_text

_CHUNK_BYTES = 1 << 20  # stays in the second-level cache of a core
_VERSION = 1  # of the cached form
_MAX_CACHED_BYTES = 1 << 30
_ZERO_SHARE_WARNED = 0.2
_LARGEST_EXPECTED = 10.0
_T = TypeVar("_T")
_NO_VALUES: NDArray[np.int64] = np.zeros(0, np.int64)


@dataclass(frozen=True, eq=False)
class Scan:
    """What `scan_skeletons` saw. NaN and Inf count as missing (zero) in all but nonfinite_*."""

    shape: tuple[int, ...]  # (N, C, T, V, M)
    lengths: NDArray[np.int64]  # (N,) last frame with a value that is not zero, plus 1
    persons: NDArray[np.int64]  # (N,) persons with a value that is not zero
    channel_min: tuple[float, ...]  # (C,)
    channel_max: tuple[float, ...]  # (C,)
    constant_joints: tuple[int, ...]  # joints whose values other than zero are all the same
    nonfinite_count: int = 0
    nonfinite_samples: NDArray[np.int64] = dataclasses.field(default_factory=_NO_VALUES.copy)
    first_nonfinite: tuple[int, ...] | None = None  # (n, c, t, v, m)
    notes: tuple[str, ...] = ()

    @property
    def zero_samples(self) -> NDArray[np.int64]:
        """Indices of samples without any value but zero."""
        return np.flatnonzero(self.lengths == 0)


def scan_skeletons(skeletons: Skeletons) -> Scan:
    """Scan all samples, or take the result from the user's cache folder.

    A cache folder that cannot be written costs a note, not the run.
    """
    scan, notes = _cached(skeletons, "scan", lambda: _to_json(_scan(skeletons)), _from_json)
    return dataclasses.replace(scan, notes=notes)


def content_digests(skeletons: Skeletons, lengths: NDArray[np.int64]) -> list[bytes]:
    """A 16-byte digest of each sample's own frames, so that padding does not matter.

    lengths: (N,) as scanned. Samples of length 0 get the empty digest.
    """

    def compute() -> dict[str, Any]:
        return {"digests": [digest.hex() for digest in _digests(skeletons, lengths)]}

    def parse(content: Mapping[str, Any]) -> list[bytes]:
        return [bytes.fromhex(digest) for digest in content["digests"]]

    return _cached(skeletons, "digests", compute, parse)[0]


def scan_problems(
    where: str, scan: Scan, *, nan_policy: str, may_be_empty: bool = False
) -> list[Problem]:
    """What must stop a run: NaN under nan_policy `error`, and nothing but zeros.

    may_be_empty: whether all samples may be zeros, as where only labels are asked for.
    """
    problems = []
    if scan.nonfinite_count and nan_policy == "error":
        problems.append(
            Problem(
                f"{where}: sample {scan.nonfinite_samples[0]}",
                "finite numbers",
                _nonfinite(scan),
                "Mend the data, or set dataset.nan_policy: zero (as missing) or drop.",
            )
        )
    if len(scan.zero_samples) == len(scan.lengths) and not may_be_empty:
        received = f"{len(scan.lengths)} samples, all zero"
        problems.append(Problem(where, "samples with values other than zero", received))
    return problems


def scan_warnings(
    where: str,
    scan: Scan,
    *,
    nan_policy: str = "error",
    confidence_channel: int | None = None,
    joint_names: Sequence[str] = (),
    centre: int | None = None,
    fate_of_empty: str = "",
) -> list[str]:
    """What the user should hear once: zeros, odd ranges, dead joints, what nan_policy did.

    confidence_channel: the channel that holds a confidence in [0, 1], if one does.
    centre: the joint that centred data keeps at zero.
    fate_of_empty: what becomes of samples that are all zero; then even one is told.
    """
    warnings = []
    if scan.nonfinite_count and nan_policy != "error":
        done = "set to zero" if nan_policy == "zero" else "the samples dropped"
        warnings.append(f"{where}: {_nonfinite(scan)}; {done} (dataset.nan_policy: {nan_policy}).")
    zeros = scan.zero_samples
    if len(zeros) > (0 if fate_of_empty else _ZERO_SHARE_WARNED * len(scan.lengths)):
        share = 100 * len(zeros) / len(scan.lengths)
        first, fate = ", ".join(map(str, zeros[:3])), f"; {fate_of_empty}" if fate_of_empty else ""
        warnings.append(
            f"{where}: {len(zeros)} of {len(scan.lengths)} samples ({share:.0f} %) are all zero, "
            f"the first at {first}{fate}."
        )
    for channel, (low, high) in enumerate(zip(scan.channel_min, scan.channel_max, strict=True)):
        is_confidence = channel == confidence_channel
        least, most = (0.0, 1.0) if is_confidence else (-_LARGEST_EXPECTED, _LARGEST_EXPECTED)
        if low < least or high > most:
            kind = "a confidence" if is_confidence else "coordinates"
            hint = "" if is_confidence else " Pixels? Divide by width and height."
            warnings.append(
                f"{where}: channel {channel} is in [{low:.4g}, {high:.4g}], expected {kind} "
                f"in [{least:g}, {most:g}].{hint}"
            )
    dead = [joint for joint in scan.constant_joints if joint != centre]
    if dead and len(zeros) < len(scan.lengths):
        names = [repr(joint_names[j]) if j < len(joint_names) else str(j) for j in dead]
        warnings.append(f"{where}: {len(dead)} joints never change: {listed(names)}.")
    return warnings


def leak_warning(
    where: str, first: Mapping[str, bytes], other_where: str, other: Mapping[str, bytes]
) -> str | None:
    """One line when samples (id -> digest) of `other` are in `first` too, else None."""
    known = {digest for digest in first.values() if digest}
    shared = [name for name, digest in other.items() if digest in known]
    return leak_text(where, other_where, shared, total=len(other)) if shared else None


def leak_text(where: str, other_where: str, shared: Sequence[str], *, total: int) -> str:
    """What to say of samples of the second place that are in the first, too."""
    return (
        f"{other_where}: {len(shared)} of {total} samples are also in {where}: "
        f"{listed(shared)}. A figure measured on them flatters."
    )


def _scan(skeletons: Skeletons) -> Scan:
    total, channels, _, joints, _ = skeletons.shape
    lengths, present = np.zeros(total, np.int64), np.zeros(total, np.int64)
    low, high = np.full(channels, np.inf, np.float32), np.full(channels, -np.inf, np.float32)
    damaged: list[NDArray[np.int64]] = []
    count, first = 0, None
    still = _StillJoints(channels, joints)
    for start, chunk in _chunks(skeletons):
        flat = chunk.reshape(len(chunk), channels, -1)
        least, most = flat.min(axis=2), flat.max(axis=2)
        if not (np.isfinite(least).all() and np.isfinite(most).all()):
            bad = ~np.isfinite(chunk)
            count += int(bad.sum())
            if first is None:
                place = np.argwhere(bad)[0]
                first = (start + int(place[0]), *map(int, place[1:]))
            damaged.append(start + np.flatnonzero(bad.any(axis=(1, 2, 3, 4))))
            chunk[bad] = 0
            least, most = flat.min(axis=2), flat.max(axis=2)
        low, high = np.minimum(low, least.min(axis=0)), np.maximum(high, most.max(axis=0))
        seen = _seen(chunk)
        part = slice(start, start + len(chunk))
        lengths[part] = _last_true(seen.any(axis=2))
        present[part] = seen.any(axis=1).sum(axis=1)
        still.update(chunk)
    return Scan(
        skeletons.shape, lengths, present, tuple(low.tolist()), tuple(high.tolist()),
        still.joints(), count, np.concatenate([_NO_VALUES, *damaged]), first,
    )  # fmt: skip


def _chunks(skeletons: Skeletons) -> Any:
    """(first index, (B, C, T, V, M)) over all samples, in one buffer that is reused."""
    total = skeletons.shape[0]
    size = max(1, _CHUNK_BYTES // (4 * int(np.prod(skeletons.shape[1:]))))
    buffer = np.empty((min(size, total), *skeletons.shape[1:]), np.float32)
    for start in range(0, total, size):
        indices = np.arange(start, min(start + size, total))
        yield start, skeletons.read(indices, out=buffer[: len(indices)])


def _seen(chunk: NDArray[np.float32]) -> Any:
    """(B, T, M): any value other than zero; on the bits, which is several times faster."""
    bits = chunk.view(np.uint32)
    over_channels = np.bitwise_or.reduce(bits, axis=1)
    over_joints = np.bitwise_or.reduce(over_channels, axis=2)
    return (over_joints & np.uint32(0x7FFFFFFF)) != 0  # the sign of -0 does not count


def _last_true(flags: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(B, T) -> (B,): index of the last true, plus 1; 0 where none is."""
    last = flags.shape[1] - np.argmax(flags[:, ::-1], axis=1)
    return np.where(flags.any(axis=1), last, 0)


class _StillJoints:
    """Joints whose values other than zero have all been the same; only those are looked at."""

    def __init__(self, channels: int, joints: int) -> None:
        self._value = np.zeros((channels, joints), np.float32)
        self._still = np.ones(joints, np.bool_)

    def update(self, chunk: NDArray[np.float32]) -> None:
        for joint in np.flatnonzero(self._still):
            values = chunk[:, :, :, joint]
            for channel in range(values.shape[1]):
                present = values[:, channel][values[:, channel] != 0]
                if not len(present):
                    continue
                if self._value[channel, joint] == 0:
                    self._value[channel, joint] = present[0]
                if (present != self._value[channel, joint]).any():
                    self._still[joint] = False
                    break

    def joints(self) -> tuple[int, ...]:
        return tuple(np.flatnonzero(self._still).tolist())


def _digests(skeletons: Skeletons, lengths: NDArray[np.int64]) -> list[bytes]:
    digests = []
    for start, chunk in _chunks(skeletons):
        for sample, length in zip(chunk, lengths[start : start + len(chunk)], strict=True):
            own = np.ascontiguousarray(sample[:, :length]) + np.float32(0)  # -0 becomes 0
            state = hashlib.blake2b(repr(own.shape).encode(), digest_size=16)
            state.update(own.data)
            digests.append(state.digest() if length else b"")
    return digests


def _nonfinite(scan: Scan) -> str:
    share = 100 * scan.nonfinite_count / float(np.prod(scan.shape, dtype=np.float64))
    n, c, t, v, m = scan.first_nonfinite or (0, 0, 0, 0, 0)
    return (
        f"{scan.nonfinite_count:,} NaN or Inf ({share:.2g} %) in {len(scan.nonfinite_samples)} of "
        f"{len(scan.lengths)} samples, the first at sample {n}, channel {c}, frame {t}, joint {v}, "
        f"person {m}"
    )


def _cached(
    skeletons: Skeletons,
    kind: str,
    compute: Callable[[], dict[str, Any]],
    parse: Callable[[Mapping[str, Any]], _T],
) -> tuple[_T, tuple[str, ...]]:
    """What is cached for this version of the data, or what `compute` gives, then cached."""
    version = (_VERSION, kind, str(skeletons.path.resolve()), skeletons.shape, skeletons.stamps)
    key = hashlib.blake2b(repr(version).encode(), digest_size=16).hexdigest()
    path = default_cache() / "scans" / f"{key}.json"
    try:
        return parse(json.loads(read_bytes(path, max_bytes=_MAX_CACHED_BYTES))), ()
    except (DataError, ValueError, KeyError, TypeError):
        pass  # not cached yet, or not readable: computed again and replaced
    content = compute()
    try:
        write_text(path, json.dumps(content))
    except ResourceError:
        note = f"{path.parent} cannot be written: data is scanned again at every start."
        return parse(content), (note,)
    return parse(content), ()


def _to_json(scan: Scan) -> dict[str, Any]:
    fields = {field.name: getattr(scan, field.name) for field in dataclasses.fields(scan)}
    return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in fields.items()}


def _from_json(content: Mapping[str, Any]) -> Scan:
    arrays = ("lengths", "persons", "nonfinite_samples")
    fields: dict[str, Any] = {
        field.name: np.asarray(content[field.name], np.int64)
        if field.name in arrays
        else _tuple(content[field.name])
        for field in dataclasses.fields(Scan)
    }
    return Scan(**fields)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
