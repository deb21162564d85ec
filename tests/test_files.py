"""Files that users name: whatever lies there, one line and no waiting."""

import contextlib
import errno
import os
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from safetensors.torch import save_file

from vilt_bench import files
from vilt_bench.ask.case import Case
from vilt_bench.ask.images import check_images
from vilt_bench.ask.presets import find_preset
from vilt_bench.cli import main
from vilt_bench.embedding.configurations import find_configuration
from vilt_bench.embedding.weights import read_state_dict
from vilt_bench.errors import CheckpointError, ConfigError, FileError, RecordError, ViltBenchError
from vilt_bench.record import load, store
from vilt_bench.record.codec import decode
from vilt_bench.record.load import read_folder
from vilt_bench.worker.count import inspect

OBSTACLES = {
    "pipe": "not a regular file",
    "device": "not a regular file",
    "loop": "loop",
    "long": "too long",
    "nul": "no name can",
    "folder": "folder",
}


@pytest.fixture(autouse=True)
def _impatient():
    """Ends a test that waits for a pipe's writer."""
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it waits"))
    signal.alarm(60)
    yield
    signal.alarm(0)


def obstacle(kind, folder, name):
    """Returns the path of something in the folder that is no file to read."""
    path = folder / name
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "loop":
            path.symlink_to(path)
        case "folder":
            path.mkdir()
        case "long":
            return str(folder / ("x" * 300 + name))
        case "nul":
            return str(folder / f"x\0{name}")
    return str(path)


READERS = {
    "record": (load.load, "a.json"),
    "records": (lambda path: load.load_all([path]), "a.json"),
    "preset": (find_preset, "a.toml"),
    "weights": (read_state_dict, "a.bin"),
    "safetensors": (read_state_dict, "a.safetensors"),
    "image": (lambda path: check_images([path]), "a.jpg"),
}


@pytest.mark.parametrize("kind", OBSTACLES)
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_file_is_refused_in_one_line_by_every_reader(reader, kind, tmp_path):
    read, name = READERS[reader]
    path = obstacle(kind, tmp_path, name)
    with pytest.raises(ViltBenchError) as refused:
        read(path)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 600 or kind == "long"
    if kind != "folder":  # which some readers take
        assert OBSTACLES[kind] in str(refused.value)


@pytest.mark.parametrize("kind", ["pipe", "device", "loop", "folder"])
@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_a_configuration_that_is_no_file_is_refused_in_one_line(name, kind, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    (tmp_path / name).unlink(missing_ok=True)
    obstacle(kind, tmp_path, name)
    with pytest.raises(ViltBenchError, match=OBSTACLES[kind]) as refused:
        find_configuration(str(tmp_path), Path("no-table"), family="transformers/")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", ["pipe", "loop"])
def test_what_is_no_file_in_a_folder_of_records_is_told_and_not_waited_for(kind, tmp_path):
    path = obstacle(kind, tmp_path, "2026-01-01T000000Z-x.json")
    (told,) = [each for _, each in read_folder(tmp_path)]
    assert isinstance(told, RecordError)
    assert path in str(told)
    assert OBSTACLES[kind] in str(told)


def test_a_file_that_never_ends_is_not_read_to_its_end(tmp_path):
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(files.LARGEST_BYTES + 1)
    with pytest.raises(FileError, match="larger than 1024 MiB"):
        files.read_bytes(tmp_path / "sparse")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("presets = 3", "no table"),
        ("presets = [1]", "no table"),
        ('[other]\nembedders = ["patch32"]', r"\[presets.NAME\]"),
        ('presets = "patch32"', "no table"),
        (f"a = {'[' * 20_000}{']' * 20_000}", "nested too deep"),
        ("a = \udcff", "UTF-8"),
        ("[presets.a]\nembedders = 3", "needs embedders"),
    ],
)
def test_a_preset_that_is_none_is_refused_in_one_line(text, said, tmp_path):
    (tmp_path / "a.toml").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError, match=said):
        find_preset(str(tmp_path / "a.toml"))


@pytest.mark.parametrize("before", [b"", b'{"schema_version": 1, "case": '])
def test_a_record_that_is_nested_too_deep_is_refused_in_one_line(before):
    with pytest.raises(RecordError, match="not a whole record"):
        decode(before + b"[" * 200_000, name="x")


def test_where_the_current_folder_is_gone_a_sentence_says_so(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    try:
        assert main(["run", "patch32"]) == 2
    finally:
        monkeypatch.undo()
    assert "the current folder can't be used" in capsys.readouterr().err


def test_a_report_into_no_folder_says_which_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=f"there is no folder {tmp_path}/none; give another file"):
        store.write_text(tmp_path / "none" / "a.md", "told")


