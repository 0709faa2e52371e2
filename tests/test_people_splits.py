"""Who is held out of a data set of people: by names alone, and nobody on both sides."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kineme.data.conversion import Tally
from kineme.errors import SpecError
from kineme.people.training_sets.splits import hold_out
from kineme.pose_classification.convert.folders import Found


def clips(*ids: str) -> list[Found]:
    return [Found(Path(name), name, name.split("/")[0], "data") for name in ids]


def held(found: list[Found]) -> set[str]:
    return {clip.id for clip in found if clip.stem == "val_data"}


def rank(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def test_folders_below_the_class_are_subjects_who_stay_on_one_side() -> None:
    people = ["ann", "bob", "cid", "dan", "eve"]
    ids = [f"{label}/{who}/{n}" for label in ("squat", "lunge") for who in people for n in (1, 2)]
    found, protocol = hold_out(clips(*ids), 0.4, None, Tally())
    assert protocol == "subjects"
    chosen = sorted(people, key=rank)[:2]
    assert held(found) == {name for name in ids if name.split("/")[1] in chosen}


def test_a_pattern_finds_the_subject_in_the_name() -> None:
    ids = [f"squat/p{who}_{n}" for who in range(4) for n in range(3)]
    found, protocol = hold_out(clips(*ids), 0.25, r"p(\d)", Tally())
    assert protocol == "subjects"
    chosen = min("0123", key=rank)
    assert held(found) == {f"squat/p{chosen}_{n}" for n in range(3)}
    tally = Tally()
    hold_out(clips(*ids, "squat/other"), 0.25, r"p\d", tally)
    assert tally.lines() == [
        "1 clips without the subject_pattern, a subject each; first: squat/other"
    ]
    with pytest.raises(SpecError, match=r"subject_pattern: .* which is in none of \d+ ids"):
        hold_out(found, 0.5, "nobody_(.*)", Tally())
    with pytest.raises(SpecError, match="subject_pattern: expected a regular expression"):
        hold_out(clips(*ids), 0.25, "(", Tally())


def test_without_subjects_clips_of_each_class_are_held_out_and_that_is_told() -> None:
    ids = [f"{label}/{n}" for label in ("a", "b") for n in range(10)]
    tally = Tally()
    found, protocol = hold_out(clips(*ids), 0.2, None, tally)
    assert protocol == "clips"
    expected = {name for c in "ab" for name in sorted((i for i in ids if i[0] == c), key=rank)[:2]}
    assert held(found) == expected
    assert tally.lines()[0].startswith(
        "4 clips in all held out for validation, about 20 % of each class and at least one of two "
        "(dataset_convert.val_share), as there is no subject in names or folders"
    )


@given(
    st.lists(
        st.tuples(st.sampled_from("xyz"), st.sampled_from("abcdefgh"), st.integers(0, 3)),
        min_size=2,
        unique=True,
    ),
    st.floats(0.01, 0.9),
    st.randoms(use_true_random=False),
)
def test_a_split_depends_on_names_alone_and_never_cuts_a_subject(
    parts: list[tuple[str, str, int]], share: float, random: Any
) -> None:
    ids = [f"{label}/{who}/{n}" for label, who, n in parts]
    found, protocol = hold_out(clips(*ids), share, None, Tally())
    random.shuffle(ids)
    again, _ = hold_out(clips(*ids), share, None, Tally())
    assert held(found) == held(again)
    if protocol == "subjects":
        who = {stem: {c.id.split("/")[1] for c in found if c.stem == stem}
               for stem in ("train_data", "val_data")}  # fmt: skip
        assert who["train_data"]
        assert who["val_data"]
        assert not who["train_data"] & who["val_data"]
        assert len(who["val_data"]) == max(
            1, min(round(share * len({p[1] for p in parts})), len({p[1] for p in parts}) - 1)
        )
