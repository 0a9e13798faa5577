"""Releases and probes: every member strictly read, no way back, expiry by trusted time."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from msgspec import structs

from service.contract.measurement_order import MeasurementOrder
from service.contract.release import Policy, Release
from service.ground.errors import ServiceError
from service.signing.envelope import sign, trusted_time
from service.signing.errors import ExpiredDocumentError, InvalidDocumentError, ReplayedDocumentError, UnknownKeyError
from tests.service.signing.samples import (
    DAY,
    FIRST,
    NOW,
    STRANGER,
    keyring,
    probe,
    probe_content,
    release,
    release_content,
)

DIGEST = "sha256:" + "11" * 32
MISSING = object()


def changed(content: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    result = copy.deepcopy(content)
    inner: Any = result
    *steps, last = place.split("/")
    for step in steps:
        inner = inner[int(step) if isinstance(inner, list) else step]
    if value is MISSING:
        del inner[last]
    else:
        inner[int(last) if isinstance(inner, list) else last] = value
    return result


HERE = ""
"""The member itself is what the error names."""

# Where, what stands there, and the place that the error names when it is not the member itself: an object that lacks a
# member or has one too many, the document where a value is none of JSON.
RELEASE_CASES: list[tuple[str, Any, str]] = [
    ("type", "inn-probe/1", HERE),
    ("type", None, HERE),
    ("type", ["inn-release/1"], HERE),
    ("type", MISSING, "inn-release/1"),
    ("more", 1, "inn-release/1"),
    *[("node", value, HERE) for value in (None, 7, "", "../etc", ".hidden", "a b", "a\n", "é", "x" * 65)],
    ("node", MISSING, "inn-release/1"),
    *[("version", value, HERE) for value in (0, -1, True, "1", 1.0, None)],
    ("version", 2**53, "inn-release/1"),
    ("version", float("nan"), "inn-release/1"),
    ("issued", NOW + 31 * DAY, "inn-release/1/expires"),
    ("issued", -1, HERE),
    *[("expires", value, HERE) for value in (NOW, NOW - 1, 10**15, 1.5)],
    *[("rollback", value, HERE) for value in (None, 0, 1, "false")],
    *[("manifest", value, HERE) for value in (None, [], {}, "x")],
    ("manifest", {f"m{number}": 1 for number in range(65)}, HERE),
    ("manifest/url", None, HERE),
    ("manifest/cached", False, HERE),
    ("manifest/model", "a/b", HERE),
    ("manifest/checkpoint", MISSING, "inn-release/1/manifest"),
    *[("manifest/digest", value, HERE) for value in ("ab" * 32, DIGEST + "\n", DIGEST[:-1], DIGEST.upper(), "../x", 7)],
    ("manifest/build_key", "sha512:" + "11" * 32, HERE),
    ("manifest/params", -1, HERE),
    ("manifest/macs", 1.5, HERE),
    ("manifest/bytes", 0, HERE),
    ("manifest/opset", 0, HERE),
    ("manifest/opset", None, HERE),
    *[("manifest/quality", value, HERE) for value in ("Refined", "a b", "", "x" * 65)],
    ("manifest/full_size", 0, HERE),
    ("manifest/parity", True, HERE),
    ("manifest/agreement", "1", HERE),
    ("manifest/held_out", float("inf"), "inn-release/1"),
    ("manifest/budget", None, HERE),
    ("manifest/budget", {"unit": "params"}, HERE),
    ("manifest/budget", {"unit": "params", "value": 1} | {f"m{number}": 1 for number in range(7)}, HERE),
    ("manifest/budget", {"unit": 1, "value": 1}, "inn-release/1/manifest/budget/unit"),
    ("manifest/budget", {"unit": "params", "value": -1}, "inn-release/1/manifest/budget/value"),
    ("manifest/feasible", {"min": 1}, HERE),
    ("manifest/feasible", {"min": 1, "max": 2, "more": 3}, HERE),
    ("manifest/feasible", {"min": 1, "max": "2"}, "inn-release/1/manifest/feasible/max"),
    ("manifest/group_sizes", [], HERE),
    ("manifest/group_sizes", {"": 1}, HERE),
    ("manifest/group_sizes", {"x" * 600: 1}, HERE),
    ("manifest/group_sizes", {"a": 1, "b": -1}, "inn-release/1/manifest/group_sizes/b"),
    ("manifest/inputs", [], HERE),
    ("manifest/inputs", {}, HERE),
    ("manifest/inputs", [1], "inn-release/1/manifest/inputs/0"),
    ("manifest/inputs/0/name", "", HERE),
    ("manifest/inputs/0/name", "x" * 2000, HERE),
    ("manifest/inputs/0/dtype", "object", HERE),
    ("manifest/inputs/0/dtype", "FLOAT32", HERE),
    ("manifest/inputs/0/shape", [1] * 17, HERE),
    ("manifest/inputs/0/shape", "1", HERE),
    *[("manifest/inputs/0/shape", [1, size], "inn-release/1/manifest/inputs/0/shape/1") for size in (-1, 1.0, True)],
    ("manifest/inputs/0/more", 1, "inn-release/1/manifest/inputs/0"),
    ("manifest/outputs/0/dtype", "complex64", HERE),
    ("manifest/extra", "\ud800", "inn-release/1"),
    ("self_test", None, HERE),
    *[("self_test/seed", value, HERE) for value in ("", "0", "xyzw", "ABCD", "00\n", "00" * 65, 7)],
    *[("self_test/rows", value, HERE) for value in (0, 65, True)],
    *[("self_test/tolerance", value, HERE) for value in (None, -0.1, 1.5, True)],
    ("self_test/more", 1, "inn-release/1/self_test"),
    ("self_test/outputs", [], HERE),
    ("self_test/outputs", {"": None}, HERE),
    ("self_test/outputs", {"y": {"shape": [1]}}, "inn-release/1/self_test/outputs/y"),
    ("self_test/outputs/logits/shape", [-1], "inn-release/1/self_test/outputs/logits/shape/0"),
    ("self_test/outputs/logits/values", [0] * 65, HERE),
    ("self_test/outputs/logits/values", [True], "inn-release/1/self_test/outputs/logits/values/0"),
    ("policy", MISSING, "inn-release/1"),
    ("policy", {}, HERE),
    ("policy/more", 1, "inn-release/1/policy"),
    ("policy/watch_requests", MISSING, "inn-release/1/policy"),
    *[("policy/max_error_share", value, HERE) for value in (None, -0.1, 1.1, True)],
    *[("policy/max_p95_ms", value, HERE) for value in (-1, 0, 3_600_001, "1")],
    *[("policy/watch_seconds", value, HERE) for value in (None, -1, 86_401)],
    *[("policy/watch_requests", value, HERE) for value in (-1, 1_000_001, 1.0, True)],
]

PROBE_CASES: list[tuple[str, Any, str]] = [
    ("type", "inn-release/1", HERE),
    ("type", MISSING, "inn-probe/1"),
    ("node", "../etc", HERE),
    ("version", 0, HERE),
    ("expires", NOW, HERE),
    ("ladder", [], HERE),
    ("ladder", {}, HERE),
    ("ladder", [probe_content()["ladder"][0]] * 2, "inn-probe/1/ladder/1/digest"),
    ("ladder", [probe_content()["ladder"][0]] * 33, HERE),
    ("ladder/0/digest", DIGEST + "\n", HERE),
    ("ladder/0/bytes", 0, HERE),
    ("ladder/0/params", -1, HERE),
    ("ladder/1/macs", 1.0, HERE),
    ("ladder/1/macs", MISSING, "inn-probe/1/ladder/1"),
    ("ladder/1/url", "http://example.org", "inn-probe/1/ladder/1"),
    *[("batch", value, HERE) for value in (0, 65_537, True)],
    *[("threads", value, HERE) for value in (0, 4097)],
    *[("percentile", value, HERE) for value in (None, 0, -1, 100.5, True)],
    ("inputs", [], HERE),
    ("inputs", [{}], "inn-probe/1/inputs/0"),
    ("more", 1, "inn-probe/1"),
]


def shown(value: Any) -> str:
    return "missing" if value is MISSING else ascii(value)[:24]


@pytest.mark.parametrize(("place", "value", "named"), RELEASE_CASES, ids=shown)
def test_a_release_is_read_strictly(place: str, value: Any, named: str) -> None:
    with pytest.raises(InvalidDocumentError) as caught:
        Release.parse(changed(release_content(), place, value))
    assert caught.value.fields["place"] == (named or f"inn-release/1/{place}")


@pytest.mark.parametrize(("place", "value", "named"), PROBE_CASES, ids=shown)
def test_a_probe_is_read_strictly(place: str, value: Any, named: str) -> None:
    with pytest.raises(InvalidDocumentError) as caught:
        MeasurementOrder.parse(changed(probe_content(), place, value))
    assert caught.value.fields["place"] == (named or f"inn-probe/1/{place}")


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("manifest/outputs/0/dtype", "complex64", r"'complex64' is not allowed; expected .*float32.*bool"),
        ("version", 0, r"0 is not allowed; expected int >= 1"),
        ("rollback", 1, r"1 is not allowed; expected bool"),
        ("more", 1, r"the member 'more' is not known here"),
        ("policy/watch_requests", MISSING, r"the member 'watch_requests' is missing"),
        ("node", MISSING, r"the member 'node' is missing"),
    ],
    ids=shown,
)
def test_errors_say_what_stands_there_and_what_may(place: str, value: Any, message: str) -> None:
    with pytest.raises(InvalidDocumentError, match=message):
        Release.parse(changed(release_content(), place, value))


def test_releases_and_probes_come_back_as_they_were() -> None:
    assert Release.open(release().to_document([FIRST]), keyring()) == release()
    assert release().to_signed() == release_content()
    assert MeasurementOrder.open(probe().to_document([FIRST]), keyring()) == probe()
    assert probe().to_signed() == probe_content()
    with pytest.raises(UnknownKeyError):
        Release.open(release().to_document([STRANGER]), keyring())
    with pytest.raises(UnknownKeyError):
        MeasurementOrder.open(probe().to_document([STRANGER]), keyring())
    with pytest.raises(InvalidDocumentError):
        Release.open(probe().to_document([FIRST]), keyring())


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("manifest/parity", None),
        ("manifest/agreement", None),
        ("manifest/held_out", None),
        ("manifest/inputs/0/shape", None),
        ("manifest/from_a_newer_hub", {"a": [1, 2.5, None]}),
        ("self_test/outputs", None),
        ("self_test/outputs/logits", None),
        ("self_test/outputs/logits/values", None),
        ("policy/max_p95_ms", 12.5),
        ("rollback", True),
    ],
)
def test_what_may_be_absent_or_new_is_read(place: str, value: Any) -> None:
    content = changed(release_content(), place, value)
    assert Release.parse(content).to_signed() == content


def test_a_hub_never_signs_what_nodes_refuse() -> None:
    wrong = Release(**(structs.asdict(release()) | {"version": 0}))
    with pytest.raises(InvalidDocumentError, match="version"):
        wrong.to_document([FIRST])
    with pytest.raises(InvalidDocumentError, match="batch"):
        MeasurementOrder(**(structs.asdict(probe()) | {"batch": 0})).to_document([FIRST])


def test_a_release_is_for_one_node() -> None:
    release().check_node("kitchen-1")
    probe().check_node("kitchen-1")
    for document in (release(), probe()):
        with pytest.raises(InvalidDocumentError, match="kitchen-2"):
            document.check_node("kitchen-2")


def test_versions_only_grow_whatever_a_release_says() -> None:
    release(version=7).check_follows(0, None)
    release(version=7).check_follows(6, "sha256:other")
    release(version=7).check_follows(7, release(version=7).content_digest)
    for rollback in (False, True):
        with pytest.raises(ReplayedDocumentError, match="version 6"):
            release(version=6, rollback=rollback).check_follows(7, release(version=7).content_digest)
        other = release(version=7, rollback=rollback, policy=Policy(watch_seconds=1).to_json())
        with pytest.raises(ReplayedDocumentError, match="differs"):
            other.check_follows(7, release(version=7).content_digest)
    with pytest.raises(ReplayedDocumentError):
        release(version=7).check_follows(7, None)
    probe(version=8).check_follows(8)
    with pytest.raises(ReplayedDocumentError):
        probe(version=8).check_follows(9)


def test_a_release_signed_anew_is_the_same_release() -> None:
    later = release(issued=NOW + DAY, expires=NOW + 31 * DAY)
    assert later.content_digest == release().content_digest
    later.check_follows(7, release().content_digest)
    for place, value in (("rollback", True), ("manifest/params", 4983), ("node", "other"), ("version", 8)):
        assert Release.parse(changed(release_content(), place, value)).content_digest != release().content_digest


def test_expiry_is_judged_by_trusted_time_even_when_the_clock_is_set_back() -> None:
    last = release().expires - 1
    for document in (release(), probe(expires=release().expires)):
        document.check_current(trusted_time(clock=last))
        document.check_current(trusted_time(clock=0, seen=[last]))
        for clock, seen in ((last + 1, []), (0, [last + 1]), (NOW, [last + 1, 5])):
            with pytest.raises(ExpiredDocumentError):
                document.check_current(trusted_time(clock=clock, seen=seen))


def test_a_policy_has_all_its_members() -> None:
    assert Policy.parse(Policy(0.05, None, 30, 20).to_json()) == Policy()
    with pytest.raises(InvalidDocumentError):
        Policy.parse({"max_p95_ms": 5})
    with pytest.raises(InvalidDocumentError):
        Policy.parse({"p95": 5})


def test_a_release_has_the_digest_of_its_artifact() -> None:
    assert release().digest == release_content()["manifest"]["digest"]


def test_errors_name_the_place_and_stay_short() -> None:
    with pytest.raises(InvalidDocumentError, match=r"^inn-release/1/manifest/bytes: -5 is not allowed") as caught:
        Release.parse(changed(release_content(), "manifest/bytes", -5))
    assert caught.value.fields["place"] == "inn-release/1/manifest/bytes"
    with pytest.raises(ServiceError) as caught_long:
        Release.parse(changed(release_content(), "node", "n" * 100_000))
    assert len(caught_long.value.message) < 300


def test_a_document_too_large_for_nodes_is_not_signed() -> None:
    content = changed(release_content(), "manifest/notes", "x" * (1 << 20))
    with pytest.raises(InvalidDocumentError, match="bytes"):
        Release.parse(content).to_document([FIRST])
    with pytest.raises(InvalidDocumentError, match="bytes"):
        sign(content, [FIRST])
