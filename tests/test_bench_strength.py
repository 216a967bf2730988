"""The benches of strength run from end to end at a size that takes seconds, and say what they are asked to say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import attack, cancel, load, soak
from bench.soak import Reading, slope
from tests.conftest import beside_the_browser


def test_load_tells_the_flooders_share_and_that_one_job_drew_at_a_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = tmp_path / "figures.json"
    beside_the_browser(load.main, ["--clients", "3", "--minutes", "0.05", "--json", str(figures)])
    found = json.loads(figures.read_text())
    assert found["two_at_once"] == 0
    assert found["alike"]["pictures"] >= 3
    assert found["alike"]["errors"] == {}
    assert found["with a flooder"]["flooder_pictures"] > 0
    assert set(found["alike"]["beside"]) == {"models", "search_loras", "page"}
    assert "Two jobs at once: 0 times" in capsys.readouterr().out


def test_two_jobs_that_hold_the_device_at_once_are_found(tmp_path: Path) -> None:
    log = tmp_path / "device"
    log.write_text("begin 1.0 a\nend 2.0 a\nbegin 2.0 b\nbegin 2.5 c\nend 3.0 b\nend 3.5 c\n")
    assert load.overlaps(log) == 1


def test_cancel_gives_up_in_each_way_and_what_follows_is_answered(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    beside_the_browser(cancel.main, ["--times", "6", "--in-chromium", "0", "--json", str(figures)])
    found = json.loads(figures.read_text())
    assert found["two_at_once"] == 0
    assert {(each["way"], each["when"]) for each in found["all"]} == {
        (way, when) for way in (cancel.CANCEL, cancel.DROP, cancel.TAB) for when in (cancel.RUNNING, cancel.QUEUED)
    }
    assert all(each["following"] == "complete" for each in found["all"])
    assert all(each["taken_for"] < cancel.LONGEST for each in found["all"] if each["when"] == cancel.RUNNING)


def test_soak_reads_memory_threads_and_files_of_real_pictures(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    beside_the_browser(soak.main, ["--pictures", "6", "--every", "2", "--idle", "0.2", "--json", str(figures)])
    found = json.loads(figures.read_text())
    assert (found["first_answer"], found["errors"]) == ("complete", [])
    assert [reading["pictures"] for reading in found["readings"]] == [2, 4, 6]
    assert all(reading["memory"] > 50 and reading["threads"] > 1 for reading in found["readings"])


def test_the_slope_is_that_of_the_line_through_the_readings() -> None:
    readings = [Reading(n, 500 + n / 50, 8, 14, 0.0, 0.0, 0.1) for n in (100, 200, 300)]
    assert slope(readings) == pytest.approx(2)


def test_attack_finds_nothing_and_searches_what_was_answered(tmp_path: Path) -> None:
    table = tmp_path / "table.json"
    code = beside_the_browser(attack.main, ["--no-chromium", "--rounds", "refs", "tools", "--json", str(table)])
    rows = json.loads(table.read_text())
    assert [row for row in rows if not row["well"]] == []
    assert code == 0
    assert {"the owner's token in the log", "tracebacks in the answers", "the app"} <= {row["attack"] for row in rows}
