"""Write and read `.inn` checkpoints: one safetensors file with the template, weights, orders, curves and samples.

Arrays are named `template`, `w/<weight>`, `o/<group>` (orders), `d/<group>` (sensitivity curves), `p/<unit>` (size
paths), `s/<name>` (stored sizes, see `part_arrays`) and `c/<input>` (calibration samples); all else is JSON in the
header. There is no pickle and no code in a checkpoint.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from inn_core.arrays import Array
from inn_core.checkpoint.checkpoint import Checkpoint, InconsistentCheckpointError
from inn_core.checkpoint.part_arrays import part_arrays, read_parts
from inn_core.checkpoint.safetensors import invalid, read_tensors, read_text, write_tensors
from inn_core.checkpoint.structure_json import structure_from_json, structure_to_json
from inn_core.checkpoint.validation import check_checkpoint
from inn_core.errors import InnError, InvalidCheckpointError
from inn_core.files import file_digest
from inn_core.graph.structure import Template

__all__ = ["FORMAT_VERSION", "checkpoint_digest", "file_digest", "load_checkpoint", "read_header", "save_checkpoint"]

FORMAT_VERSION = 1

_PREFIXES = {"weights": "w/", "orders": "o/", "curves": "d/", "paths": "p/", "statistics": "s/", "calibration": "c/"}


def save_checkpoint(checkpoint: Checkpoint, path: str | Path) -> str:
    """Write a network; equal networks give equal bytes.

    Args:
        checkpoint: to write.
        path: target; replaced at once when everything is on the disk, never half-written.

    Returns:
        Digest of the file's bytes, `sha256:` plus hex.

    Raises:
        InvalidCheckpointError: the parts of the network do not fit each other.
        InvalidWeightsError: a weight holds NaN or infinity.
        OSError: the folder is missing or the disk is full.
    """
    path = Path(path)
    try:
        check_checkpoint(checkpoint)
    except InconsistentCheckpointError as error:
        raise InvalidCheckpointError(
            f"network '{checkpoint.name}' cannot be written: {error}", name=checkpoint.name
        ) from error
    template = checkpoint.template
    tensors: dict[str, Array] = {
        "template": np.frombuffer(template.model.SerializeToString(deterministic=True), dtype=np.uint8)
    }
    statistics = part_arrays(checkpoint)
    for part, prefix in _PREFIXES.items():
        arrays: Mapping[str, Array] = statistics if part == "statistics" else getattr(checkpoint, part)
        tensors.update({prefix + name: array for name, array in arrays.items()})
    header = {
        "format_version": FORMAT_VERSION,
        "name": checkpoint.name,
        "weights": [[name, list(shape), element_type] for name, (shape, element_type) in template.weights.items()],
        "statistics": list(statistics),
        "calibration": list(checkpoint.calibration),
        "structure": structure_to_json(checkpoint.structure),
        "provenance": dict(checkpoint.provenance),
    }
    if checkpoint.trained is not None:
        header["sampling"] = dict(checkpoint.trained.sampling)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False, sort_keys=True, allow_nan=False)
    return write_tensors(path, tensors, text)


def checkpoint_digest(checkpoint: Checkpoint) -> str:
    """Digest of the file that `save_checkpoint` would write; raises what that raises."""
    with tempfile.TemporaryDirectory() as folder:
        return save_checkpoint(checkpoint, Path(folder) / "checkpoint.inn")


def load_checkpoint(path: str | Path, *, verify: bool = True) -> Checkpoint:
    """Read a network.

    Args:
        path: the `.inn` file; it stays mapped while the arrays are in use and must not be changed in place.
        verify: also check the digest inside and look for NaN, which reads the whole file once. Leave it out only
            for a file whose digest was checked before. Everything else is checked always.

    Returns:
        The network; its arrays are read-only views of the file.

    Raises:
        InvalidCheckpointError: no checkpoint, cut off, another format version, or parts that do not fit each other.
        DigestMismatchError: a byte was changed.
        InvalidWeightsError: a weight holds NaN or infinity.
    """
    path = Path(path)
    content = read_tensors(path, verify=verify)
    header = _parse_header(path, content.text)
    parts = _split_parts(path, content.tensors)
    try:
        structure = structure_from_json(header["structure"])
        statistics = _ordered(parts["statistics"], header["statistics"])
        checkpoint = Checkpoint(
            name=header["name"],
            template=_template(content.tensors, header),
            weights=_ordered(parts["weights"], [name for name, _, _ in header["weights"]]),
            structure=structure,
            orders=parts["orders"],
            paths=parts["paths"],
            curves=parts["curves"],
            calibration=_ordered(parts["calibration"], header["calibration"]),
            provenance=dict(header["provenance"]),
            **read_parts(statistics, structure.groups, dict(header.get("sampling", {}))),
        )
        check_checkpoint(checkpoint, finite=verify)
    except InnError:
        raise
    except InconsistentCheckpointError as error:
        raise invalid(path, str(error)) from error
    except DecodeError as error:
        raise invalid(path, "its template is not an ONNX model") from error
    except KeyError as error:
        raise invalid(path, f"{error} is missing") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise invalid(path, f"its header is malformed ({error})") from error
    return checkpoint


def read_header(path: str | Path) -> dict[str, Any]:
    """The JSON header of a checkpoint, reading no array: `format_version`, `name`, `weights`, `structure`, …

    Raises:
        InvalidCheckpointError: no checkpoint, or of another format version. The rest of the file is not looked at.
    """
    return _parse_header(Path(path), read_text(Path(path)))


def _parse_header(path: Path, text: str) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise invalid(path, "its 'inn' entry is not JSON") from error
    if not isinstance(header, dict):
        raise invalid(path, "its 'inn' entry is not a JSON object")
    version = header.get("format_version")
    if version != FORMAT_VERSION:
        raise invalid(path, f"it has format version {version!r}; this release reads version {FORMAT_VERSION}")
    return header


def _split_parts(path: Path, tensors: Mapping[str, Array]) -> dict[str, dict[str, Any]]:
    parts: dict[str, dict[str, Any]] = {part: {} for part in _PREFIXES}
    for key, array in tensors.items():
        if key == "template":
            continue
        part = next((part for part, prefix in _PREFIXES.items() if key.startswith(prefix)), None)
        if part is None:
            raise invalid(path, f"it holds the unknown array '{key}'")
        parts[part][key[len(_PREFIXES[part]) :]] = array
    return parts


def _template(tensors: Mapping[str, Array], header: Mapping[str, Any]) -> Template:
    model = onnx.ModelProto.FromString(tensors["template"].tobytes())
    weights: dict[str, tuple[tuple[int, ...], int]] = {}
    for name, shape, element_type in header["weights"]:
        if not isinstance(name, str) or type(element_type) is not int or any(type(n) is not int for n in shape):
            raise ValueError(f"weight entry {name!r}")
        weights[name] = tuple(shape), element_type
    return Template(model, weights)


def _ordered(arrays: Mapping[str, Array], names: list[str]) -> dict[str, Array]:
    if sorted(arrays) != sorted(names):
        name = min(set(arrays) ^ set(names), default="?")
        raise ValueError(f"array '{name}' is missing or not listed")
    return {name: arrays[name] for name in names}
