"""Measures a sweep on the machines of a Ray cluster: Ray carries requests, each machine measures by itself.

On each machine one actor (`holder.Holder`) holds the whole of it, under a name that no other sweep can take meanwhile.
It starts this program as a child, which measures a plan of the cases that the machine has taken; what the child saves
comes back here and into the store as it appears. So one process writes, a record is stored once, and machines need no
rights to a bucket. What a machine has taken and not measured when it leaves goes back.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import socket
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from vilt_bench.ask.case import Case, case_name
from vilt_bench.ask.plans import write_plan
from vilt_bench.engines import Order, Outcome, Tell, holder
from vilt_bench.engines.allotment import MOST_DEATHS, Allotment
from vilt_bench.engines.placement import described, fits, read_wish
from vilt_bench.errors import ConfigError, RecordError
from vilt_bench.machine.code import installed_code
from vilt_bench.record import elsewhere, load, store
from vilt_bench.record.codec import decode
from vilt_bench.record.find import LONGEST_NAME, check_run_name
from vilt_bench.words import counted

INSTALL = "python -m pip install 'ray>=2.40'"
NAMESPACE = "vilt-bench"
_REFUSED = 2
"""A child's exit code where something can't be measured as asked."""
_COMPLAINT, _LEFT_OUT = "vilt-bench: ", "left out: "
"""Beginnings of what a child says."""
_CONNECT_S = 5.0
_NEWS_S = 20.0
"""For which a machine keeps a question open when it has nothing to tell."""
_LOOK_S = 3.0
"""Between looks for machines that have come."""
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.25, 8.0
"""Before a machine that could not be reached is asked again: the first time, and at most."""
_MOST_SILENCE_S = 120.0
"""For which a machine may be out of reach before it is taken to have left."""
_HELD_WAIT_S = 3.0
"""Before a machine that another sweep holds is asked for again."""
_STOP_S = 40.0
"""For machines to end what they measure."""


def measure(order: Order, tell: Tell) -> Outcome:
    """Measure all cases on the machines of a cluster, and save each record as soon as it is there.

    Ctrl-C ends the measuring on all machines; what was measured is saved.

    Raises:
        ConfigError: no Ray is there, versions differ, or no machine is as wished.
    """
    wish = read_wish(order.on)
    sweep = _Sweep(order, tell, wish, _stored(order))
    with _connected(order.address) as ray:
        return sweep.run(_Cluster(ray))


@dataclass(frozen=True)
class _Stored:
    """A record that is there already."""

    folder: str
    """The machine's, below the store's."""
    case: Case
    fingerprint: str | None


def _stored(order: Order) -> list[_Stored]:
    """Returns what need not be measured again: whole runs of this sampling."""
    if not order.resume:
        return []

    def kept(run: Any, path: str) -> _Stored | None:
        if run.interrupted or run.failure is not None or run.sampling != order.sampling:
            return None
        where = run.environment.fingerprint if run.environment is not None else None
        return _Stored(re.split(r"[/\\]", path)[-2:][0], run.case, where)

    try:
        found = load.load_each([order.folder], kept, left_out=lambda _: None)
    except RecordError:  # nothing is there yet
        return []
    return [each for each in found if each is not None]


@dataclass
class _Machine:
    """A node of the cluster, as far as this sweep knows it."""

    node: str
    name: str
    state: str = "new"
    """`new`, `held` by another sweep, `telling`, `ready`, `starting`, `measuring`, `out`: takes no part any longer."""
    holder: Any = None
    facts: dict[str, Any] = field(default_factory=dict)
    job: str = ""
    seen: int = 0
    """Events of the job."""
    question: Any = None
    """What is asked of it now."""
    again_at: float = 0.0
    """When it is asked again."""
    wait_s: float = _FIRST_WAIT_S
    silent_since: float | None = None
    complaints: list[str] = field(default_factory=list)
    """Of its child."""


class _Cluster:
    """The cluster, as Ray shows it."""

    def __init__(self, ray: Any) -> None:
        """Keep the module, which is connected."""
        self.ray = ray
        # By value: a machine without this package, or with another version, is to say so itself.
        ray.cloudpickle.register_pickle_by_value(holder)
        self._holder = ray.remote(holder.Holder)

    def nodes(self) -> dict[str, str]:
        """Returns the names of all nodes that are alive, by their ids; a name each."""
        names: dict[str, str] = {}
        alive = [node for node in self.ray.nodes() if node["Alive"]]
        for node in sorted(alive, key=lambda each: each["NodeID"]):
            # Unless somebody has named it, it is called by its address.
            named = node.get("NodeName", "") not in ("", node["NodeManagerAddress"])
            names[node["NodeID"]] = _safe(node["NodeName"] if named else node["NodeManagerHostname"])
        return names

    def hold(self, node: str) -> Any:
        """Returns the actor that holds a node from now on; `None`: another one does."""
        strategy = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)
        try:
            return self._holder.options(
                name=f"machine {node}",
                namespace=NAMESPACE,
                num_cpus=0,
                max_restarts=-1,
                max_concurrency=4,
                scheduling_strategy=strategy,
            ).remote()
        except ValueError:  # the name is taken
            return None

    def release(self, actor: Any) -> None:
        """Let a node be held by others."""
        with suppress(Exception):  # it is gone already
            self.ray.kill(actor, no_restart=True)


class _Sweep:
    """The measuring of all cases, from the first machine to the last record."""

    def __init__(self, order: Order, tell: Tell, wish: Mapping[str, str], stored: list[_Stored]) -> None:
        self.order, self.tell, self.wish, self.stored = order, tell, wish, stored
        self.allotment = Allotment(order.cases, anywhere=order.anywhere)
        self.machines: dict[str, _Machine] = {}
        self.outcome = Outcome()
        self.own = installed_code()
        self.kept: dict[str, int] = {}
        """Records that were there before, by the machine, or of all where any serves."""
        self.looked_at = -_LOOK_S
        self.began = False

    def run(self, cluster: _Cluster) -> Outcome:
        """Returns what was measured."""
        self.cluster, self.ray = cluster, cluster.ray
        try:
            try:
                while self._turn():
                    pass
                self._tell_what_is_left()
            except KeyboardInterrupt:
                self.outcome.interrupted = True
                self.tell("interrupted: ending what the machines measure")
                self._stop()
        finally:
            for machine in self.machines.values():
                if machine.holder is not None:
                    self._end(machine)
        # By machine, and of each in the order in which they were asked for.
        places = {case_name(case): place for place, case in enumerate(self.order.cases)}
        self.outcome.runs.sort(key=lambda run: (run.name or "", places[case_name(run.case)]))
        return self.outcome

    def _turn(self) -> bool:
        """Do what can be done now, and wait for what comes next; returns whether there is something left to do."""
        self._look()
        self._begin()
        self._ask_all(self.machines.values())
        if all(each.state in ("ready", "out") for each in self.machines.values()):
            # Those that are ready have found nothing to take, unless it is only now known that all are.
            return not self.began
        self._hear(self.machines.values())
        return True

    def _ask_all(self, machines: Iterable[_Machine]) -> None:
        now = time.monotonic()
        for machine in machines:
            if machine.question is None and machine.again_at <= now:
                self._ask(machine)

    def _hear(self, machines: Iterable[_Machine]) -> None:
        """Take the answers that there are, or the first that comes."""
        asked = {each.question: each for each in machines if each.question is not None}
        waits = [each for each in self.machines.values() if each.question is None and each.state != "out"]
        wait_s = _FIRST_WAIT_S if waits else _LOOK_S
        if not asked:
            time.sleep(wait_s)
            return
        done, _ = self.ray.wait(list(asked), num_returns=1, timeout=wait_s)
        for question in done:
            asked[question].question = None
            self._answer(asked[question], question)

    def _look(self) -> None:
        """Take in machines that have come; let go of those that have left and come back as another node."""
        if time.monotonic() - self.looked_at < _LOOK_S:
            return
        self.looked_at = time.monotonic()
        for node, name in self.cluster.nodes().items():
            if node not in self.machines:
                taken = {each.name for each in self.machines.values() if each.state != "out"}
                number = next(n for n in range(1, 10**6) if (name if n == 1 else f"{name}-{n}") not in taken)
                self.machines[node] = _Machine(node, name if number == 1 else f"{name}-{number}")

    def _begin(self) -> None:
        """Start once all machines that were there at first have told of themselves."""
        if self.began or any(each.state in ("new", "telling") for each in self.machines.values()):
            return
        if not any(each.state in ("ready", "held") for each in self.machines.values()):
            there = "; ".join(described(each.facts) for each in self.machines.values()) or "none"
            problem = f"{self.order.on!r} fits no machine" if self.wish else "leaves no machine"
            raise ConfigError(f"{problem}; there are: {there}", field="on")
        self.began = True

    def _ask(self, machine: _Machine) -> None:
        """Ask a machine for what is next."""
        match machine.state:
            case "new" | "held":
                machine.holder = self.cluster.hold(machine.node)
                if machine.holder is None:
                    if machine.state == "new":
                        self.tell(f"{machine.name}: another sweep measures there; it is waited for")
                    machine.state, machine.again_at = "held", time.monotonic() + _HELD_WAIT_S
                    if self.began and self.order.anywhere and not self._is_work_left():
                        machine.state = "out"
                    return
                machine.state = "telling"
                machine.question = machine.holder.tell.remote()
            case "telling":
                machine.question = machine.holder.tell.remote()
            case "ready" if self.began:
                cases = self.allotment.take(machine.name)
                if cases:
                    machine.job, machine.seen, machine.state = uuid.uuid4().hex, 0, "starting"
                    machine.complaints = []
                    self._start(machine)
            case "starting":
                self._start(machine)
            case "measuring":
                machine.question = machine.holder.news.remote(machine.job, machine.seen, _NEWS_S)

    def _start(self, machine: _Machine) -> None:
        plan = write_plan(self.allotment.holds(machine.name), self.order.sampling)
        machine.question = machine.holder.start.remote(machine.job, plan, list(self.order.arguments))

    def _answer(self, machine: _Machine, question: Any) -> None:
        errors = self.ray.exceptions
        try:
            answer = self.ray.get(question)
        except errors.ActorUnavailableError:
            # It starts again, or is out of reach for a while: asked once more, it does nothing twice.
            self._ask_later(machine)
            return
        except errors.RayTaskError as error:
            self._drop(machine, f"can't measure: {_line(error.cause if error.cause is not None else error)}")
            return
        except errors.RayError:
            self._drop(machine, "has left")
            return
        machine.wait_s, machine.silent_since = _FIRST_WAIT_S, None
        match machine.state:
            case "telling":
                self._join(machine, answer)
            case "starting":
                machine.state = "measuring"
            case "measuring":
                self._take(machine, answer)

    def _ask_later(self, machine: _Machine) -> None:
        now = time.monotonic()
        machine.silent_since = now if machine.silent_since is None else machine.silent_since
        if now - machine.silent_since > _MOST_SILENCE_S:
            self._drop(machine, f"has been out of reach for {_MOST_SILENCE_S:.0f} s")
            return
        machine.again_at, machine.wait_s = now + machine.wait_s, min(2 * machine.wait_s, _LONGEST_WAIT_S)

    def _join(self, machine: _Machine, facts: Mapping[str, Any]) -> None:
        """Let a machine take part, if it is as wished and has this version."""
        machine.facts = {"name": machine.name, **facts}
        if not fits(machine.facts, self.wish):
            self._end(machine)
            return
        problem = facts.get("problem")
        if problem is None and facts.get("vilt-bench") != self.own:
            problem = f"vilt-bench is {facts.get('vilt-bench', 'of an unknown version')} there, and {self.own} here"
        if problem is not None:
            said = f"{machine.name}: {problem}; install the same on all machines, or choose others by `on`"
            if not self.began:
                raise ConfigError(said)
            self.outcome.problems.append(said)
            self._end(machine)
            return
        machine.state = "ready"
        self.allotment.join(machine.name, [each.case for each in self.stored if self._is_done(each, machine)])
        waiting = len(self.allotment.waiting([machine.name]))
        whose = "" if self.order.anywhere else machine.name
        if whose not in self.kept:  # not one that comes back
            self.kept[whose] = len(self.order.cases) - waiting
            self.outcome.kept = sum(self.kept.values())
        self.tell(f"{described(machine.facts)}: {counted(waiting, 'case')} to measure")

    def _is_done(self, stored: _Stored, machine: _Machine) -> bool:
        if self.order.anywhere:
            return True
        return stored.folder == machine.name and stored.fingerprint in machine.facts.get("fingerprints", ())

    def _take(self, machine: _Machine, news: holder.News | None) -> None:
        if news is None:  # the process that held the machine was ended, with what it measured, and is another now
            self._died(machine, "the process that holds the machine was ended")
            return
        events, code = news
        machine.seen += len(events)
        for kind, text, data in events:
            if kind == "record":
                self._save(machine, text, data)
            elif text:
                if text.startswith(_COMPLAINT):
                    machine.complaints.append(text.removeprefix(_COMPLAINT).removeprefix(_LEFT_OUT))
                self.tell(f"{machine.name}: {text.removeprefix(_COMPLAINT)}")
        if code is not None:
            self._ended(machine, code)

    def _ended(self, machine: _Machine, code: int) -> None:
        """Go on after a child has ended: what it has not measured it has refused, or died over."""
        machine.state = "ready"
        left = self.allotment.holds(machine.name)
        if not left:
            return
        if code < 0 or code in (130, 137, 143):
            self._died(machine, f"signal {-code}" if code < 0 else f"exit code {code}")
            return
        for case in self.allotment.give_up(machine.name):
            name = case_name(case)
            own = [each.removeprefix(f"{name}: ") for each in machine.complaints if each.startswith(f"{name}: ")]
            why = [*machine.complaints, *own][-1:] or [f"exit code {code}"]
            if code == _REFUSED:
                self.outcome.left_out[machine.name, name] = (case, why[0])
            else:
                self._complain(machine, case, why[0])

    def _died(self, machine: _Machine, how: str) -> None:
        machine.state = "ready"
        for case in self.allotment.died(machine.name):
            self._complain(machine, case, f"measuring ended by {how}, {MOST_DEATHS} times when it was alone")

    def _complain(self, machine: _Machine, case: Case, why: str) -> None:
        self.outcome.problems.append(f"{machine.name}: not measured: {case_name(case)}: {why}")

    def _save(self, machine: _Machine, name: str, data: bytes) -> None:
        try:
            run = decode(data, name=name)
        except RecordError as error:
            self.outcome.problems.append(f"{machine.name}: {error}")
            return
        if not self.allotment.measured(machine.name, run.case):
            return
        run = replace(run, name=_run_name(self.order.name, machine.name), origin=self.order.origin)
        saved, problems = store.save_all([run], _below(self.order.folder, machine.name))
        self.outcome.runs.append(run)
        self.outcome.saved += saved
        self.outcome.problems += problems
        number = self.outcome.kept + len(self.outcome.runs)
        state = "interrupted" if run.interrupted else "failed" if run.failure is not None else "measured"
        total = len(self.kept) * len(self.order.cases)
        self.tell(f"{machine.name}: {case_name(run.case)}: {state}, {number} of {total}")

    def _drop(self, machine: _Machine, why: str) -> None:
        """Go on without a machine."""
        count = len(self.allotment.holds(machine.name))
        self.allotment.leave(machine.name)
        back = f"; {counted(count, 'case')} to be measured by others" if count and self.order.anywhere else ""
        self.tell(f"{machine.name}: {why}{back}")
        self._end(machine)

    def _end(self, machine: _Machine) -> None:
        if machine.holder is not None:
            self.cluster.release(machine.holder)
        machine.holder, machine.question, machine.state = None, None, "out"

    def _is_work_left(self) -> bool:
        return bool(self.allotment.waiting()) or any(self.allotment.holds(each.name) for each in self.machines.values())

    def _tell_what_is_left(self) -> None:
        for name in [""] if self.order.anywhere else dict.fromkeys(each.name for each in self.machines.values()):
            if left := self.allotment.waiting([name]):
                where = "no machine is left" if self.order.anywhere else f"{name} has left"
                self.outcome.problems.append(
                    f"{where}: {counted(len(left), 'case')} not measured, {case_name(left[0])} first; the same command "
                    "with `resume` measures what is missing"
                )

    def _stop(self) -> None:
        """End what is measured, and keep what it has become."""
        running = [each for each in self.machines.values() if each.state in ("starting", "measuring")]
        stops = [each.holder.stop.remote() for each in running]
        deadline = time.monotonic() + _STOP_S
        while time.monotonic() < deadline:
            busy = [each for each in running if each.state == "measuring"]
            if not busy:
                break
            self._ask_all(busy)
            self._hear(busy)
        if stops:
            self.ray.wait(stops, num_returns=len(stops), timeout=1.0)


@contextmanager
def _connected(address: str | None) -> Iterator[Any]:
    """Returns Ray, connected to a cluster.

    Raises:
        ConfigError: it is not installed, no cluster is there, or its versions differ.
    """
    with suppress(ValueError):
        if importlib.util.find_spec("ray") is None:
            raise ConfigError(f"engine ray needs Ray; install it: {INSTALL}")
    if not address:
        raise ConfigError(
            "is needed by engine ray: HOST:PORT of the machine where 'ray start --head' was called", field="address"
        )
    _check_address(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it reports to its makers unless told not to
    import ray
    import ray.util.scheduling_strategies

    if ray.is_initialized():
        yield ray
        return
    with suppress(AttributeError):
        # What Ray's own processes complain of is not this program's output.
        ray._private.worker._worker_logs_enabled = False
    try:
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.CRITICAL)
    except RuntimeError as error:
        raise ConfigError(_mismatch(address, str(error))) from None
    except Exception as error:
        raise ConfigError(
            f"{address} can't be joined ({_line(error)}); run this on a machine of that cluster",
            field="address",
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _mismatch(address: str, said: str) -> str:
    """Returns in a line that versions differ, out of Ray's table of them."""
    found = re.findall(r"(Ray|Python): (\S+)", said)
    if "mismatch" not in said or len(found) != 4:
        return f"{address} can't be joined: {' '.join(said.split())}"
    there, here = (" and ".join(f"{name} {version}" for name, version in each) for each in (found[:2], found[2:]))
    return f"the cluster at {address} runs {there}, and this is {here}; they must be the same on all machines"


