"""Documents for nodes: what they hold, when they have to be signed anew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from service.contract.measurement_order import MeasurementOrder
from service.contract.release import Release
from service.hub.fleet.records import Generation, Node
from service.hub.fleet.release_signing import DAY_SECONDS, SLACK_SECONDS, Signer
from service.signing.errors import InvalidDocumentError
from service.signing.vault import Vault
from tests.service.hub.fleet.parts import Clock, desired, reported

TENSOR = {"name": "x", "dtype": "float32", "shape": [None, 6]}
MANIFEST = {
    "model": "toy",
    "checkpoint": "sha256:" + "1" * 64,
    "digest": "sha256:" + "2" * 64,
    "params": 10,
    "macs": 10,
    "bytes": 400,
    "quality": "refined",
    "inputs": [TENSOR],
    "outputs": [TENSOR],
}
SELF_TEST = {"seed": "ab", "rows": 2, "outputs": None, "tolerance": 1e-3}
NODE = Node("a", "", {}, {}, 0.0, 0.0)
GENERATION = Generation(
    number=4,
    root=3,
    kind="release",
    origin="admin",
    desired=desired(),
    rollback=True,
    created=0.0,
    content={"manifest": MANIFEST, "self_test": SELF_TEST},
)


def test_a_release_says_what_its_generation_says(tmp_path: Path) -> None:
    clock = Clock()
    vault = Vault.open(tmp_path, clock=clock)
    document = Signer(vault, release_days=30, clock=clock).document(NODE, GENERATION)
    release = Release.open(document, vault.keyring())
    assert (release.node, release.version, release.rollback) == ("a", 4, True)
    assert (release.issued, release.expires) == (int(clock()), int(clock()) + 30 * DAY_SECONDS)
    assert release.manifest == MANIFEST
    assert release.policy.to_json() == desired().policy.model_dump()


def test_a_probe_says_what_is_to_be_measured(tmp_path: Path) -> None:
    vault = Vault.open(tmp_path)
    rung = {name: MANIFEST[name] for name in ("digest", "bytes", "params", "macs")}
    probing = replace(GENERATION, kind="probe", content={"ladder": [rung], "inputs": [TENSOR]})
    probe = MeasurementOrder.open(Signer(vault, release_days=30).document(NODE, probing), vault.keyring())
    assert (probe.node, probe.version, probe.batch, probe.percentile) == ("a", 4, 1, 95)
    assert [one.digest for one in probe.ladder] == [MANIFEST["digest"]]


def test_half_of_its_life_and_a_revoked_key_make_it_sign_anew(tmp_path: Path) -> None:
    clock = Clock()
    vault = Vault.open(tmp_path, clock=clock)
    signer = Signer(vault, release_days=10, clock=clock)
    document = signer.document(NODE, GENERATION)
    assert signer.is_fresh(NODE, document)
    clock.now += 5 * DAY_SECONDS - 1
    assert signer.is_fresh(NODE, document)
    clock.now += 2
    assert not signer.is_fresh(NODE, document)
    document = signer.document(NODE, GENERATION)
    vault.rotate()
    assert signer.is_fresh(NODE, document)
    vault.revoke(document["signatures"][0]["key_id"])
    assert not signer.is_fresh(NODE, document)
    assert signer.is_fresh(NODE, signer.document(NODE, GENERATION))


def test_what_nodes_would_refuse_is_not_signed(tmp_path: Path) -> None:
    content = {"manifest": {**MANIFEST, "digest": "sha256:../../x"}, "self_test": SELF_TEST}
    with pytest.raises(InvalidDocumentError, match="digest"):
        Signer(Vault.open(tmp_path), release_days=1).document(NODE, replace(GENERATION, content=content))


def says(time: int) -> Node:
    """A node that judges expiry by this time."""
    node = Node("a", "", {}, {}, 0.0, 0.0)
    node.reported = reported("committed", GENERATION, trusted={"time": time, "version": 3})
    return node


def test_a_node_that_once_saw_a_clock_far_ahead_gets_documents_that_are_good_beyond_it(tmp_path: Path) -> None:
    clock = Clock()
    vault = Vault.open(tmp_path, clock=clock)
    signer = Signer(vault, release_days=10, clock=clock)
    now, ahead = int(clock()), int(clock()) + 400 * DAY_SECONDS
    ordinary = signer.document(NODE, GENERATION)
    assert not signer.is_fresh(says(ahead), ordinary)
    document = signer.document(says(ahead), GENERATION)
    release = Release.open(document, vault.keyring())
    assert (release.issued, release.expires) == (now, ahead + 10 * DAY_SECONDS)
    assert signer.is_fresh(says(ahead), document)
    assert not signer.is_fresh(says(ahead + 6 * DAY_SECONDS), document)
    # Beyond the end of the keyring a node believes nothing.
    last = signer.document(says(2**53 - 1), GENERATION)
    assert last["signed"]["expires"] == vault.keyring().expires + 10 * DAY_SECONDS
    assert signer.is_fresh(says(2**53 - 1), last)


def test_what_a_clock_far_ahead_has_issued_is_signed_anew_once_it_is_set_right(tmp_path: Path) -> None:
    clock = Clock()
    signer = Signer(Vault.open(tmp_path, clock=clock), release_days=10, clock=clock)
    clock.now += DAY_SECONDS
    document = signer.document(NODE, GENERATION)
    clock.now -= SLACK_SECONDS - 1
    assert signer.is_fresh(NODE, document)
    clock.now -= 2
    assert not signer.is_fresh(NODE, document)


def test_nodes_hear_again_what_is_left_when_the_keyring_has_changed(tmp_path: Path) -> None:
    clock = Clock()
    vault = Vault.open(tmp_path, clock=clock)
    signer = Signer(vault, release_days=10, clock=clock)
    document = signer.document(NODE, GENERATION)
    clock.now += 5
    vault.rotate()
    assert not signer.is_fresh(NODE, document)
    clock.now -= 3600  # a clock that is set back has the keyring as its floor, as the vault has
    again = signer.document(NODE, GENERATION)
    assert again["signed"]["issued"] == vault.keyring().issued
    assert signer.is_fresh(NODE, again)
