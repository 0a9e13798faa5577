"""Metrics arrive in the registry under the names that dashboards rely on."""

from __future__ import annotations

import importlib

from prometheus_client.parser import text_string_to_metric_families

from service.ground.metrics import render

NAMES = {
    "inn_infer_requests",
    "inn_infer_request_duration_seconds",
    "inn_infer_queue_duration_seconds",
    "inn_infer_batch_rows",
    "inn_infer_pending_requests",
    "inn_infer_run_duration_seconds",
    "inn_sessions_bytes",
    "inn_exports_pending",
    "inn_builder_restarts",
    "inn_fleet_nodes",
    "inn_http_request_duration_seconds",
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


def test_all_promised_names_are_there_with_one_app_or_two() -> None:
    importlib.import_module("service.hub.app")  # each of its modules declares what it counts
    families = {family.name: family for family in text_string_to_metric_families(render().decode())}
    assert set(families) >= NAMES
    results = {sample.labels["result"] for sample in families["inn_exports"].samples if "result" in sample.labels}
    assert results == {"done", "failed", "cancelled"}
    assert not [name for name in families if not name.startswith(("inn_", "process_"))]
