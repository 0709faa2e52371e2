"""One setting of a search, whatever is drawn: its values, and what others do to it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kineme.automl.parameters import Condition, Kind, Parameter, Relation, Space, rounded

floats = st.floats(1e-8, 1e6)
parameters = st.one_of(
    st.builds(
        lambda ends, is_log, off: Parameter(
            "p", Kind.FLOAT, None, min(ends), max(ends), is_log, off=off
        ),
        st.tuples(floats, floats), st.booleans(), st.sampled_from([None, 0.0]),
    ),
    st.builds(
        lambda ends, is_log, off: Parameter(
            "p", Kind.INT, None, min(ends), max(ends), is_log, off=off
        ),
        st.tuples(st.integers(1, 5000), st.integers(1, 5000)), st.booleans(),
        st.sampled_from([None, -1.0]),
    ),
    st.builds(
        lambda top: Parameter("p", Kind.INT, None, 1, 2**top, power_of=2), st.integers(0, 12)
    ),
    st.builds(
        lambda top: Parameter("p", Kind.INT, None, 32, 32 * top, multiple_of=32),
        st.integers(1, 20),
    ),
    st.builds(
        lambda sizes: Parameter(
            "p", Kind.CHOICE, choices=tuple(range(len(sizes))),
            weights=tuple(size / sum(sizes) for size in sizes),
        ),
        st.lists(st.integers(1, 9), min_size=1, max_size=6),
    ),
)  # fmt: skip


@given(parameters, st.floats(0, 1))
def test_any_draw_is_a_value_of_the_setting_and_leads_back_to_it(parameter, unit):
    value = parameter.value_of(unit)
    back = parameter.value_of(parameter.unit_of(value))
    if parameter.kind == Kind.CHOICE:
        assert value in parameter.choices
        assert back == value
        return
    assert value == parameter.off or parameter.low <= value <= parameter.high
    if parameter.kind == Kind.INT:
        assert isinstance(value, int)
        assert value == parameter.off or value % parameter.multiple_of == 0
        assert not parameter.power_of or math.log2(value).is_integer()
        assert back == value
    else:
        assert value in (parameter.off, parameter.low, parameter.high) or value == rounded(value)
        assert back == pytest.approx(value, rel=2e-5)


@given(parameters, st.floats(0, 1), st.sampled_from([1.2, 1 / 1.2]))
def test_a_changed_value_is_still_one_of_the_setting(parameter, unit, factor):
    value = parameter.value_of(unit)
    there = parameter.changed(value, factor)
    assert type(there) is type(value)
    if parameter.kind == Kind.CHOICE or value == parameter.off:
        assert there == value
        return
    assert parameter.low <= there <= parameter.high
    is_at_end = value in (parameter.low, parameter.high)
    if parameter.kind == Kind.INT and not is_at_end:
        assert (there > value) == (factor > 1)
        assert there != value


def test_every_integer_has_its_share_of_the_draws():
    parameter = Parameter("p", Kind.INT, None, 1, 5)
    drawn = [parameter.value_of((i + 0.5) / 1000) for i in range(1000)]
    assert [drawn.count(value) for value in range(1, 6)] == [200] * 5


def test_what_depends_comes_after_and_is_left_out_where_it_has_no_effect():
    space = Space(
        (
            Parameter("kind", Kind.CHOICE, "a", choices=("a", "b")),
            Parameter("only_b", Kind.FLOAT, 0.3, condition=Condition("kind", ("b",))),
            Parameter("above", Kind.FLOAT, 0.9, relations=(Relation("only_b", True),)),
        )
    )
    assert space.own() == {"kind": "a", "above": 0.9}
    assert space.completed({"kind": "b", "only_b": 0.5, "above": 0.2}) == {
        "kind": "b", "only_b": 0.5, "above": 0.501,
    }  # fmt: skip
