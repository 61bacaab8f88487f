"""What needs what: every order is sound, and every cycle is found."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from saga_core.graph import cycle_in, dependents_of, in_order

NAMES = [f"s{number}" for number in range(8)]
GRAPHS = st.dictionaries(
    st.sampled_from(NAMES), st.lists(st.sampled_from(NAMES), max_size=4), min_size=1
).map(
    lambda needs: {
        step: [each for each in wanted if each in needs] for step, wanted in needs.items()
    }
)


@given(GRAPHS)
def test_every_step_comes_after_all_that_it_needs_or_there_is_a_cycle(
    needs: dict[str, list[str]],
) -> None:
    ordered = in_order(needs)
    for place, step in enumerate(ordered):
        assert set(needs[step]) <= set(ordered[:place])
    cycle = cycle_in(needs)
    assert (cycle is None) == (len(ordered) == len(needs))
    if cycle is not None:
        assert cycle[0] == cycle[-1]
        assert len(set(cycle)) == len(cycle) - 1
        for step, following in pairwise(cycle):
            assert following in needs[step]


def test_independent_steps_stay_in_the_order_in_which_they_were_given() -> None:
    assert in_order({"b": [], "a": [], "c": ["a"], "d": []}) == ["b", "a", "d", "c"]


def test_a_long_chain_is_no_deep_recursion() -> None:
    chain = {f"s{n}": [f"s{n - 1}"] if n else [] for n in range(5000)}
    assert len(in_order(chain)) == 5000
    chain["s0"] = ["s4999"]
    cycle = cycle_in(chain)
    assert cycle is not None
    assert len(cycle) == 5001


def test_dependents_are_named_once() -> None:
    assert dependents_of({"a": [], "b": ["a", "a"]}) == {"a": ("b",), "b": ()}
