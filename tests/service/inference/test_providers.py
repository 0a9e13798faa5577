"""Providers are found out before they are asked for."""

from __future__ import annotations

import onnxruntime
import pytest

from service.inference import providers
from service.inference.providers import CPU, CUDA, DeviceUnavailableError, usable_providers


def test_auto_always_ends_with_the_cpu_and_the_session_really_gets_what_was_named() -> None:
    found = usable_providers("auto")
    assert found[-1] == CPU
    assert set(found) <= set(onnxruntime.get_available_providers())


def test_cpu_means_the_cpu_alone() -> None:
    assert usable_providers("cpu") == (CPU,)


def test_insisting_on_a_missing_device_names_the_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "cuda_obstacle", lambda: "no NVIDIA driver is installed")
    assert usable_providers("auto") == (CPU,)
    with pytest.raises(DeviceUnavailableError, match="no NVIDIA driver is installed"):
        usable_providers("cuda")


def test_a_working_device_is_preferred(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "cuda_obstacle", lambda: None)
    assert usable_providers("auto") == (CUDA, CPU)
    assert usable_providers("cuda:0") == (CUDA, CPU)


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(DeviceUnavailableError, match="'tpu'"):
        usable_providers("tpu")
