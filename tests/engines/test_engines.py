"""Engines by name, and what can be wrong before anything is measured."""

import http.server
import importlib.util
import socket
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

import vilt_bench.engines
from vilt_bench.ask.case import Case
from vilt_bench.cli import main
from vilt_bench.engines import Outcome, find_engine


@pytest.fixture
def refused(capsys, tmp_path):
    """Returns what is said, in one line, of a run that is refused."""

    def refused(*arguments):
        assert main(["run", "patch32", "--output", str(tmp_path / "out"), *arguments]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        return said

    return refused


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--engine", "rey"), "--engine there is no engine 'rey'; did you mean 'ray'? known: local, ray"),
        (("--address", "10.0.0.1:6379"), "--address is for machines of a cluster; add --engine ray, or leave it out"),
        (("--on", "gpu=H100"), "--on is for machines of a cluster"),
        (("--anywhere",), "--anywhere is for machines of a cluster"),
        (("--engine", "ray"), "--address is needed by engine ray: HOST:PORT"),
        (("--engine", "ray", "--address", "head"), "--address 'head' is not HOST:PORT, as in 10.0.0.1:6379"),
        (("--engine", "ray", "--address", "head:66666"), "is not HOST:PORT"),
        (("--engine", "ray", "--address", "a:1", "--on", "H100"), "--on 'H100' is not KEY=TEXT"),
    ],
)
def test_options_that_ask_for_what_is_not_there_are_told_in_a_line(refused, given, said):
    pytest.importorskip("ray")
    assert said in refused(*given)


def test_an_address_where_nothing_listens_is_told_in_a_line_and_at_once(refused):
    pytest.importorskip("ray")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        said = refused("--engine", "ray", "--address", address)
    assert f"no Ray listens at {address}: connection refused; start it there: ray start --head --port 6379" in said


def test_an_address_where_something_else_listens_is_told_in_a_line(refused):
    pytest.importorskip("ray")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    server.RequestHandlerClass.log_message = lambda *_: None
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        address = f"127.0.0.1:{server.server_port}"
        said = refused("--engine", "ray", "--address", address)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert f"no Ray listens at {address}, something else does" in said


def test_where_ray_is_not_installed_the_line_that_installs_it_is_told(refused, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "ray" else find(name, *rest))
    said = refused("--engine", "ray", "--address", "127.0.0.1:1")
    assert "engine ray needs Ray; install it: python -m pip install 'ray>=2.40'" in said


def test_another_package_may_offer_an_engine(monkeypatch, make_run, tmp_path, capsys):
    orders = []

    def measure(order, tell):
        orders.append(order)
        tell("here: it measures")
        return Outcome(runs=[make_run()], saved=["elsewhere/record.json"])

    offered = SimpleNamespace(name="theirs", load=lambda: SimpleNamespace(measure=measure))
    monkeypatch.setattr(vilt_bench.engines, "entry_points", lambda group: [offered])
    assert find_engine("theirs").measure is measure
    command = ["run", "patch32", "--batch-size", "1,2", "--engine", "theirs", "--on", "gpu=H100", "--anywhere"]
    assert main([*command, "--output", str(tmp_path), "--name", "tuesday"]) == 0
    printed = capsys.readouterr()
    assert printed.err == "here: it measures\n"
    assert "saved elsewhere/record.json" in printed.out
    (order,) = orders
    assert order.cases == (Case("patch32", batch_size=1), Case("patch32", batch_size=2))
    assert (order.folder, order.on, order.anywhere, order.name) == (str(tmp_path), "gpu=H100", True, "tuesday")


def test_the_command_line_starts_without_ray_and_fsspec():
    code = (
        "import sys; from vilt_bench.cli import main; main(['list']); "
        "sys.exit(not {'ray', 'fsspec'}.isdisjoint(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0
