"""What is measured, kept line by line until it is a record: real files, torn anywhere, read by what reads records."""

import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from statistics import median, quantiles

import pytest

from vilt_bench.errors import RecordError
from vilt_bench.judge.history import history
from vilt_bench.record import journal, live, load, store
from vilt_bench.record.run import Conditions, Failure, Series, Times, Trial
from vilt_bench.record.thin import MOST_PASSES


def block(*wall_time_s):
    times = Times(wall_time_s=wall_time_s)
    return Series(times, {"visual_embedder.projection": times}, times, (len(wall_time_s),))


def events(run, *blocks, trial=0, closed=True):
    yield journal.Opened(replace(run, trials=()), Trial(trial, run.started_at, 0.5, 0.1))
    yield journal.Block(block(0.2), is_warmup=True, settled=True)
    yield from map(journal.Block, blocks)
    if closed:
        yield journal.Closed(Conditions(cpu_share=1.0), None, run.warnings)


@pytest.fixture
def keeper(tmp_path):
    made = live.Journals(tmp_path)
    yield made
    made.close()


def left_behind(keeper, run, happened):
    """Keeps the events as a process does that is then killed."""
    for event in happened:
        keeper.note(run.run_id, event)
    return keeper._folder / journal.file_name(run.run_id)


def wholes(run):
    return [trial.samples.whole.wall_time_s for trial in run.trials]


def test_what_was_measured_is_read_as_an_interrupted_run(make_run, keeper, tmp_path):
    run = make_run()
    blocks = block(0.1, 0.11), block(0.12)
    left_behind(keeper, run, [*events(run, *blocks), *events(run, block(0.3), trial=1, closed=False)])
    keeper.close()
    (found,) = load.load_all([tmp_path])
    assert (found.interrupted, found.run_id, found.case) == (True, run.run_id, run.case)
    assert wholes(found) == [(0.1, 0.11, 0.12), (0.3,)]
    assert [trial.samples.blocks for trial in found.trials] == [(2, 1), (1,)]
    assert [trial.warmup.blocks for trial in found.trials] == [(1,), (1,)]
    assert [trial.settled for trial in found.trials] == [True, True]
    assert found.trials[0].conditions.cpu_share == 1.0
    assert load.load(tmp_path / journal.file_name(run.run_id)) == found
    assert load.load_joined([tmp_path], lambda each: each) == [found]
    assert history(tmp_path).cases[0].points[0].run_id == run.run_id


def test_a_journal_that_ends_at_any_byte_has_all_blocks_whose_lines_are_whole(make_run, keeper, tmp_path):
    run = make_run()
    path = left_behind(keeper, run, events(run, block(0.1), block(0.2), block(0.3), closed=False))
    keeper.close()
    data = path.read_bytes()
    ends = [index + 1 for index, byte in enumerate(data) if byte == ord("\n")][3:]  # who writes, trial, warm-up; blocks
    for length in range(ends[0] - 50, len(data) + 1):
        path.write_bytes(data[:length])
        (found,) = load.load_all([tmp_path])
        assert found.trials[0].samples.passes == sum(end <= length for end in ends)
        assert found.warnings == run.warnings


def test_a_line_that_was_torn_in_the_middle_is_left_out_and_said(make_run, keeper, tmp_path):
    run = make_run()
    path = left_behind(keeper, run, events(run, block(0.1), block(0.2), block(0.3)))
    keeper.close()
    lines = path.read_bytes().splitlines(keepends=True)
    lines[4] = lines[4][:-9] + lines[4][-8:]
    path.write_bytes(b"".join(lines))
    (found,) = load.load_all([tmp_path])
    assert wholes(found) == [(0.1, 0.3)]
    assert found.warnings[-1] == "1 line of its journal can't be read."


