import tomllib
from pathlib import Path

import pytest

from vilt_bench.errors import ConfigError
from vilt_bench.machine import datasheets
from vilt_bench.record.run import Stage

MINE = """
[MINE]
name = "a board"
memory_gb_per_s = 100
cache_mib = 10
[MINE.tflops]
float32 = 1
tf32 = 4
float16 = 8
"""


@pytest.fixture
def mine(tmp_path: Path) -> datasheets.Datasheet:
    path = tmp_path / "mine.toml"
    path.write_text(MINE)
    (sheet,) = datasheets.find(str(path))
    return sheet


def test_a_bound_is_arithmetic_at_the_stated_peak_with_room_for_faster_clocks(mine: datasheets.Datasheet) -> None:
    assert mine.bound_s(8 * 10**12, 0, dtype="float16") == pytest.approx(0.85)
    assert mine.bound_s(4 * 10**12, 0, dtype="float32") == pytest.approx(0.85)  # torch convolves in TF32
    assert mine.bound_s(10**12, 0, dtype="bfloat16") is None


def test_bytes_that_a_cache_may_hold_before_and_after_need_not_be_moved(mine: datasheets.Datasheet) -> None:
    assert mine.bound_s(0, 20 * 2**20, dtype="float32") == 0
    assert mine.bound_s(0, 20 * 2**20 + 10**11, dtype="float32") == pytest.approx(1)


def test_a_vision_transformer_takes_on_an_h100_what_its_formula_and_the_datasheet_say() -> None:
    (h100,) = datasheets.find("h100")
    tokens, width, layers = 197, 768, 12
    flops = layers * (24 * tokens * width**2 + 4 * tokens**2 * width)  # ViT-B/16: 2 a multiply-add
    assert flops == pytest.approx(35.0e9, rel=0.01)
    # 1,979 TFLOP/s "with sparsity" in NVIDIA's datasheet: 989.5 dense.
    assert h100.bound_s(flops, 0, dtype="bfloat16") == pytest.approx(0.85 * flops / (1979e12 / 2), rel=0.001)


def test_a_stage_without_counts_and_a_dtype_without_a_peak_have_no_bound() -> None:
    (p40,) = datasheets.find("P40")
    known = Stage("a", "visual_embedder", "", 0, flops=12 * 10**12, moved_bytes=0)
    unknown = Stage("b", "visual_embedder", "", 0, flops=None, moved_bytes=0)
    assert p40.bounds([known, unknown], dtype="float32").seconds == {"a": pytest.approx(0.85)}
    refused = p40.bounds([known, unknown], dtype="bfloat16")
    assert refused.seconds == {}
    assert "no stated peak in bfloat16" in refused.peak


def test_names_are_found_however_they_are_written_and_with_files_beside_them(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(MINE)
    found = datasheets.find(f"rtx 4090, NVIDIA_L4,{path},h100")
    assert [sheet.key for sheet in found] == ["RTX-4090", "L4", "MINE", "H100"]


def test_each_machine_has_sources_that_can_be_opened_and_peaks_that_fit_each_other() -> None:
    for sheet in datasheets.machines():
        assert sheet.sources, sheet.key
        assert all("http" in source for source in sheet.sources), sheet.key
        peaks = sheet.flops_per_s
        # Tensor cores are no slower than other cores, and half the width no slower than the whole.
        assert peaks.get("tf32", peaks["float32"]) >= peaks["float32"], sheet.key
        assert peaks.get("float16", peaks["float32"]) >= peaks["float32"], sheet.key
        assert peaks.get("bfloat16") in (None, peaks.get("float16")), sheet.key
        assert 1e12 < peaks["float32"] < 1e14, sheet.key
        assert 5e10 < sheet.bytes_per_s < 1e13, sheet.key
    assert len({sheet.key.lower() for sheet in datasheets.machines()}) == len(
        tomllib.loads(datasheets.TABLE.read_text())
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no machine"),
        ("[A\n", "can't be read as TOML"),
        ("A = 1\n", "A must be a table"),
        ("[A]\nmemory_gb_per_s = 1\n", "A.tflops must be a table with a peak"),
        ("[A]\n[A.tflops]\nfloat32 = 1\n", "A.memory_gb_per_s is missing"),
        ("[A]\nmemory_gbps = 1\n", "A.memory_gbps is not known; did you mean 'memory_gb_per_s'?"),
        ("[A]\nmemory_gb_per_s = 1\n[A.tflops]\nfp32 = 1\n", "A.tflops.fp32 is not known"),
        (
            "[A]\nmemory_gb_per_s = nan\n[A.tflops]\nfloat32 = 1\n",
            "A.memory_gb_per_s must be a number above 0, got nan",
        ),
        ("[A]\nmemory_gb_per_s = 1\n[A.tflops]\nfloat32 = 0\n", "A.tflops.float32 must be a number above 0, got 0"),
        (
            "[A]\nmemory_gb_per_s = true\n[A.tflops]\nfloat32 = 1\n",
            "A.memory_gb_per_s must be a number above 0, got True",
        ),
        ("[A]\ncache_mib = -1\nmemory_gb_per_s = 1\n[A.tflops]\nfloat32 = 1\n", "A.cache_mib must be"),
        ("[A]\nname = 1\nmemory_gb_per_s = 1\n[A.tflops]\nfloat32 = 1\n", "A.name must be a text"),
        ("[A]\nsources = 1\nmemory_gb_per_s = 1\n[A.tflops]\nfloat32 = 1\n", "A.sources must be a list of texts"),
    ],
)
def test_a_file_that_says_what_no_datasheet_can_is_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        datasheets.find(str(path))
    assert said in str(refused.value)
    assert "mine.toml" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("H10", "did you mean 'H100'?"),
        ("warp drive", "knows no machine 'warp drive'; known: P40, A100,"),
        ("H100,,L4", "has an empty name"),
        ("", "has an empty name"),
        ("absent.toml", "absent.toml can't be read"),
    ],
)
def test_a_machine_that_is_not_known_is_told_with_those_that_are(given: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        datasheets.find(given)
    assert said in str(refused.value)


def test_a_file_may_not_give_a_known_name_other_numbers(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(MINE.replace("MINE", "H100"))
    with pytest.raises(ConfigError, match="has two machines 'H100'"):
        datasheets.find(f"H100,{path}")
