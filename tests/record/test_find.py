"""Which records are meant."""

import dataclasses
from pathlib import Path

import pytest

from vilt_bench.ask.case import Case
from vilt_bench.errors import ConfigError, RecordError
from vilt_bench.record import journal, live, load, store
from vilt_bench.record.find import check_run_name, find_records
from vilt_bench.record.run import Series, Times, Trial

IDS = ("0123abcd" * 4, "0123beef" * 4, "fade0123" * 4)


@pytest.fixture
def folder(make_run, tmp_path, monkeypatch):
    """Three runs of successive seconds, the last two called `fixed`, of two cases."""
    monkeypatch.chdir(tmp_path)
    for second, (run_id, name, size) in enumerate(zip(IDS, (None, "fixed", "fixed"), (1, 1, 2), strict=True)):
        run = make_run(run_id=run_id, trials=1, name=name, started_at=f"2026-11-24T03:55:0{second}.500+00:00")
        store.save(dataclasses.replace(run, case=Case("patch32", batch_size=size)), "results")
    return Path("results")


def ids(texts, folder="results"):
    return [Path(path).stem.rpartition("-")[2] for path in find_records(texts, folder)]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("latest", IDS[2:]),
        ("latest~0", IDS[2:]),
        ("latest~2", IDS[:1]),
        ("0123a", IDS[:1]),
        ("FADE", IDS[2:]),
        (IDS[1], IDS[1:2]),
        ("fixed", IDS[1:]),
    ],
)
def test_a_run_is_meant_by_its_place_in_time_the_beginning_of_its_id_or_its_name(folder, text, meant):
    assert ids([text]) == list(meant)


def test_of_runs_that_started_together_the_latest_has_the_last_id_and_within_a_second_the_later_time_counts(
    make_run, tmp_path
):
    for run_id, start in (("bbbb", "00.100"), ("aaaa", "00.900"), ("cccc", "00.100")):
        store.save(make_run(run_id=run_id, trials=1, started_at=f"2026-11-24T03:55:{start}+00:00"), tmp_path)
    assert [ids([f"latest~{back}"], tmp_path) for back in range(3)] == [["aaaa"], ["cccc"], ["bbbb"]]


def test_a_file_or_folder_of_that_name_wins(folder):
    Path("latest").mkdir()
    Path("fixed").write_text("{}")
    assert find_records(["latest", "fixed", "results", "s3://bucket/x", "none/such"], folder) == [
        "latest", "fixed", "results", "s3://bucket/x", "none/such",
    ]  # fmt: skip


def test_the_same_run_in_two_folders_is_one(folder, make_run):
    (original,) = find_records(["fade"], folder)
    copy = folder / "copy" / Path(original).name
    copy.parent.mkdir()
    copy.write_bytes(Path(original).read_bytes())
    assert len(find_records(["fade"], folder)) == 1
    assert len(find_records(["fixed"], folder)) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0123", "begins the ids of several runs"),
        ("fixed", "names several runs of one case"),
    ],
)
def test_what_is_meant_by_several_runs_is_refused_with_the_candidates_in_one_line(folder, make_run, text, said):
    run = make_run(run_id="abcd" * 8, trials=1, name="fixed", started_at="2026-11-24T03:56:00+00:00")
    store.save(run, folder)
    with pytest.raises(RecordError) as caught:
        find_records([text], folder)
    message = str(caught.value)
    assert said in message
    assert "\n" not in message
    assert "0123beef0123 of 2026-11-24T03:55:01 (patch32)" in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("unfixed", "no record unfixed"),
        ("latest~3", "results has 3 of them"),
        ("latest~x", "no record latest~x"),
        ("012", "give 4 digits at least"),
        ("ffff", "no record ffff"),
    ],
)
def test_what_no_run_is_meant_by_is_refused(folder, text, said):
    with pytest.raises(RecordError, match=said):
        find_records([text], folder)


def test_there_is_no_latest_where_there_is_no_folder_of_records(tmp_path):
    with pytest.raises(RecordError, match="has none"):
        find_records(["latest"], tmp_path / "none")


def test_what_can_not_be_read_is_an_error_where_it_is_the_latest_and_hides_no_other_run(folder):
    (folder / "2027-01-01T000000Z-patch32-dead.json").write_text('{"name": "fixed"')
    with pytest.raises(RecordError, match="not a whole record"):
        find_records(["latest"], folder)
    assert ids(["fade"]) == [IDS[2]]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "is empty"),
        (" ", "is empty"),
        ("a\nb", "can't be shown"),
        ("\x1b[31m", "can't be shown"),
        ("\udcff", "can't be shown"),
        (" a", "begins or ends with a space"),
        ("x" * 81, "more than 80"),
        ("a/b", "reads as a path"),
        ("a\\b", "reads as a path"),
        ("..", "reads as a path"),
        ("~user", "reads as a path"),
        ("a.json", "reads as a path"),
        ("--join", "reads as an option"),
        ("latest", "means the run that started last"),
        ("latest~2", "means the run that started last"),
        ("added", "reads as the beginning of a run's id"),
    ],
)
def test_a_name_that_can_not_be_shown_or_means_something_else_is_refused(name, why):
    with pytest.raises(ConfigError, match=why) as caught:
        check_run_name(name)
    assert caught.value.field == "name"


@pytest.mark.parametrize("name", ["before-fix", "vor der Änderung", "abc", "v1.2", "2026-11-24", "x" * 80])
def test_other_names_are_taken(name):
    check_run_name(name)


def test_what_a_killed_process_has_left_is_meant_as_a_record_is(folder, make_run):
    run = make_run(run_id="beefcafe" * 4, trials=1, name="killed", started_at="2026-11-24T03:55:01.900+00:00")
    keeper = live.Journals(folder)
    times = Times(wall_time_s=(0.1,))
    keeper.note(run.run_id, journal.Opened(dataclasses.replace(run, trials=()), Trial(0, run.started_at, 0.5, 0.1)))
    keeper.note(run.run_id, journal.Block(Series(times, {}, times, (1,))))
    assert ids(["latest~1"]) == [IDS[1]]  # while it is being measured, it is none yet
    keeper.close()
    (path,) = find_records(["latest~1"], folder)
    assert Path(path).name == journal.file_name(run.run_id)
    assert find_records(["beefc", "killed"], folder) == [path, path]
    assert load.load(path).interrupted
