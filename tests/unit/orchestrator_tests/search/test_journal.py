import pytest

from orchestrator.search.study_journal import drop_torn_line


@pytest.mark.parametrize(
    ("before", "after"),
    [(b"", b""), (b'{"a":1}\n', b'{"a":1}\n'), (b'{"a":1}\n{"b"', b'{"a":1}\n'), (b'{"a"', b"")],
)
def test_drop_torn_line_leaves_whole_lines_alone(tmp_path, before, after):
    file = tmp_path / "journal"
    file.write_bytes(before)
    drop_torn_line(file)
    assert file.read_bytes() == after
