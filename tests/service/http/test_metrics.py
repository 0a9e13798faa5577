"""Metrics arrive in the registry under the names that dashboards rely on."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from service.http.metrics import Metrics

NAMES = {
    "inn_infer_requests",
    "inn_infer_request_duration_seconds",
    "inn_infer_queue_duration_seconds",
    "inn_infer_batch_rows",
    "inn_infer_pending_requests",
    "inn_export_duration_seconds",
    "inn_exports",
    "inn_exports_joined",
    "inn_cache_hits",
    "inn_cache_misses",
    "inn_cache_evictions",
    "inn_cache_bytes",
    "inn_artifact_bytes_sent",
    "inn_sessions_loaded",
    "inn_build_info",
    "inn_http_requests",
}


def test_all_promised_names_are_there_and_two_apps_do_not_share_them() -> None:
    first, second = Metrics(), Metrics()
    families = {family.name for family in text_string_to_metric_families(first.render().decode())}
    assert families >= NAMES
    first.export_cached()
    assert first.registry.get_sample_value("inn_cache_hits_total") == 1.0
    assert second.registry.get_sample_value("inn_cache_hits_total") == 0.0


def test_what_observers_are_told_is_counted() -> None:
    metrics = Metrics()
    metrics.request_queued()
    metrics.request_queued()
    metrics.request_left(0.25)
    metrics.batch_run(3, 0.5)
    metrics.sessions_changed(2, 1000)
    metrics.export_missed()
    metrics.export_joined()
    metrics.build_finished("done", 2.0)
    metrics.stage_finished("fit", 1.5)
    metrics.pending_changed(4)
    metrics.builder_restarted()
    metrics.artifact_evicted(10)
    metrics.used_bytes_changed(99)
    metrics.infer_answered("m", 200, 0.1)
    metrics.artifact_bytes_sent(7)
    expected = {
        ("inn_infer_pending_requests", ()): 1.0,
        ("inn_infer_queue_duration_seconds_sum", ()): 0.25,
        ("inn_infer_batch_rows_sum", ()): 3.0,
        ("inn_infer_run_duration_seconds_sum", ()): 0.5,
        ("inn_sessions_loaded", ()): 2.0,
        ("inn_sessions_bytes", ()): 1000.0,
        ("inn_cache_misses_total", ()): 1.0,
        ("inn_exports_joined_total", ()): 1.0,
        ("inn_exports_total", (("result", "done"),)): 1.0,
        ("inn_exports_total", (("result", "failed"),)): 0.0,
        ("inn_export_duration_seconds_sum", (("stage", "total"),)): 2.0,
        ("inn_export_duration_seconds_sum", (("stage", "fit"),)): 1.5,
        ("inn_exports_pending", ()): 4.0,
        ("inn_builder_restarts_total", ()): 1.0,
        ("inn_cache_evictions_total", ()): 1.0,
        ("inn_cache_bytes", ()): 99.0,
        ("inn_infer_requests_total", (("model", "m"), ("code", "200"))): 1.0,
        ("inn_artifact_bytes_sent_total", ()): 7.0,
    }
    found = {key: metrics.registry.get_sample_value(key[0], dict(key[1])) for key in expected}
    assert found == expected
