"""Results kept by network."""

from __future__ import annotations

import gc
import threading
import weakref

from inn_core.memo import PerNetwork
from inn_core.network import Checkpoint
from tests.inn_core.networks import concat_network, residual_network


def test_a_result_is_computed_once_per_network() -> None:
    calls: list[str] = []

    def compute(network: Checkpoint) -> str:
        calls.append(network.name)
        return network.name

    memo = PerNetwork(compute)
    first, second = residual_network(), concat_network()
    assert [memo(first), memo(second), memo(first), memo(second)] == ["residual", "concat", "residual", "concat"]
    assert calls == ["residual", "concat"]


def test_a_result_goes_with_its_network() -> None:
    class Result:
        pass

    memo = PerNetwork(lambda network: Result())
    network = residual_network()
    result, gone = weakref.ref(memo(network)), weakref.ref(network)
    del network
    gc.collect()
    assert gone() is None
    assert result() is None


def test_threads_that_ask_at_once_get_one_result() -> None:
    both = threading.Barrier(2)

    def compute(network: Checkpoint) -> object:
        both.wait(timeout=10)
        return object()

    memo, network, results = PerNetwork(compute), residual_network(), []
    threads = [threading.Thread(target=lambda: results.append(memo(network))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results[0] is results[1]
