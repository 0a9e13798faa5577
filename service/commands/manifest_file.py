"""The manifest that lies beside an artifact on disk: `OUT.onnx.json` beside `OUT.onnx`.

`inn export` writes it after the artifact, `inn verify` compares the artifact with it. It is the manifest of the HTTP
API, as indented JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service.ground.files import write_file
from service.terminal import CommandError

MAX_MANIFEST_BYTES = 16 * 1024 * 1024
"""A manifest lists a few hundred groups at most; a larger file is none."""


def manifest_path(artifact: Path) -> Path:
    """Where the manifest of an artifact lies."""
    return artifact.with_name(artifact.name + ".json")


def write_manifest(manifest: Mapping[str, Any], artifact: Path) -> None:
    """Write the manifest beside its artifact: aside, fsynced, renamed, so that no half of one is ever seen."""
    write_json(manifest, manifest_path(artifact))


def write_json(value: Mapping[str, Any], path: Path) -> None:
    """Write one JSON document into a file, in the same way."""
    write_file(path, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def read_manifest(artifact: Path) -> dict[str, Any] | None:
    """The manifest beside an artifact, or None when there is none.

    Raises:
        CommandError: `invalid-manifest` when the file is no JSON object with a digest.
    """
    path = manifest_path(artifact)
    if not path.is_file():
        return None
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise CommandError(
            "invalid-manifest", f"'{path}' is larger than {MAX_MANIFEST_BYTES:,} bytes; it is no manifest"
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as exc:
        raise CommandError("invalid-manifest", f"'{path}' is no JSON ({exc}); export the artifact again") from exc
    if not isinstance(manifest, dict) or not isinstance(manifest.get("digest"), str):
        raise CommandError("invalid-manifest", f"'{path}' has no member 'digest'; export the artifact again")
    return manifest
