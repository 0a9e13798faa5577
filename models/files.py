"""Files that recipes write: networks as ONNX, weights, samples. Each is written aside first, never half."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor, nn

from inn_core.files import written_aside
from inn_core.importing.torch_export import export_quietly


def write_file(data: bytes, path: Path) -> None:
    """Write bytes, in a folder that is made when it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(path) as writer:
        writer.write(data)


def write_weights(module: nn.Module, path: Path) -> None:
    """Write the state of a module as safetensors."""
    state = {name: tensor.detach().contiguous() for name, tensor in module.state_dict().items()}
    write_file(save(state), path)


def write_arrays(path: Path, **arrays: NDArray[np.generic]) -> None:
    """Write a compressed `.npz`."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_file(buffer.getvalue(), path)


def write_graph(
    module: nn.Module, example: Tensor, path: Path, *, input_name: str, output_name: str, free: dict[int, Any]
) -> None:
    """Export a network of one input and one output to ONNX.

    Args:
        module: in eval mode.
        example: an input that the exporter runs.
        path: the file to write.
        input_name, output_name: names in the graph.
        free: axes of the input that may have any size, `position -> torch.export.Dim`.
    """
    model = export_quietly(
        module, (example,), input_names=[input_name], output_names=[output_name], dynamic_shapes=(free,)
    )
    write_file(model.SerializeToString(), path)
