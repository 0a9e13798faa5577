"""Files are whole or absent, and a full disk is an error of its own."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from service.ground.errors import BodyTooLargeError, InvalidRequestError, StoreFullError
from service.ground.files import HashingWriter, disk_full_as_error, hash_file, publish
from service.ground.names import check_digest, check_name, digest_path, is_digest, is_name


def test_publish_moves_a_file_into_a_new_folder(tmp_path: Path) -> None:
    staged, target = tmp_path / "staged", tmp_path / "ab" / "target"
    staged.write_bytes(b"weights")
    publish(staged, target)
    assert target.read_bytes() == b"weights"
    assert not staged.exists()


def test_writer_hashes_what_it_writes(tmp_path: Path) -> None:
    chunks: list[bytes | bytearray | memoryview] = [b"abc", bytearray(b"def"), memoryview(b"ghi"), b""]
    with HashingWriter(tmp_path / "upload", limit_bytes=9) as writer:
        for chunk in chunks:
            writer.write(chunk)
    expected = f"sha256:{hashlib.sha256(b'abcdefghi').hexdigest()}"
    assert (writer.size_bytes, writer.digest) == (9, expected)
    assert (tmp_path / "upload").read_bytes() == b"abcdefghi"
    assert hash_file(tmp_path / "upload") == expected


def test_writer_stops_at_its_limit(tmp_path: Path) -> None:
    with HashingWriter(tmp_path / "upload", limit_bytes=9, what="the checkpoint") as writer:
        writer.write(b"12345678")
        with pytest.raises(BodyTooLargeError, match=r"the checkpoint is larger than the limit of 9 bytes") as caught:
            writer.write(b"90")
    assert caught.value.fields == {"limit_bytes": 9}
    assert (tmp_path / "upload").read_bytes() == b"12345678"


def test_writer_never_writes_over_a_file(tmp_path: Path) -> None:
    (tmp_path / "upload").write_bytes(b"there")
    with pytest.raises(FileExistsError):
        HashingWriter(tmp_path / "upload", limit_bytes=9)


def test_full_disk_is_told_from_other_errors(tmp_path: Path) -> None:
    with (
        pytest.raises(StoreFullError) as caught,
        disk_full_as_error(tmp_path, needed_bytes=5, capacity_bytes=7),
        open("/dev/full", "wb", buffering=0) as device,  # the system's own device that is always full
    ):
        device.write(b"12345")
    assert caught.value.fields["needed_bytes"] == 5
    assert caught.value.fields["capacity_bytes"] == 7
    with pytest.raises(FileNotFoundError), disk_full_as_error(tmp_path, needed_bytes=5):
        (tmp_path / "absent").read_bytes()


@pytest.mark.parametrize("value", [None, 5, b"net", ["net"], "", "a/b", "net\n", "_net"])
def test_what_is_no_name_is_refused_with_its_place(value: object) -> None:
    assert not is_name(value)
    with pytest.raises(InvalidRequestError) as caught:
        check_name(value, "/name")
    assert caught.value.fields["errors"][0]["pointer"] == "/name"


def test_long_values_are_shown_short() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        check_digest("x" * 1_000_000)
    assert len(str(caught.value)) < 300


def test_names_and_digests_pass() -> None:
    digest = "sha256:" + "0123456789abcdef" * 4
    assert check_name("Net-1.5_b") == "Net-1.5_b"
    assert check_digest(digest) == digest
    assert is_digest(digest)


def test_digest_path_follows_no_link_out_of_the_store(tmp_path: Path) -> None:
    digest = "sha256:" + "ab" * 32
    store, outside = tmp_path / "store", tmp_path / "outside"
    store.mkdir()
    outside.mkdir()
    assert digest_path(store, digest, ".onnx") == store / "ab" / ("ab" * 32 + ".onnx")
    (store / "ab").symlink_to(outside)
    with pytest.raises(InvalidRequestError):
        digest_path(store, digest, ".onnx")
