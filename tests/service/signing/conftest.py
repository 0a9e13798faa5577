"""A vault, and a clock that tests set."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.signing.vault import Vault
from tests.service.signing.samples import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def vault(tmp_path: Path, clock: Clock) -> Vault:
    return Vault.open(tmp_path / "store" / "fleet" / "keys", clock=clock)
