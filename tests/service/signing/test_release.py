"""Releases and probes: every member strictly read, no way back, expiry by trusted time."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from service.contract.measurement_order import MeasurementOrder
from service.contract.release import Policy, Release
from service.ground import names as identifiers
from service.ground.errors import ServiceError
from service.signing import fields
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
WRONG_INTEGERS: tuple[Any, ...] = (None, True, False, "1", 1.0, 1.5, -1, [], {}, 2**53, float("nan"))
WRONG_TEXTS: tuple[Any, ...] = (None, 7, True, "", "x" * 2000, [], {})
WRONG_NAMES = ("../etc", ".hidden", "a/b", "a b", "a\n", "é", "-x", "x" * 65)
WRONG_DIGESTS = ("sha256:" + "AB" * 32, "ab" * 32, DIGEST + "\n", DIGEST[:-1], "sha512:" + "11" * 32, "../../x")
WRONG_NUMBERS: tuple[Any, ...] = (True, "1", [], {}, float("nan"), float("inf"))


def cases(table: dict[str, tuple[Any, ...]]) -> list[tuple[str, Any]]:
    return [(place, value) for place, values in table.items() for value in values]


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


RELEASE_CASES = cases(
    {
        "type": (MISSING, None, "inn-probe/1", "inn-release/2", ["inn-release/1"]),
        "node": (MISSING, *WRONG_TEXTS, *WRONG_NAMES),
        "version": (MISSING, 0, *WRONG_INTEGERS),
        "issued": (MISSING, NOW + 31 * DAY, *WRONG_INTEGERS),
        "expires": (MISSING, NOW, NOW - 1, 10**15, *WRONG_INTEGERS),
        "rollback": (MISSING, None, 0, 1, "false", []),
        "more": (1, None),
        "manifest": (MISSING, None, [], {}, "x", {f"m{number}": 1 for number in range(65)}),
        "manifest/url": ("/artifacts/x", "http://example.org/x", None),
        "manifest/cached": (False,),
        "manifest/model": (MISSING, *WRONG_TEXTS, *WRONG_NAMES),
        "manifest/checkpoint": (MISSING, *WRONG_TEXTS, *WRONG_DIGESTS),
        "manifest/digest": (MISSING, *WRONG_TEXTS, *WRONG_DIGESTS),
        "manifest/build_key": WRONG_DIGESTS,
        "manifest/params": (MISSING, *WRONG_INTEGERS),
        "manifest/macs": (MISSING, *WRONG_INTEGERS),
        "manifest/bytes": (MISSING, 0, *WRONG_INTEGERS),
        "manifest/opset": (0, *WRONG_INTEGERS),
        "manifest/quality": (MISSING, *WRONG_TEXTS, "Refined", "a b"),
        "manifest/full_size": (None, 0, "true"),
        "manifest/parity": WRONG_NUMBERS,
        "manifest/agreement": WRONG_NUMBERS,
        "manifest/budget": (None, [], {}, {"unit": "params"}, {"unit": 1, "value": 1}, {"unit": "params", "value": -1}),
        "manifest/feasible": (None, {}, {"min": 1}, {"min": 1, "max": "2"}, {"min": 1, "max": 2, "more": 3}),
        "manifest/group_sizes": (None, [], {"": 1}, {"x" * 600: 1}, {"a": -1}, {"a": 1.5}),
        "manifest/inputs": (MISSING, None, [], {}, [1], [{}], [{"name": "x", "dtype": "float32"}]),
        "manifest/inputs/0/name": WRONG_TEXTS,
        "manifest/inputs/0/dtype": (None, "", "object", "str", "FLOAT32"),
        "manifest/inputs/0/shape": ("1", {}, [-1], [1.0], [True], ["batch"], [1] * 17),
        "manifest/inputs/0/more": (1,),
        "manifest/outputs/0/dtype": (None, "complex64"),
        "manifest/extra": (float("nan"), "\ud800", 2**60),
        "self_test": (MISSING, None, [], {}),
        "self_test/seed": (MISSING, *WRONG_TEXTS, "0", "xyzw", "ABCD", "00\n"),
        "self_test/rows": (MISSING, 0, 65, *WRONG_INTEGERS),
        "self_test/tolerance": (MISSING, None, -0.1, 1.5, *WRONG_NUMBERS),
        "self_test/more": (1,),
        "self_test/outputs": (MISSING, [], "x", {"": None}, {"y": {}}, {"y": {"shape": [1]}}),
        "self_test/outputs/logits/shape": (None, [None], [-1], [1.5]),
        "self_test/outputs/logits/values": ("x", [None], ["1"], [True], [float("inf")], [0] * 65),
        "policy": (MISSING, None, [], {}),
        "policy/max_error_share": (MISSING, None, -0.1, 1.1, *WRONG_NUMBERS),
        "policy/max_p95_ms": (MISSING, -1, 1e12, *WRONG_NUMBERS),
        "policy/watch_seconds": (MISSING, None, -1, 86_401, *WRONG_NUMBERS),
        "policy/watch_requests": (MISSING, *WRONG_INTEGERS),
        "policy/more": (1,),
    }
)

PROBE_CASES = cases(
    {
        "type": (MISSING, "inn-release/1"),
        "node": (MISSING, *WRONG_TEXTS, *WRONG_NAMES),
        "version": (MISSING, 0, *WRONG_INTEGERS),
        "expires": (MISSING, NOW, *WRONG_INTEGERS),
        "ladder": (MISSING, None, [], {}, [1], [probe_content()["ladder"][0]] * 2, [{}] * 33),
        "ladder/0/digest": (MISSING, *WRONG_TEXTS, *WRONG_DIGESTS),
        "ladder/0/bytes": (MISSING, 0, *WRONG_INTEGERS),
        "ladder/0/params": (MISSING, *WRONG_INTEGERS),
        "ladder/1/macs": (MISSING, *WRONG_INTEGERS),
        "ladder/1/url": ("http://example.org",),
        "batch": (MISSING, 0, 10**9, *WRONG_INTEGERS),
        "threads": (MISSING, 0, 10**9, *WRONG_INTEGERS),
        "percentile": (MISSING, None, 0, -1, 100.5, *WRONG_NUMBERS),
        "inputs": (MISSING, None, [], [{}]),
        "more": (1,),
    }
)


def shown(value: Any) -> str:
    return "missing" if value is MISSING else ascii(value)[:24]


@pytest.mark.parametrize(("place", "value"), RELEASE_CASES, ids=shown)
def test_a_release_is_read_strictly(place: str, value: Any) -> None:
    with pytest.raises(InvalidDocumentError):
        Release.parse(changed(release_content(), place, value))


@pytest.mark.parametrize(("place", "value"), PROBE_CASES, ids=shown)
def test_a_probe_is_read_strictly(place: str, value: Any) -> None:
    with pytest.raises(InvalidDocumentError):
        MeasurementOrder.parse(changed(probe_content(), place, value))


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
    wrong = Release(**(vars(release()) | {"version": 0}))
    with pytest.raises(InvalidDocumentError, match="version"):
        wrong.to_document([FIRST])
    with pytest.raises(InvalidDocumentError, match="batch"):
        MeasurementOrder(**(vars(probe()) | {"batch": 0})).to_document([FIRST])


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


def test_a_policy_fills_in_what_is_missing_only_when_told_to() -> None:
    assert Policy.parse({}, partial=True) == Policy(0.05, None, 30, 20)
    assert Policy.parse({"max_p95_ms": 5}, partial=True).max_p95_ms == 5
    with pytest.raises(InvalidDocumentError):
        Policy.parse({"max_p95_ms": 5})
    with pytest.raises(InvalidDocumentError):
        Policy.parse({"p95": 5}, partial=True)


def test_a_release_has_the_digest_of_its_artifact() -> None:
    assert release().digest == release_content()["manifest"]["digest"]


def test_names_and_digests_are_those_of_the_store() -> None:
    assert fields.NAME_PATTERN == identifiers.NAME_PATTERN
    assert fields.DIGEST_PATTERN == identifiers.DIGEST_PATTERN


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
