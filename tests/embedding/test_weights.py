import json
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from vilt_bench.embedding.weights import load_strictly, load_weights, read_state_dict
from vilt_bench.errors import CheckpointError


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def write_safetensors(state: dict[str, torch.Tensor], folder: Path) -> Path:
    save_file(state, folder / "a.safetensors")
    return folder / "a.safetensors"


def write_pickle(state: dict[str, torch.Tensor], folder: Path) -> Path:
    torch.save(state, folder / "a.pt")
    return folder / "a.pt"


def write_lightning(state: dict[str, torch.Tensor], folder: Path) -> Path:
    torch.save({"epoch": 3, "state_dict": state}, folder / "a.ckpt")
    return folder / "a.ckpt"


def write_model_wrapper(state: dict[str, torch.Tensor], folder: Path) -> Path:
    torch.save({"model": state, "optimizer": {}}, folder / "a.pth")
    return folder / "a.pth"


def write_folder(state: dict[str, torch.Tensor], folder: Path) -> Path:
    save_file(state, folder / "model.safetensors")
    return folder


def write_pickle_folder(state: dict[str, torch.Tensor], folder: Path) -> Path:
    torch.save(state, folder / "pytorch_model.bin")
    return folder


def write_shards(state: dict[str, torch.Tensor], folder: Path) -> Path:
    files = {name: f"model-{index % 2}.safetensors" for index, name in enumerate(state)}
    for file in set(files.values()):
        save_file({name: state[name] for name in state if files[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    return folder


@pytest.mark.parametrize(
    "write",
    [
        write_safetensors,
        write_pickle,
        write_lightning,
        write_model_wrapper,
        write_folder,
        write_pickle_folder,
        write_shards,
    ],
)
def test_every_layout_gives_back_what_was_saved(write, tmp_path):
    source, target = model(), model()
    load_weights(target, str(write(tensors(source), tmp_path)))
    for name, tensor in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], tensor)


class Harmful:
    def __reduce__(self):
        return (print, ("code was run",))


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, capsys):
    torch.save({"weight": Harmful()}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"a\.pt .*would run code"):
        read_state_dict(str(tmp_path / "a.pt"))
    assert "code was run" not in capsys.readouterr().out


@pytest.mark.parametrize("write", [write_safetensors, write_pickle])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9])
def test_a_truncated_file_is_refused_in_one_line(write, share, tmp_path):
    path = write(tensors(model()), tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError) as caught:
        read_state_dict(str(path))
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"not weights at all", b"\x80\x02garbage", b"\x00" * 100, b"PK\x03\x04" + b"\0" * 90]
)
def test_what_is_no_weights_file_is_refused_in_one_line(content, tmp_path):
    (tmp_path / "a.bin").write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_state_dict(str(tmp_path / "a.bin"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {}, {1: torch.zeros(1)}, torch.zeros(2)])
def test_what_is_no_state_dict_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="no state dict"):
        read_state_dict(str(tmp_path / "a.pt"))


def test_a_path_without_weights_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"no weights at .*absent"):
        read_state_dict(str(tmp_path / "absent"))
    with pytest.raises(CheckpointError, match="holds no weights"):
        read_state_dict(str(tmp_path))


def test_a_missing_shard_is_named(tmp_path):
    write_shards(tensors(model()), tmp_path)
    (tmp_path / "model-1.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-1\.safetensors is missing"):
        read_state_dict(str(tmp_path))


def test_a_broken_index_is_refused(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="weight_map"):
        read_state_dict(str(tmp_path))


def test_missing_unexpected_and_wrong_shapes_are_named_and_nothing_is_changed():
    module = model()
    before = tensors(module)
    state = {name: tensor + 1 for name, tensor in before.items()}
    del state["1.bias"]
    state["head.weight"] = torch.zeros(1)
    state["0.weight"] = torch.zeros(4, 3)
    with pytest.raises(CheckpointError) as caught:
        load_strictly(module, state, name="a.pt")
    message = str(caught.value)
    assert message.startswith("a.pt ")
    assert "1 missing: 1.bias" in message
    assert "1 unexpected: head.weight" in message
    assert "0.weight 4×3 instead of 2×3" in message
    assert "\n" not in message
    assert all(torch.equal(module.state_dict()[name], tensor) for name, tensor in before.items())


