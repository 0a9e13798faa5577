"""Results kept by network, and results asked for last."""

from __future__ import annotations

import gc
import threading
import weakref

from inn_core.caches import MostRecent, WeakCache
from inn_core.checkpoint.checkpoint import Checkpoint
from tests.inn_core.networks import concat_network, residual_network


def test_a_result_is_computed_once_per_network() -> None:
    calls: list[str] = []

    def compute(checkpoint: Checkpoint) -> str:
        calls.append(checkpoint.name)
        return checkpoint.name

    memo = WeakCache(compute)
    first, second = residual_network(), concat_network()
    assert [memo(first), memo(second), memo(first), memo(second)] == ["residual", "concat", "residual", "concat"]
    assert calls == ["residual", "concat"]


def test_a_result_goes_with_its_network() -> None:
    class Result:
        pass

    memo = WeakCache(lambda network: Result())
    network = residual_network()
    result, gone = weakref.ref(memo(network)), weakref.ref(network)
    del network
    gc.collect()
    assert gone() is None
    assert result() is None


def test_threads_that_ask_at_once_get_one_result() -> None:
    both = threading.Barrier(2)

    def compute(checkpoint: Checkpoint) -> object:
        both.wait(timeout=10)
        return object()

    memo, network, results = WeakCache(compute), residual_network(), []
    threads = [threading.Thread(target=lambda: results.append(memo(network))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results[0] is results[1]


def test_only_the_results_asked_for_last_are_kept() -> None:
    calls: list[int] = []

    def ask(key: int) -> int:
        def compute() -> int:
            calls.append(key)
            return 10 * key

        return memo.get(key, compute)

    memo = MostRecent[int, int](2)
    assert [ask(key) for key in (0, 1, 0, 2, 0, 1)] == [0, 10, 0, 20, 0, 10]
    assert calls == [0, 1, 2, 1]
    assert len(memo) == 2
    memo.clear()
    assert (len(memo), ask(1), calls) == (0, 10, [0, 1, 2, 1, 1])
