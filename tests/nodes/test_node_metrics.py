"""The counters, and the two pages."""

from __future__ import annotations

import json

from prometheus_client.parser import text_string_to_metric_families

from smpc_fl.nodes.metrics import NodeMetrics


def series(metrics: NodeMetrics) -> dict[tuple[str, str], float]:
    """(name, the label that is not the node's own) -> value."""
    found = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            labels = {name: value for name, value in sample.labels.items() if name not in ("node", "role")}
            if not sample.name.endswith("_created"):
                assert (sample.labels["node"], sample.labels["role"]) == ("anna", "aggregator")
                found[sample.name, "".join(labels.values())] = sample.value
    return found


def test_what_is_counted() -> None:
    metrics = NodeMetrics("anna", "aggregator")
    metrics.sent("Receipt", 200)
    metrics.sent("Receipt", 300)
    metrics.received("owner", 4_000_000)
    metrics.round_ended(released=True)
    metrics.round_ended(released=False)
    metrics.run_ended("finished")
    metrics.connected(5)
    metrics.connected(4)
    assert series(metrics) == {
        ("smpc_fl_messages_sent_total", "Receipt"): 2,
        ("smpc_fl_sent_bytes_total", "Receipt"): 500,
        ("smpc_fl_messages_received_total", "owner"): 1,
        ("smpc_fl_received_bytes_total", "owner"): 4_000_000,
        ("smpc_fl_rounds_total", "released"): 1,
        ("smpc_fl_rounds_total", "aborted"): 1,
        ("smpc_fl_runs_total", "finished"): 1,
        ("smpc_fl_connected_peers", ""): 4,
    }


def test_a_peer_cannot_make_up_series() -> None:
    metrics = NodeMetrics("anna", "aggregator")
    for code in ("RevokedKey", "made up", "also made up"):
        metrics.refused(code)
    assert series(metrics)["smpc_fl_refusals_total", "other"] == 2
    assert series(metrics)["smpc_fl_refusals_total", "RevokedKey"] == 1


def test_nodes_in_one_process_count_apart() -> None:
    one, other = NodeMetrics("anna", "aggregator"), NodeMetrics("anna", "aggregator")
    one.refused("WrongRole")
    assert ("smpc_fl_refusals_total", "WrongRole") not in series(other)


def test_pages() -> None:
    metrics = NodeMetrics("anna", "aggregator")
    pages = metrics.pages(lambda: {"rounds": 3})
    for path in ("/", "/healthz"):
        page = pages(path)
        assert page is not None
        assert (page.status, page.content_type) == (200, "application/json")
        assert json.loads(page.body) == {"status": "ok", "node": "anna", "role": "aggregator", "rounds": 3}
    page = pages("/metrics")
    assert page is not None
    assert page.content_type.startswith("text/plain; version=")
    assert b"# HELP smpc_fl_connected_peers Members connected now." in page.body
    assert pages("/other") is None
