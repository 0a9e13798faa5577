"""Which ONNX Runtime execution providers really work here, found out before one is asked for.

`onnxruntime-gpu` lists CUDA on every machine and prints errors when CUDA is asked for but cannot load. So: first
look for a driver with a device, then for the provider's libraries, and only then name the provider.
"""

from __future__ import annotations

import ctypes
import logging
from pathlib import Path
from typing import Literal

from service.ground.errors import ServiceError

logger = logging.getLogger(__name__)

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"

Device = Literal["auto", "cpu", "cuda"]


class DeviceUnavailableError(ServiceError, RuntimeError):
    """The settings ask for a device that this machine does not have."""

    code = "device-unavailable"

    def __init__(self, device: str, reason: str) -> None:
        super().__init__(f"device '{device}' cannot be used: {reason}; use 'auto' or 'cpu'", device=device)


def usable_providers(device: str = "auto") -> tuple[str, ...]:
    """Providers to open sessions with, the preferred one first; the CPU is always among them.

    Args:
        device: "auto" takes CUDA when it works, "cpu" never, "cuda" (also "cuda:0") insists on it.

    Raises:
        DeviceUnavailableError: CUDA is insisted on and does not work here, or the name is unknown.
    """
    if device == "cpu":
        return (CPU,)
    if device != "auto" and device.split(":")[0] != "cuda":
        raise DeviceUnavailableError(device, "it is unknown")
    obstacle = cuda_obstacle()
    if obstacle is None:
        return (CUDA, CPU)
    if device != "auto":
        raise DeviceUnavailableError(device, obstacle)
    logger.debug("cuda not used for sessions", extra={"reason": obstacle})
    return (CPU,)


def cuda_obstacle() -> str | None:
    """Why CUDA sessions cannot be opened, or None when they can."""
    import onnxruntime

    if CUDA not in onnxruntime.get_available_providers():
        return "the installed ONNX Runtime has no CUDA provider"
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver is installed"
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value < 1:
        return "the NVIDIA driver reports no device"
    preload = getattr(onnxruntime, "preload_dlls", None)
    if preload is not None:
        preload()  # finds cuDNN and cuBLAS of the nvidia-* wheels
    folder = Path(onnxruntime.__file__).parent / "capi"
    try:
        for library in ("libonnxruntime_providers_shared.so", "libonnxruntime_providers_cuda.so"):
            ctypes.CDLL(str(folder / library), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        return f"a CUDA library does not load ({error})"
    return None
