"""What every artifact store promises; implementations are listed in conftest.py."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.ground.errors import DigestMismatchError, InvalidRequestError, StoreFullError, UnknownArtifactError
from service.store.interface import ArtifactStore, Lease
from service.store.local import LocalStore
from tests.service.store.stores import CAPACITY_BYTES, StoreFactory, digest_of, put

ABSENT = "sha256:" + "0" * 64
HOSTILE_DIGESTS = [
    "",
    "sha256:",
    "sha256:" + "g" * 64,
    "sha256:" + "A" * 64,
    "sha256:" + "0" * 63,
    "sha256:" + "0" * 65,
    "sha256:" + "0" * 64 + "\n",
    "md5:" + "0" * 64,
    "sha256:../../../../etc/passwd",
    "sha256:" + "../" * 21 + "0",
    "../" * 5 + "etc/passwd",
    "sha256:" + "0" * 31 + "\x00" + "0" * 32,
    "sha256:" + "\u0660" * 64,
]


def test_adopted_artifact_is_read_back_by_its_digest(store: ArtifactStore) -> None:
    digest = put(store, b"weights")
    with store.lease(digest) as lease:
        assert lease.path.read_bytes() == b"weights"
        assert (lease.digest, lease.size_bytes) == (digest, 7)
    assert store.used_bytes == 7
    assert store.digests() == [digest]
    assert digest in store


def test_adopting_the_same_digest_again_changes_nothing(store: ArtifactStore) -> None:
    digest = put(store, b"weights")
    with store.lease(digest) as lease:
        inode = lease.path.stat().st_ino
        put(store, b"weights")
        assert lease.path.stat().st_ino == inode
    assert store.used_bytes == 7


def test_wrong_digest_is_refused_and_nothing_adopted(store: ArtifactStore) -> None:
    with store.staging() as folder:
        (folder / "file").write_bytes(b"changed on the way")
        with pytest.raises(DigestMismatchError) as caught:
            store.adopt(folder / "file", digest_of(b"weights"))
        assert (folder / "file").exists()
    assert caught.value.fields == {"expected": digest_of(b"weights"), "found": digest_of(b"changed on the way")}
    assert store.digests() == []


def test_staging_folders_differ_and_go_away(store: ArtifactStore) -> None:
    with store.staging() as first, store.staging() as second:
        assert first != second
        (first / "half").write_bytes(b"half a file")
    assert not first.exists()
    assert not second.exists()


def test_least_recently_used_is_evicted_first(store: ArtifactStore) -> None:
    first, second, third = (put(store, letter * 300) for letter in (b"a", b"b", b"c"))
    store.touch(first)
    fourth = put(store, b"d" * 300)
    assert store.digests() == [third, first, fourth]
    with pytest.raises(UnknownArtifactError):
        store.lease(second)


def test_leasing_counts_as_a_use(store: ArtifactStore) -> None:
    first, second = put(store, b"a" * 400), put(store, b"b" * 400)
    store.lease(first).release()
    put(store, b"c" * 400)
    assert first in store
    assert second not in store


def test_leased_artifact_is_never_evicted(store: ArtifactStore) -> None:
    leased, idle = put(store, b"a" * 400), put(store, b"b" * 400)
    with store.lease(leased) as lease:
        put(store, b"c" * 600)
        assert lease.path.read_bytes() == b"a" * 400
        assert not store.remove(leased)
    assert idle not in store
    assert store.remove(leased)
    assert leased not in store


def test_release_twice_counts_once(store: ArtifactStore) -> None:
    digest = put(store, b"a")
    first, second = store.lease(digest), store.lease(digest)
    first.release()
    first.release()
    assert not store.remove(digest)
    second.release()
    assert store.remove(digest)


def test_full_store_refuses_and_evicts_nothing(store: ArtifactStore) -> None:
    idle, leased = put(store, b"a" * 300), put(store, b"b" * 300)
    with store.lease(leased):
        with pytest.raises(StoreFullError) as caught:
            store.make_room(701)
        assert caught.value.fields["capacity_bytes"] == CAPACITY_BYTES
        assert caught.value.fields["needed_bytes"] == 701
        assert caught.value.fields["free_bytes"] == 700
        with pytest.raises(StoreFullError):
            put(store, b"c" * 701)
        assert store.digests() == [idle, leased]
        store.make_room(700)
    assert store.digests() == [leased]


def test_make_room_evicts_only_what_is_needed(store: ArtifactStore) -> None:
    _, second, third = (put(store, letter * 300) for letter in (b"a", b"b", b"c"))
    store.make_room(400)
    assert store.digests() == [second, third]
    store.make_room(400)
    assert store.digests() == [second, third]


def test_unknown_digest_is_an_error_of_its_own(store: ArtifactStore) -> None:
    with pytest.raises(UnknownArtifactError) as caught:
        store.lease(ABSENT)
    assert caught.value.fields == {"digest": ABSENT}
    assert not store.remove(ABSENT)
    store.touch(ABSENT)
    assert ABSENT not in store


@pytest.mark.parametrize("digest", HOSTILE_DIGESTS)
def test_hostile_digest_is_refused_before_a_path_is_built(store: ArtifactStore, digest: str) -> None:
    with pytest.raises(InvalidRequestError):
        store.lease(digest)
    with pytest.raises(InvalidRequestError):
        store.remove(digest)
    with store.staging() as folder:
        (folder / "file").write_bytes(b"x")
        with pytest.raises(InvalidRequestError):
            store.adopt(folder / "file", digest, trusted=True)
    assert digest not in store


def test_restart_keeps_artifacts_and_removes_staging_files(make_store: StoreFactory, tmp_path: Path) -> None:
    first = make_store(tmp_path)
    digest = put(first, b"weights")
    with first.staging() as folder:
        (folder / "half").write_bytes(b"half a file")
        first.close()
        second = make_store(tmp_path)
        assert not folder.exists()
    assert second.digests() == [digest]
    assert second.used_bytes == 7
    with second.lease(digest) as lease:
        assert lease.path.read_bytes() == b"weights"
    second.close()


def test_lost_file_is_noticed_when_leased(store: ArtifactStore) -> None:
    digest = put(store, b"weights")
    with store.lease(digest) as lease:
        lease.path.unlink()
    with pytest.raises(UnknownArtifactError):
        store.lease(digest)
    assert store.used_bytes == 0
    assert put(store, b"weights") == digest
    assert store.used_bytes == 7


def test_threads_that_adopt_lease_and_evict_at_once_agree(store: ArtifactStore) -> None:
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for step in range(25):
                data = bytes([(seed * 7 + step) % 11]) * 150
                digest = put(store, data)
                try:
                    with store.lease(digest) as lease:
                        assert lease.path.read_bytes() == data
                except UnknownArtifactError:
                    continue
        except StoreFullError:
            pass
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert 0 < store.used_bytes <= CAPACITY_BYTES
    assert store.used_bytes == 150 * len(store.digests())


STEPS = st.lists(
    st.tuples(st.sampled_from(["put", "lease", "release", "touch", "room"]), st.integers(0, 9)), max_size=40
)


@given(steps=STEPS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_capacity_holds_and_leased_artifacts_stay(
    steps: list[tuple[str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = LocalStore(tmp_path_factory.mktemp("store"), capacity_bytes=CAPACITY_BYTES)
    leases: list[Lease] = []
    for action, number in steps:
        data = bytes([number]) * (100 + 37 * number)
        before = store.digests()
        try:
            if action == "put":
                assert put(store, data) in store
            elif action == "lease":
                leases.append(store.lease(digest_of(data)))
            elif action == "release" and leases:
                leases.pop(number % len(leases)).release()
            elif action == "touch":
                store.touch(digest_of(data))
            elif action == "room":
                store.make_room(len(data))
                assert store.used_bytes + len(data) <= CAPACITY_BYTES
        except StoreFullError:
            assert store.digests() == before
        except UnknownArtifactError:
            assert digest_of(data) not in before
        assert store.used_bytes <= CAPACITY_BYTES
        assert all(lease.path.is_file() for lease in leases)
        assert {lease.digest for lease in leases} <= set(store.digests())
    store.close()
