"""The steps of a rollout, as a pure function: never too many canaries, never on past failures, never half put back."""

from __future__ import annotations

import math
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from service.hub.fleet.documents import Budget, Change
from service.hub.fleet.rollout.steps import (
    CHANGED,
    Member,
    NodeView,
    Rollout,
    Step,
    abort,
    choose_members,
    n_canaries,
    step,
    with_members,
)

STALE_SECONDS = 30.0


def rollout(n_nodes: int, share: float = 0.1, max_failures: int = 1, bake_seconds: float = 0.0) -> Rollout:
    nodes = [(f"n{number:03}", False) for number in range(n_nodes)]
    return Rollout(
        id="r",
        name=None,
        selector={},
        change=Change(model="toy", budget=Budget(unit="params", value=10)),
        canary_share=share,
        max_failures=max_failures,
        bake_seconds=bake_seconds,
        created=0.0,
        members=choose_members("r", nodes, share),
    )


def started(taken: Step, now: float) -> Rollout:
    """What the engine makes of a step: generations for those that begin, `restored` for those that go back."""
    changed = {
        member.node: replace(member, outcome="updating", generation=7, before=3, since=now) for member in taken.start
    }
    changed |= {member.node: replace(member, outcome="restored") for member in taken.put_back}
    return with_members(taken.rollout, changed)


view = st.builds(
    NodeView,
    root=st.sampled_from([7, 7, 7, 7, 8]),
    has_committed=st.booleans(),
    failure=st.sampled_from([None, None, None, "failed: no reason"]),
    is_stale=st.sampled_from([False, False, False, True]),
)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 40),
    st.floats(0.01, 1.0),
    st.integers(1, 4),
    st.floats(0.0, 30.0),
    st.lists(
        st.tuples(st.randoms(use_true_random=False), st.sampled_from(["", "", "", "pause", "resume"])), max_size=12
    ),
    st.data(),
)
def test_whatever_nodes_do_no_rollout_goes_too_far(
    n_nodes: int, share: float, max_failures: int, bake_seconds: float, rounds: list, data: st.DataObject
) -> None:
    current = rollout(n_nodes, share, max_failures, bake_seconds)
    canaries = {member.node for member in current.members if member.is_canary}
    assert len(canaries) == max(1, min(n_nodes, math.floor(share * n_nodes + 1e-9)))
    now = 0.0
    for random, action in rounds:
        if action:
            current = replace(current, is_paused=action == "pause" and not current.has_ended)
        views = {member.node: data.draw(view) for member in current.members if random.random() < 0.95}
        before = current
        taken = step(current, views, now, stale_seconds=STALE_SECONDS)
        current = started(taken, now)
        changed = {member.node for member in current.members if member.generation is not None}
        if current.stage in ("canary", "baking"):
            assert changed <= canaries
        if before.is_paused:
            assert not taken.start
            assert not taken.put_back
        if before.has_ended:
            assert current == before
        failed = sum(member.outcome == "failed" for member in current.members)
        if current.stage == "aborted":
            assert not any(member.outcome in (*CHANGED, "waiting") for member in current.members)
        elif not current.is_paused:
            assert failed < max_failures
        if taken.start and taken.start[0].is_canary is False:
            assert all(member.outcome not in ("waiting", "updating") for member in current.members if member.is_canary)
        now += random.uniform(0, 20)


@given(st.integers(1, 10_000), st.floats(0.0001, 1.0))
def test_the_share_of_canaries_is_never_exceeded_but_by_the_first(n_nodes: int, share: float) -> None:
    found = n_canaries(n_nodes, share)
    assert 1 <= found <= n_nodes
    assert found == 1 or found <= share * n_nodes + 1e-6


def test_a_share_that_is_no_exact_binary_fraction_counts_as_written() -> None:
    assert n_canaries(10, 0.3) == 3  # 0.3 * 10 is 3.0000000000000004, 0.29 * 100 is 28.999999999999996
    assert n_canaries(100, 0.29) == 29


def test_the_way_of_a_rollout_that_goes_well() -> None:
    current = rollout(20, share=0.1, bake_seconds=60.0)
    fine = {member.node: NodeView(7, True, None, False) for member in current.members}
    taken = step(current, fine, 0.0, stale_seconds=STALE_SECONDS)
    assert len(taken.start) == 2
    current = started(taken, 0.0)
    current = started(step(current, fine, 10.0, stale_seconds=STALE_SECONDS), 10.0)
    assert (current.stage, current.baked_from) == ("baking", 10.0)
    assert not step(current, fine, 69.0, stale_seconds=STALE_SECONDS).start
    taken = step(current, fine, 70.0, stale_seconds=STALE_SECONDS)
    assert len(taken.start) == 18
    current = started(taken, 70.0)
    assert current.stage == "rest"
    current = started(step(current, fine, 71.0, stale_seconds=STALE_SECONDS), 71.0)
    assert current.stage == "done"
    assert current.view()["counts"] == {"committed": 20}


def test_a_canary_that_fails_while_it_bakes_ends_it() -> None:
    current = started(step(rollout(10, bake_seconds=60.0), {}, 0.0, stale_seconds=STALE_SECONDS), 0.0)
    # the views were empty: all nodes count as removed, and there is nothing to do
    assert {member.outcome for member in current.members} == {"superseded"}
    current = rollout(10, bake_seconds=60.0)
    fine = {member.node: NodeView(7, True, None, False) for member in current.members}
    current = started(step(current, fine, 0.0, stale_seconds=STALE_SECONDS), 0.0)
    current = started(step(current, fine, 1.0, stale_seconds=STALE_SECONDS), 1.0)
    assert current.stage == "baking"
    silent = {name: replace(one, is_stale=True) for name, one in fine.items()}
    assert step(current, silent, 20.0, stale_seconds=STALE_SECONDS).rollout.stage == "baking"
    taken = step(current, silent, 31.0, stale_seconds=STALE_SECONDS)
    assert taken.rollout.stage == "aborted"
    assert [member.is_canary for member in taken.put_back] == [True]
    outcomes = [member.outcome for member in started(taken, 31.0).members]
    assert outcomes.count("restored") == 1
    assert outcomes.count("untouched") == 9


def test_a_node_that_somebody_else_changed_is_not_put_back() -> None:
    current = rollout(3, share=1.0)
    fine = {member.node: NodeView(7, False, None, False) for member in current.members}
    current = started(step(current, fine, 0.0, stale_seconds=STALE_SECONDS), 0.0)
    names = [member.node for member in current.members]
    other = {**fine, names[0]: NodeView(9, False, None, False), names[1]: NodeView(7, False, "failed", False)}
    taken = step(current, other, 1.0, stale_seconds=STALE_SECONDS)
    assert taken.rollout.stage == "aborted"
    assert {member.node for member in taken.put_back} == set(names[1:])


def test_aborting_before_anything_began_touches_nothing() -> None:
    taken = abort(rollout(5), "on request")
    assert taken.put_back == ()
    assert {member.outcome for member in taken.rollout.members} == {"untouched"}


@given(st.integers(1, 30))
def test_a_rollout_is_the_same_after_it_was_kept(n_nodes: int) -> None:
    current = started(step(rollout(n_nodes), {}, 0.0, stale_seconds=STALE_SECONDS), 0.0)
    assert Rollout.of(current.document()) == current


def test_stale_nodes_go_first_only_when_there_are_no_others() -> None:
    nodes = [(f"n{number}", number != 5) for number in range(10)]
    members = choose_members("r", nodes, 0.1)
    assert [member.node for member in members if member.is_canary] == ["n5"]
    assert members[0] == Member("n5", True)
