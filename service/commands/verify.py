"""`inn verify`: is this file the one it should be?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from service.commands.arguments import JsonOption, check_digest, check_input_file
from service.commands.manifest_file import manifest_path, read_manifest
from service.ground.errors import DigestMismatchError
from service.ground.files import hash_file
from service.terminal import CommandError, print_result, reported_errors

CHECKPOINT_SUFFIX = ".inn"


@reported_errors()
def verify(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A checkpoint (.inn) or an artifact.", show_default=False)
    ],
    digest: Annotated[
        str | None, typer.Option(metavar="sha256:…", help="Digest the file should have, as in a manifest.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Check a checkpoint against the digests inside it, an artifact against its manifest (FILE.json) or --digest."""
    check_digest(digest)
    check_input_file(file, "file")
    if file.suffix == CHECKPOINT_SUFFIX:
        from service.builds.worker import in_process as local

        result = local.verify_checkpoint(file, digest=digest)
    else:
        result = verify_artifact(file, digest=digest)
    print_result(result, _print_intact, json=json)


def _print_intact(result: dict[str, Any]) -> None:
    typer.echo(f"{result['kind']} {result['file']} is intact: {result['digest']}")
    typer.echo(f"compared with: {', '.join(result['checked'])}")


def verify_artifact(path: Path, *, digest: str | None) -> dict[str, Any]:
    """Compare an artifact with the manifest beside it and with `digest`, whichever there are.

    Returns:
        `{"file", "kind": "artifact", "digest", "checked": [what it was compared with]}`.

    Raises:
        DigestMismatchError: the bytes are not those of the manifest or of `digest`.
        CommandError: `nothing-to-compare` when there is neither; a digest alone proves nothing.
    """
    found = hash_file(path)
    expected: dict[str, str] = {}
    manifest = read_manifest(path)
    if manifest is not None:
        expected[manifest_path(path).name] = manifest["digest"]
    if digest is not None:
        expected["--digest"] = digest
    if not expected:
        raise CommandError(
            "nothing-to-compare",
            f"'{path}' has digest {found}, but no manifest '{manifest_path(path).name}' lies beside it to compare to; "
            "give the digest it should have: --digest sha256:…",
        )
    for source, wanted in expected.items():
        if wanted != found:
            raise DigestMismatchError(f"artifact '{path}' (compared with {source})", expected=wanted, found=found)
    return {"file": str(path), "kind": "artifact", "digest": found, "checked": list(expected)}
