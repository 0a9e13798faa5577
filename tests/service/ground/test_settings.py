"""Settings come from INN_ variables, are checked, and every one is described."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from service.ground.settings import ApiSettings, BuilderSettings


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*ApiSettings.model_fields, *(f"builder_{field}" for field in BuilderSettings.model_fields)]:
        monkeypatch.delenv(f"INN_{name.upper()}", raising=False)


def test_defaults_listen_on_loopback_only() -> None:
    settings = ApiSettings()
    assert settings.host == "127.0.0.1"
    assert settings.port == 8000
    assert settings.store == Path("store")


def test_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INN_STORE", "/srv/inn")
    monkeypatch.setenv("INN_STORE_CAPACITY_BYTES", "5000000")
    monkeypatch.setenv("INN_BUILDER_MEMORY_BYTES", "1000000000")
    settings = ApiSettings()
    assert settings.store == Path("/srv/inn")
    assert settings.store_capacity_bytes == 5_000_000
    assert settings.builder_settings().memory_bytes == BuilderSettings().memory_bytes == 1_000_000_000


def test_arguments_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INN_PORT", "9000")
    assert ApiSettings(port=7000).port == 7000


def test_hub_passes_its_builder_settings_on_whole() -> None:
    settings = ApiSettings(
        device="cpu", builder_threads=3, builder_memory_bytes=1 << 30, builder_open_checkpoints=5, log_level="error"
    )
    expected = BuilderSettings(device="cpu", threads=3, memory_bytes=1 << 30, open_checkpoints=5, log_level="error")
    assert settings.builder_settings() == expected
    assert BuilderSettings.model_validate_json(expected.model_dump_json()) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("INN_PORT", "70000"),
        ("INN_PORT", "http"),
        ("INN_QUEUE_LIMIT", "0"),
        ("INN_BUILD_TIMEOUT_SECONDS", "-1"),
        ("INN_DEVICE", "tpu"),
        ("INN_STORE_CAPACITY_BYTES", "1"),
    ],
)
def test_wrong_value_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError, match=name.removeprefix("INN_").lower()):
        ApiSettings()


def test_unknown_argument_is_refused() -> None:
    misspelt: dict[str, Any] = {"prot": 8000}
    with pytest.raises(ValidationError):
        ApiSettings(**misspelt)


@pytest.mark.parametrize("name", ["port", "store"])
def test_settings_do_not_change(name: str) -> None:
    settings = ApiSettings()
    with pytest.raises(ValidationError):
        setattr(settings, name, getattr(settings, name))


@pytest.mark.parametrize("settings", [ApiSettings, BuilderSettings])
def test_every_setting_has_a_description_and_a_default(settings: type[ApiSettings | BuilderSettings]) -> None:
    for name, field in settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name
        assert not field.is_required(), name
