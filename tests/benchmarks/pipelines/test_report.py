"""The report shows what the rows say: picks by validation, spread over seeds, cost of many sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pipelines.cost import goals
from benchmarks.pipelines.drawing import thousands
from benchmarks.pipelines.report import tables, write_report

Row = dict[str, Any]


def row(
    method: str,
    share: float,
    test: float,
    *,
    validation: float | None = None,
    seed: int = 0,
    again: float | None = None,
    found: Row | None = None,
    **details: Any,
) -> Row:
    raw = {"validation": test if validation is None else validation, "test": test}
    reestimated = None if again is None else {"validation": again, "test": again}
    key = {"network": "net", "method": method, "share": share, "seed": seed, "base": "16 epochs", "test": True}
    measured = {"params": int(1000 * share), "macs": 5_000_000, "seconds": 1.0, "raw": raw, "reestimated": reestimated}
    return {
        "key": {**key, "quick": False, **details},
        "found": {**measured, **(found or {})},
        "environment": {"cores": 2},
    }


def test_seeds_are_averaged_and_their_spread_is_shown() -> None:
    text = tables([row("discrete", 1.0, 0.90), row("discrete", 1.0, 0.92, seed=1)])
    assert "| discrete | 91.00 ± 1.00 | 2 |  | 1,000 |" in text


def test_both_readings_are_shown_with_sizes_once() -> None:
    text = tables([row("folding", 0.5, 0.3, again=0.8), row("folding", 0.25, 0.1, again=0.6)])
    assert "|  | 50 % | 25 % |" in text
    assert "| folding | 30.00 | 10.00 |" in text
    assert "| folding, statistics re-estimated | 80.00 | 60.00 |" in text
    assert text.count("500, 5.00 | 250, 5.00") == 1


def test_the_best_setting_of_each_seed_is_picked_on_the_images_shown() -> None:
    rows = [
        row("Torch-Pruning", 0.5, 0.80, validation=0.70, setting="A"),
        row("Torch-Pruning", 0.5, 0.75, validation=0.72, setting="B"),
        row("Torch-Pruning", 0.5, 0.60, validation=0.66, setting="A", seed=1),
        row("Torch-Pruning", 0.5, 0.70, validation=0.62, setting="B", seed=1),
    ]
    assert "| Torch-Pruning | 75.00 ± 5.00 |" in tables(rows)
    assert "| Torch-Pruning | 69.00 ± 3.00 |" in tables(rows, on="validation")


def test_rows_of_a_report_need_no_validation_accuracy() -> None:
    measured = row("Torch-Pruning", 0.5, 0.80, setting="A")
    measured["found"]["raw"]["validation"] = None
    assert "| Torch-Pruning | 80.00 |" in tables([measured])


def test_steps_are_named_where_they_differ() -> None:
    rows = [row("Torch-Pruning", 0.5, 0.5, steps=0), row("Torch-Pruning", 0.5, 0.9, steps=1000)]
    text = tables(rows)
    assert "| Torch-Pruning, 0 steps | 50.00 |" in text
    assert "| Torch-Pruning, 1,000 steps | 90.00 |" in text
    assert "| Torch-Pruning | 90.00 |" in tables(rows[1:])


def test_weights_of_each_seed_are_one_series() -> None:
    rows = [row("discrete", 1.0, 0.9), row("discrete", 1.0, 0.92, seed=1)]
    rows[0]["key"]["base"], rows[1]["key"]["base"] = "0123456789ab", "ba9876543210"
    assert "| discrete | 91.00 ± 1.00 |" in tables(rows)


def test_a_missed_size_is_marked() -> None:
    assert "| Torch-Pruning | 50.00* |" in tables([row("Torch-Pruning", 0.5, 0.5, found={"is_hit": False})])


def test_methods_with_other_shares_have_a_table_of_their_own() -> None:
    text = tables([row("b", 0.9, 0.9), row("b", 0.5, 0.9), row("c", 0.81, 0.8), row("c", 0.25, 0.8)])
    assert "### At 90 % to 50 % of the parameters" in text
    assert "### At 81 % to 25 % of the parameters" in text


def test_folding_is_in_the_tables_of_both_parts_and_does_not_merge_them() -> None:
    cut = [row("largest filters", share, 0.8) for share in (0.9, 0.5)]
    alone = [row("trained alone", share, 0.7) for share in (0.81, 0.25)]
    text = tables([*cut, *alone, *(row("folding", share, 0.6) for share in (0.9, 0.81, 0.5, 0.25))])
    titles = [line for line in text.splitlines() if line.startswith("### ")]
    assert titles == [
        "### Every size",
        "### Without training: at 90 % to 50 % of the parameters",
        "### At 81 % to 25 % of the parameters",
    ]
    assert text.count("| folding | 60.00 | 60.00 |") == 2


def headline_rows(text: str) -> dict[str, dict[str, str]]:
    """The cells of the first table by row and column."""
    lines = text[text.index("### Every size") :].splitlines()[2:]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[: lines.index("")]]
    return {cells[0]: dict(zip(table[0], cells, strict=True)) for cells in table[2:]}


def test_the_headline_has_a_row_for_every_share_and_blanks_for_what_was_not_measured() -> None:
    rows = [
        row("discrete, trained on", 1.0, 0.94, steps=9),
        row("ours, trained sizes", 1.0, 0.945, steps=9, checkpoint="a"),
        row("ours, trained sizes", 0.5, 0.93, steps=9, checkpoint="a"),
        row("ours, trained sizes", 0.5, 0.91, steps=9, checkpoint="b", seed=1),
        row("slimmable", 0.25, 0.7, again=0.8, steps=9, rate=0.1),
        row("slimmable", 0.25, 0.7, again=0.85, steps=9, rate=0.2),
        row("slimmable", 0.25, 0.99, again=0.99, steps=5, rate=0.1),
        row("integral, tuned partition, smoothing order", 0.9, 0.9),
        row("folding", 0.9, 0.9),
    ]
    text = tables(rows)
    assert headline_rows(text) == {
        "100 %": {
            "parameters": "100 %",
            "discrete, trained on": "94.00",
            "ours, trained": "94.50",
            "slimmable": "",
        },
        "50 %": {
            "parameters": "50 %",
            "discrete, trained on": "",
            "ours, trained": "92.00 ± 1.00",
            "slimmable": "",
        },
        "25 %": {"parameters": "25 %", "discrete, trained on": "", "ours, trained": "", "slimmable": "85.00"},
    }
    assert "- ours, trained: 1 to 2 seeds, 9 steps" in text
    assert "### Without training: at 90 % to 90 % of the parameters" in text


def test_the_headline_shows_the_best_of_torch_pruning_with_and_without_training() -> None:
    rows = [
        row("Torch-Pruning", 0.5, 0.5, again=0.6, steps=0, setting="A"),
        row("Torch-Pruning", 0.5, 0.4, again=0.7, steps=0, setting="B"),
        row("Torch-Pruning", 0.5, 0.81, again=0.8, steps=100, setting="A", rate=0.1),
        row("Torch-Pruning", 0.5, 0.79, again=0.78, steps=1000, setting="B", rate=0.1),
        row("folding", 0.5, 0.2, again=0.3),
    ]
    assert headline_rows(tables(rows))["50 %"] == {
        "parameters": "50 %",
        "Torch-Pruning, as it comes": "50.00",
        "Torch-Pruning, statistics re-estimated": "70.00",
        "Torch-Pruning, fine-tuned": "81.00",
        "folding": "30.00",
    }


def test_the_latest_checkpoint_of_a_seed_counts_even_where_an_older_one_was_better() -> None:
    rows = [
        row("ours, trained sizes", 0.5, 0.95, steps=9, checkpoint="a"),
        row("ours, trained sizes", 0.5, 0.93, steps=9, checkpoint="b"),
    ]
    text = tables(rows)
    assert headline_rows(text)["50 %"]["ours, trained"] == "93.00"
    assert "| ours, trained sizes | 93.00 |" in text


def test_the_full_size_says_how_long_was_trained() -> None:
    text = tables(
        [row("discrete, trained on", 1.0, 0.94, steps=7504), row("integral from scratch", 1.0, 0.9, epochs=2)]
    )
    assert "| discrete, trained on | 94.00 | 1 | 7,504 steps | 1,000 |" in text
    assert "| integral from scratch | 90.00 | 1 | 2 epochs | 1,000 |" in text


SAME = {"network": "net", "seed": 0, "base": "16 epochs", "test": True, "quick": False}


def test_goals_are_what_the_longest_training_of_the_same_run_reached() -> None:
    rows = [
        row("slimmable", 1.0, 0.9, steps=5, found={"shared_steps": 5}),
        row("slimmable", 0.5, 0.95, steps=5, found={"shared_steps": 5}),
        row("slimmable", 0.5, 0.9, again=0.8, steps=9, found={"shared_steps": 9}),
        row("slimmable", 0.25, 0.5, validation=0.99, steps=9, found={"shared_steps": 9}),
        row("slimmable", 0.12, 0.9, seed=1, steps=9, found={"shared_steps": 9}),
    ]
    assert goals(rows, "slimmable", SAME) == {0.5: 0.8, 0.25: 0.5}
    assert goals(rows, "slimmable", {**SAME, "base": "4 epochs"}) == {}


def test_goals_of_equal_steps_are_those_measured_last() -> None:
    rows = [row("ours", 0.5, value, steps=9, checkpoint=name) for name, value in (("a", 0.95), ("b", 0.93))]
    assert goals(rows, "ours", SAME) == {0.5: 0.93}


def test_goals_of_a_settings_run_are_its_own() -> None:
    tried = row("slimmable", 0.5, 0.9, validation=0.7, steps=9, found={"shared_steps": 9})
    tried["key"]["test"], tried["found"]["raw"]["test"] = False, None
    assert goals([tried], "slimmable", {**SAME, "test": False}) == {0.5: 0.7}
    assert goals([tried], "slimmable", SAME) == {}


def cost_rows(*, is_reached: bool) -> list[Row]:
    """One training for all sizes; a rival whose cost is linear in the logarithm of the share."""
    rows = [row("slimmable", 0.5, 0.9, steps=100, found={"shared_seconds": 50.0, "shared_steps": 100, "seconds": 0.5})]
    for share in (1 / 2, 1 / 4, 1 / 8):
        steps = round(-100 * np.log2(share))
        found = {"steps": steps, "seconds": steps / 10, "is_reached": is_reached}
        rows.append(row("Torch-Pruning to the goal", share, 0.9, goal=0.9, goal_method="slimmable", found=found))
    return rows


def test_cost_of_many_sizes() -> None:
    text = tables(cost_rows(is_reached=True))
    # one size: 1/4 of the parameters, 200 steps; n sizes between 1/2 and 1/8: 200 steps on average
    assert "| slimmable, 100 steps | 50 s, 100 | 52 s, 100 | 58 s, 100 | 82 s, 100 |" in text
    expected = "| 20 s, 200 | 80 s, 800 | 320 s, 3,200 | 1,280 s, 12,800 |"
    assert f"Torch-Pruning as good as slimmable {expected}" in text
    assert "| seed 0 | 90.00, 90.00, 100 | 90.00, 90.00, 200 | 90.00, 90.00, 300 |" in text


def test_the_full_size_needs_no_work_and_does_not_count_in_the_cost_of_a_size() -> None:
    found = {"shared_seconds": 50.0, "shared_steps": 100, "seconds": 0.0}
    text = tables([*cost_rows(is_reached=True), row("slimmable", 1.0, 0.9, steps=100, found=found)])
    assert "| slimmable, 100 steps | 50 s, 100 | 52 s, 100 | 58 s, 100 | 82 s, 100 |" in text


def test_a_goal_that_was_not_reached_is_marked() -> None:
    text = tables(cost_rows(is_reached=False))
    assert "| > 20 s, 200 |" in text
    assert "90.00, not 90.00, 100" in text


def test_the_cost_of_each_setting_is_its_own() -> None:
    seconds = {0.1: 50.0, 0.05: 90.0}
    rows = [
        row("slimmable", 0.5, 0.9, rate=rate, steps=100, found={"shared_seconds": spent, "shared_steps": 100})
        for rate, spent in seconds.items()
    ]
    text = tables(rows)
    assert "| slimmable, rate 0.1, 100 steps | 51 s, 100 |" in text
    assert "| slimmable, rate 0.05, 100 steps | 91 s, 100 |" in text


def test_the_latest_goal_of_a_size_counts() -> None:
    found = {"steps": 800, "seconds": 80.0, "is_reached": False}
    raised = row("Torch-Pruning to the goal", 1 / 4, 0.92, goal=0.95, goal_method="slimmable", found=found)
    text = tables([*cost_rows(is_reached=True), raised])
    assert "| seed 0 | 90.00, 90.00, 100 | 95.00, not 92.00, 800 | 90.00, 90.00, 300 |" in text
    assert "as good as slimmable | > 80 s, 800 |" in text


def test_files_are_written_and_settings_runs_are_left_out(tmp_path: Path) -> None:
    tried = row("only tried", 0.5, 0.5)
    tried["key"]["test"] = False
    rows = [row("folding", 0.5, 0.3), row("folding", 0.25, 0.1), tried]
    text = write_report(rows, tmp_path / "out" / "pipelines.json")
    assert "only tried" not in text
    assert (tmp_path / "out" / "pipelines.md").read_text() == text
    assert (tmp_path / "out" / "pipelines-net.png").read_bytes().startswith(b"\x89PNG")
    assert "![accuracy over parameters](pipelines-net.png)" in text


def test_part_b_has_a_plot_of_its_own(tmp_path: Path) -> None:
    rows = [row("largest filters", share, share, again=share) for share in (0.9, 0.5)]
    text = write_report(rows, tmp_path / "pipelines.json")
    assert [path.name for path in tmp_path.glob("*.png")] == ["pipelines-net-removed.png"]
    assert "### Every size" not in text


def test_ticks_are_short() -> None:
    assert [thousands(count) for count in (400, 9_999, 44_439, 694_922)] == ["400", "9,999", "44k", "695k"]


def test_no_rows_make_an_empty_report(tmp_path: Path) -> None:
    assert write_report([], tmp_path / "pipelines.json").startswith("# The pipelines")
