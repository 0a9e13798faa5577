"""Documents that a hub of the first version signed: nodes and hubs in the field keep them, and must read them."""

from __future__ import annotations

import json
from pathlib import Path

from service.contract.measurement_order import MeasurementOrder
from service.contract.release import Release
from service.signing.keyring import Keyring
from tests.service.signing.samples import FIRST, ROOT, keyring

KEPT = json.loads(Path(__file__).with_name("documents").joinpath("first_version.json").read_text(encoding="utf-8"))


def test_a_release_is_read_and_signed_again_as_it_was() -> None:
    release = Release.open(KEPT["release"], keyring())
    assert release.content_digest == KEPT["content_digest"]
    assert release.to_document([FIRST]) == KEPT["release"]
    assert (release.policy.max_p95_ms, release.policy.watch_seconds) == (12, 1)


def test_a_measurement_order_is_read_and_signed_again_as_it_was() -> None:
    order = MeasurementOrder.open(KEPT["measurement_order"], keyring())
    assert order.to_document([FIRST]) == KEPT["measurement_order"]


def test_a_keyring_is_read_and_signed_again_as_it_was() -> None:
    assert Keyring.open(KEPT["keyring"], ROOT.public).to_document([ROOT]) == KEPT["keyring"]
