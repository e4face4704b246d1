"""The depth of JSON, whatever its strings contain."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from faillog_otel.text import MAX_DEPTH, is_too_deep

TEXTS = st.lists(st.sampled_from(tuple('"\\{[]}a')), max_size=300).map("".join) | st.just("[{" * 200)
VALUES: st.SearchStrategy[Any] = st.recursive(
    TEXTS | st.just([0] * 120) | st.just([[]] * 120),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(TEXTS, inner, max_size=3)
        | st.builds(lambda value, by: [value] if by else {"a": value}, inner, st.booleans())
    ),
    max_leaves=6,
)


def depth_of(value: Any) -> int:
    if isinstance(value, dict | list):
        inside = value.values() if isinstance(value, dict) else value
        return 1 + max(map(depth_of, inside), default=0)
    return 0


@given(VALUES, st.sampled_from((0, 90, *range(95, 102))))
def test_only_brackets_outside_of_texts_count_and_only_those_that_are_open(value: Any, more: int) -> None:
    for _ in range(more):
        value = [value]
    assert is_too_deep(json.dumps(value).encode()) == (depth_of(value) > MAX_DEPTH)
