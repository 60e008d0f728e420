import logging
from pathlib import Path

import pytest

from orchestrator.lanes.library_logs import library_logs

FULL = Path("/dev/full")


def test_lines_of_libraries_go_to_the_file_and_not_to_the_screen(tmp_path, capfd):
    with library_logs(tmp_path / "logs" / "driver.log"):
        logging.getLogger("ray.tune").warning("a line of Tune's")
    assert "WARNING ray.tune: a line of Tune's" in (tmp_path / "logs" / "driver.log").read_text()
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not FULL.exists(), reason="a disk that is always full is Linux's /dev/full")
def test_full_disk_costs_lines_and_shows_no_traceback(capfd):
    with library_logs(FULL):
        logging.getLogger("ray.tune").warning("a line that has no room")
    assert capfd.readouterr() == ("", "")


def test_other_errors_of_logging_are_still_shown(tmp_path, capfd):
    before = logging.getLogger().handlers[:]
    with library_logs(tmp_path / "driver.log"):
        (handler,) = [handler for handler in logging.getLogger().handlers if handler not in before]
        message, arguments = "%d lines", ("no number",)
        record = logging.LogRecord("ray.tune", logging.WARNING, "tune.py", 1, message, arguments, None)
        handler.handle(record)
    assert "Logging error" in capfd.readouterr().err