def test_a_journal_of_many_passes_keeps_as_many_as_a_record_and_knows_of_all(make_run):
    run = make_run()
    times = [0.1 + 0.001 * (place * 7919 % 1000) for place in range(3 * MOST_PASSES)]
    blocks = [block(*times[begin : begin + 512]) for begin in range(0, len(times), 512)]
    lines = journal.read_lines(b"".join(map(journal.line, events(run, *blocks))))
    samples = journal.replay(lines, name="journal").trials[0].samples
    assert sum(samples.blocks) <= MOST_PASSES
    assert samples.passes == len(times)
    assert samples.all_passes.whole_medians_s == tuple(median(times[at : at + 512]) for at in range(0, len(times), 512))
    found = samples.all_passes.whole_percentiles_s
    assert (found[0], found[50], found[100]) == (min(times), median(times), max(times))
    assert list(found[1:50]) == quantiles(times, n=100, method="inclusive")[:49]


def test_a_record_takes_the_place_of_its_journal(make_run, keeper, tmp_path):
    run = make_run()
    path = left_behind(keeper, run, events(run, block(0.1)))
    store.save(run, tmp_path)
    assert load.load_all([tmp_path]) == [run]
    keeper.saved(run.run_id)
    keeper.close()
    assert not path.exists()
    assert [each.suffix for each in tmp_path.iterdir()] == [".json"]


def test_what_is_being_measured_is_left_out_and_said(make_run, keeper, tmp_path):
    run, other = make_run(run_id="a"), make_run(run_id="b")
    left_behind(keeper, run, events(run, block(0.1)))
    store.save(other, tmp_path)
    told = []
    assert load.load_all([tmp_path], left_out=told.append) == [other]
    assert load.load_all([tmp_path]) == [other]
    (line,) = told
    assert "is being measured by process" in line
    keeper.close()
    assert len(load.load_all([tmp_path])) == 2


def test_before_the_first_block_there_is_nothing_to_keep(make_run, keeper, tmp_path):
    run = make_run()
    keeper.note(run.run_id, next(events(run)))
    keeper.close()
    assert list(tmp_path.iterdir()) == []


def test_a_failure_is_kept_with_what_was_measured_before(make_run, keeper, tmp_path):
    run, failure = make_run(), Failure("crashed", "gone")
    left_behind(keeper, run, [*events(run, block(0.1), closed=False), journal.BrokenOff(failure)])
    keeper.close()
    (found,) = load.load_all([tmp_path])
    assert (found.failure, found.interrupted, wholes(found)) == (failure, False, [(0.1,)])


def test_a_file_that_holds_nothing_of_a_run_is_said(tmp_path):
    (tmp_path / journal.file_name("a")).write_bytes(b"\x00" * 100)
    with pytest.raises(RecordError, match="holds nothing that was measured"):
        load.load_all([tmp_path])


def test_a_folder_that_takes_nothing_is_said_once_and_measuring_goes_on(make_run, tmp_path):
    told = []
    folder = tmp_path / "gone"
    folder.mkdir()
    keeper = live.Journals(folder, report=told.append)
    keeper.close()
    folder.rmdir()
    run = make_run()
    left_behind(keeper, run, events(run, block(0.1), block(0.2)))
    (line,) = told
    assert "can't be kept" in line


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_what_a_kill_has_left_half_written_is_removed_by_the_next_director_once_it_is_old(tmp_path):
    old, new, other = (tmp_path / name for name in (f".{'a' * 32}.tmp", f".{'b' * 32}.tmp", ".notes.tmp"))
    for path in (old, new, other):
        path.write_bytes(b"{")
    for path in (old, other):
        os.utime(path, (path.stat().st_mtime - 7200,) * 2)
    with live.keeping(tmp_path):
        assert sorted(path.name for path in tmp_path.glob("*.tmp")) == [new.name, other.name]


def test_a_director_that_is_killed_is_known_to_be_dead_at_once(tmp_path):
    program = """
        import sys
        from vilt_bench.record.live import Journals
        keeper = Journals(sys.argv[1])
        print(keeper.director.director, flush=True)
        sys.stdin.read()
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        name = process.stdout.readline().strip()
        (found,) = live.directors(tmp_path)
        assert (found.director, found.pid) == (name, process.pid)
        process.kill()
        process.wait()
        assert live.directors(tmp_path) == []
