from orchestrator.storage.system_metrics_file import append_system_metrics, read_samples


def sample(value):
    return {"at": 1000.0 + value, "values": {"cpu_utilization_percentage": value}}


def test_samples_are_read_after_those_that_were_seen(tmp_path):
    file = tmp_path / "trials" / "t0000" / "system_metrics.jsonl"
    assert list(read_samples(file, 0)) == []
    append_system_metrics(file, [sample(1), sample(2)])
    append_system_metrics(file, [sample(3)])
    assert [(found.number, found.at, found.values) for found in read_samples(file, 1)] == [
        (1, 1002.0, {"cpu_utilization_percentage": 2}),
        (2, 1003.0, {"cpu_utilization_percentage": 3}),
    ]


def test_incomplete_line_is_skipped_and_counted(tmp_path):
    file = tmp_path / "system_metrics.jsonl"
    append_system_metrics(file, [sample(1)])
    with file.open("a") as lines:
        lines.write('{"at": 10')
    append_system_metrics(file, [sample(2), sample(3)])
    assert [found.number for found in read_samples(file, 0)] == [0, 2]