@pytest.mark.parametrize("command", ["report", "history"])
def test_an_empty_text_names_no_records(command, capsys):
    assert main([command, ""]) == 2
    assert "'' names no " in capsys.readouterr().err


def test_paper_refuses_a_folder_that_it_can_not_write_before_it_counts(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["paper", "--output", str(tmp_path / "file")]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "can't be written to: it is, or lies in, a file" in said.err


def test_show_takes_weights_from_where_run_does(tmp_path):
    save_file({}, tmp_path / "model.safetensors")
    (tmp_path / "pipe").unlink(missing_ok=True)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match=r"weights=.*pipe: it is not a regular file"):
        inspect(Case("timm/resnet18", {"weights": str(tmp_path / "pipe")}))
    model, _ = inspect(Case("timm/resnet18", {"weights": str(tmp_path)}))  # as a folder
    assert model.visual_tokens == model.resolution[0] // 32 * (model.resolution[1] // 32)


READ_FOLDER = {
    "config.json": lambda folder: find_configuration(folder, Path("no-table"), family="transformers/"),
    "model.safetensors.index.json": read_state_dict,
}


@pytest.mark.parametrize("name", READ_FOLDER)
def test_json_that_is_nested_too_deep_is_refused_in_one_line(name, tmp_path):
    (tmp_path / name).write_text("[" * 200_000)
    with pytest.raises(ViltBenchError) as refused:
        READ_FOLDER[name](str(tmp_path))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", OBSTACLES)
def test_a_report_is_not_written_into_what_is_no_file(kind, tmp_path):
    path = obstacle(kind, tmp_path, "a.txt")
    with pytest.raises(ConfigError, match=OBSTACLES[kind]):
        store.write_text(path, "told")
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_report_without_a_name_is_refused():
    with pytest.raises(ConfigError, match="names no file"):
        store.write_text("", "told")


def test_a_report_goes_where_a_link_leads_and_the_link_stays(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "target")
    store.write_text(tmp_path / "link", "told")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "told"


@pytest.mark.parametrize("code", ["ENOSPC", "EDQUOT", "EACCES", "EMFILE", "EROFS"])
def test_every_refusal_of_the_system_has_words(code):
    number = getattr(errno, code)
    assert files.why(OSError(number, os.strerror(number))).islower() or code == "EMFILE"


def test_where_no_temporary_folder_is_left_a_sentence_says_what_to_set(tmp_path):
    gone = tmp_path / "gone"
    script = (
        "import tempfile; tempfile._candidate_tempdir_list = lambda: ['/nonexistent']\n"
        "from vilt_bench import files\nfiles.temporary_folder()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ, "TMPDIR": str(gone)}
    )
    assert "ConfigError: there is no folder for temporary files" in done.stderr
    assert "TMPDIR" in done.stderr


def test_too_few_file_descriptors_are_told_in_one_line(tmp_path):
    (tmp_path / "a").write_text("x")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        probe = os.open(tmp_path / "a", os.O_RDONLY)
        os.close(probe)
        resource.setrlimit(resource.RLIMIT_NOFILE, (probe, hard))
        with pytest.raises(FileError, match="ulimit"):
            files.read_bytes(tmp_path / "a")


def test_a_command_that_lacks_descriptors_says_so_in_one_line(monkeypatch, capsys, tmp_path):
    def refuse(*_arguments, **_options):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "a-font.ttf")

    monkeypatch.setattr(load, "load_each", refuse)
    assert main(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        "vilt-bench: the machine has not what it takes for a-font.ttf: too many files are open; raise the limit with "
        "'ulimit -n'\n"
    )


def test_what_a_killed_process_leaves_in_the_temporary_folder_is_removed_and_what_is_in_use_stays(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    program = (
        "import sys, tempfile; tempfile.tempdir = sys.argv[1]\n"
        "from vilt_bench import files\n"
        "with files.scratch() as folder: print(folder, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        theirs = Path(process.stdout.readline().strip())
        for file in (theirs, *theirs.iterdir()):
            os.utime(file, (0, 0))
        with files.scratch() as ours:
            assert theirs.is_dir()
            process.kill()
            process.wait()
            assert theirs.is_dir()
            with files.scratch():
                assert not theirs.exists()
                assert Path(ours).is_dir()
    assert not list(tmp_path.iterdir())