# What opens a connection by HTTP/2, as Ray's head speaks it, and an empty frame of settings.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_SETTINGS_FRAME = 4


def _check_address(address: str) -> None:
    """Refuse an address where no Ray listens: Ray itself would try for minutes.

    Raises:
        ConfigError: it is none, or nothing answers there as Ray does.
    """
    match = re.fullmatch(r"\[?([^\]\s/]+?)\]?:(\d{1,5})", address)
    if match is None or int(match[2]) > 65_535:
        raise ConfigError(f"{address!r} is not HOST:PORT, as in 10.0.0.1:6379", field="address")
    advice = "start it there: ray start --head --port 6379"
    try:
        with socket.create_connection((match[1], int(match[2])), _CONNECT_S) as connection:
            if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
                return
            connection.sendall(_PREFACE)
            header = b""
            while len(header) < 9 and (more := connection.recv(9 - len(header))):
                header += more
    except OSError as error:
        why = "it does not answer" if isinstance(error, TimeoutError) else (error.strerror or str(error)).lower()
        raise ConfigError(f"no Ray listens at {address}: {why}; {advice}") from None
    if len(header) < 9 or header[3] != _SETTINGS_FRAME:
        raise ConfigError(f"no Ray listens at {address}, something else does; {advice}")


def _below(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}" if elsewhere.is_url(folder) else os.path.join(folder, name)


def _run_name(name: str | None, machine: str) -> str:
    """Returns what runs of a machine are called: by it, and by what all of them are called."""
    if name is not None:
        return f"{name} on {machine}"[:LONGEST_NAME].rstrip()
    try:
        check_run_name(machine)
    except ConfigError:  # one that reads as a run's id
        return f"on {machine}"[:LONGEST_NAME]
    return machine


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:80] or "machine"


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
