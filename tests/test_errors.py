"""Words that errors share."""

from kineme.errors import listed, shortened


def test_the_first_few_are_listed_and_the_others_counted():
    assert listed([]) == ""
    assert listed("abc") == "a, b, c"
    assert listed("abcde") == "a, b, c and 2 more"
    assert listed(map(repr, range(5000)), 1) == "0 and 4,999 more"


def test_values_are_shown_at_a_glance():
    assert shortened("a\nb") == "'a\\nb'"
    assert shortened([1] * 100, 10) == "[1, 1, ..."
    assert shortened("x" * 10**6, 10) == "'xxxxxx..."
    assert shortened("x" * 8, 10) == "'xxxxxxxx'"