def test_of_many_missing_names_a_few_are_shown_with_their_number():
    with pytest.raises(CheckpointError, match=r"6 missing: 0\.weight, 0\.bias, 1\.weight, …"):
        load_strictly(model(), {}, name="a.pt")


def test_weights_take_the_dtype_of_the_module():
    module = nn.Linear(2, 2).bfloat16()
    load_strictly(module, {"weight": torch.ones(2, 2), "bias": torch.ones(2)}, name="a.pt")
    assert module.weight.dtype == torch.bfloat16


def compiled(module: nn.Module) -> dict[str, torch.Tensor]:
    # torch.compile's OptimizedModule keeps what it compiles as its attribute `_orig_mod`.
    return {f"_orig_mod.{name}": tensor for name, tensor in module.state_dict().items()}


WRAPPED = {
    "module.": lambda module: nn.DataParallel(module).state_dict(),
    "module. ": lambda module: AveragedModel(module).state_dict(),
    "_orig_mod.": compiled,
    "_orig_mod. and module.": lambda module: {f"module.{key}": tensor for key, tensor in compiled(module).items()},
    "module. and _orig_mod.": lambda module: {
        f"_orig_mod.{key}": tensor for key, tensor in nn.DataParallel(module).state_dict().items()
    },
    "_checkpoint_wrapped_module.": lambda module: {
        key.replace("0.", "0._checkpoint_wrapped_module."): tensor for key, tensor in module.state_dict().items()
    },
}


@pytest.mark.parametrize(("said", "wrapped"), WRAPPED.items(), ids=WRAPPED)
def test_what_wrapped_a_module_in_training_is_taken_off_its_names_and_said(said, wrapped, tmp_path):
    source, target = model(), model()
    path = write_pickle(wrapped(source), tmp_path)
    origin = load_weights(target, str(path))
    assert all(torch.equal(target.state_dict()[name], tensor) for name, tensor in source.state_dict().items())
    assert origin.startswith(f"{path}, its names without ")
    assert all(part.strip() in origin for part in said.split(" and "))


def test_the_attribute_that_training_kept_a_module_as_is_taken_off_and_said(tmp_path):
    source, target = model(), model()
    state = {f"model.{name}": tensor for name, tensor in source.state_dict().items()}  # as Lightning writes it
    path = write_lightning({f"module.{name}": tensor for name, tensor in state.items()}, tmp_path)
    assert load_weights(target, str(path)) == f"{path}, its names without module. and model."
    assert torch.equal(target[0].weight, source[0].weight)
    other = write_pickle(
        {f"model.{name}": tensor for name, tensor in nn.Bilinear(2, 2, 2).state_dict().items()}, tmp_path
    )
    with pytest.raises(CheckpointError, match=r"2 unexpected: model\.weight, model\.bias"):
        load_weights(target, str(other))


def test_weights_that_nothing_wrapped_are_named_by_their_path_alone(tmp_path):
    source = nn.ModuleDict({"module": nn.Linear(2, 2), "head": nn.Linear(2, 2)})  # a name like any other
    path = write_safetensors(tensors(source), tmp_path)
    assert load_weights(nn.ModuleDict({"module": nn.Linear(2, 2), "head": nn.Linear(2, 2)}), str(path)) == str(path)


@pytest.mark.parametrize("key", ["model_state_dict", "module"])
def test_other_places_of_a_state_dict_are_known(key, tmp_path):
    source, target = model(), model()
    torch.save({key: source.state_dict(), "epoch": 1, "args": Namespace(lr=0.1)}, tmp_path / "a.pt")
    load_weights(target, str(tmp_path / "a.pt"))
    assert torch.equal(target[0].weight, source[0].weight)


def test_old_weights_without_a_counter_of_batches_are_whole(tmp_path):
    source, target = model(), model()
    state = {name: tensor for name, tensor in tensors(source).items() if not name.endswith("num_batches_tracked")}
    assert len(state) == len(source.state_dict()) - 1
    load_weights(target, str(write_safetensors(state, tmp_path)))
    assert torch.equal(target[1].running_var, source[1].running_var)
    assert target[1].num_batches_tracked == 0
