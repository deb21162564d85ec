"""What makes runs alike: one table of facts that says, for each purpose, which of them must agree."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any, Literal, Protocol, get_args

from vilt_bench.ask.case import ALL, STRICT, Case, Sampling, parse_backend, write_backend, written_options
from vilt_bench.errors import ConfigError
from vilt_bench.record.run import Environment, Model

Purpose = Literal["case", "join", "resume", "compare", "drift", "draw", "history", "rank"]
"""`case`: are of one case, wherever and however measured; `join`: become one run; `resume`: a measurement goes on where
the other stopped; `compare`: are baseline and candidate; `drift`: tell how far measurements like the other drift;
`draw`: stand side by side in a picture; `history`: are points of one line; `rank`: answer the same question, so that it
matters which is faster."""


class Rule(Enum):
    """What two runs are that tell a fact otherwise."""

    AGREE = "not alike, and neither where only one of them tells it"
    AGREE_IF_TOLD = "not alike, unless one of them does not tell it: other systems and older records tell fewer"
    TOLD = "alike, and a report says what differs"
    IGNORED = "alike"


_A, _T, _S, _N = Rule.AGREE, Rule.AGREE_IF_TOLD, Rule.TOLD, Rule.IGNORED

OWN = "vilt-bench"
"""The version of this package."""
ANY_VERSION, ANY_SETTING = "any other version", "any other setting"

RULES: Mapping[str, Mapping[Purpose, Rule]] = {
    fact: dict(zip(get_args(Purpose), rules, strict=True))
    for fact, rules in {
        #                         case join resume compare drift draw history rank
        "machine":                (_N, _A, _A, _A, _A, _A, _A, _A),
        "device":                 (_N, _A, _A, _A, _A, _A, _A, _A),
        "threads":                (_N, _A, _A, _A, _A, _A, _A, _A),
        "omp-wait-policy":        (_N, _A, _A, _A, _A, _A, _A, _A),
        "embedder":               (_A, _A, _A, _A, _A, _N, _A, _N),
        "options":                (_A, _A, _A, _A, _A, _N, _A, _N),
        "resolution":             (_A, _A, _A, _A, _A, _N, _A, _N),
        "fit":                    (_A, _A, _A, _A, _A, _N, _A, _N),
        "tiles":                  (_A, _A, _A, _A, _A, _N, _A, _N),
        "reduce":                 (_A, _A, _A, _A, _A, _N, _A, _N),
        "images":                 (_A, _A, _A, _A, _A, _N, _A, _N),
        "photographs":            (_N, _A, _N, _S, _N, _N, _N, _N),  # what no images asked for came to
        "decoded":                (_N, _A, _N, _A, _A, _N, _A, _N),  # to decode others takes another time
        "preprocessing":          (_A, _A, _A, _A, _A, _N, _A, _A),
        "preprocessor":           (_A, _A, _A, _A, _A, _N, _A, _A),
        "decoder":                (_A, _A, _A, _A, _A, _N, _A, _A),
        "frames":                 (_A, _A, _A, _A, _A, _N, _A, _A),
        "frame-rate":             (_A, _A, _A, _A, _A, _N, _A, _A),
        "preprocessing-workers":  (_A, _A, _A, _A, _A, _N, _A, _A),
        "pin-memory":             (_A, _A, _A, _A, _A, _N, _A, _A),
        "text-length":            (_A, _A, _A, _A, _A, _N, _A, _A),
        "images-per-text":        (_A, _A, _A, _A, _A, _N, _A, _A),
        "dtype":                  (_A, _A, _A, _A, _A, _A, _A, _A),
        "batch-size":             (_A, _A, _A, _A, _A, _A, _A, _A),
        "backend":                (_A, _A, _A, _A, _A, _A, _A, _A),
        "quantize":               (_A, _A, _A, _A, _A, _A, _A, _A),
        "checkpoint":             (_A, _A, _A, _A, _A, _N, _A, _N),
        "interaction":            (_A, _A, _A, _A, _A, _N, _A, _A),
        "vilt":                   (_A, _A, _A, _A, _A, _N, _A, _A),
        "seed":                   (_A, _A, _A, _A, _A, _N, _A, _N),
        "device asked":           (_A, _A, _A, _N, _N, _N, _N, _N),  # what it came to is above
        "threads asked":          (_A, _A, _A, _N, _N, _N, _N, _N),
        OWN:                      (_N, _A, _A, _S, _N, _A, _N, _A),  # to a comparison, it is what is compared
        "scikit-learn":           (_N, _N, _N, _N, _N, _N, _N, _N),  # earlier records tell it: it brought photographs
        ANY_VERSION:              (_N, _A, _A, _A, _A, _A, _N, _N),  # a history goes on, and tells what changed
        "governor":               (_N, _A, _T, _T, _T, _T, _N, _N),  # one that tells none would join two that differ
        "turbo":                  (_N, _A, _T, _T, _T, _T, _N, _N),
        "smt":                    (_N, _A, _T, _T, _T, _T, _N, _N),
        "transparent_huge_pages": (_N, _A, _T, _T, _T, _T, _N, _N),
        "clock_source":           (_N, _A, _T, _T, _T, _T, _N, _N),
        ANY_SETTING:              (_N, _A, _T, _A, _A, _A, _N, _N),
        "sampling":               (_N, _A, _A, _A, _N, _N, _N, _N),
        "trials":                 (_N, _A, _A, _N, _N, _N, _N, _N),
        "commit":                 (_N, _A, _N, _N, _N, _N, _N, _N),
        "name":                   (_N, _A, _N, _N, _N, _N, _N, _N),
        "side":                   (_N, _A, _N, _N, _A, _N, _A, _A),
    }.items()
}  # fmt: skip
"""By fact and purpose. Facts are in the order in which they are told."""

MAY_BE_UNTOLD = frozenset(fact for fact, rules in RULES.items() if rules["compare"] is Rule.AGREE_IF_TOLD)
"""Settings that systems and older versions of this package may not tell: a record without one contradicts none."""
ELSEWHERE = (*MAY_BE_UNTOLD, "driver", "cuda", "cudnn", "hip")
"""What may be allowed to differ though this machine does not tell it."""
UNTOLD = "–"


class Measured(Protocol):
    """A run, or what tells of one as much as the purpose asks for."""

    @property
    def case(self) -> Case:
        """What was asked."""

    @property
    def environment(self) -> Environment | None:
        """Where it was measured."""

    @property
    def model(self) -> Model | None:
        """What was built of the case, and on which photographs it runs."""


@dataclass(frozen=True)
class Setup:
    """As much of a run as there is before it: enough for `resume`."""

    case: Case
    sampling: Sampling
    environment: Environment | None
    model: Model | None = None


@dataclass(frozen=True)
class Difference:
    """A fact that runs tell otherwise."""

    name: str
    values: tuple[str, ...]
    """Of each run, in order; `UNTOLD` where it tells none."""
    matters: bool
    """Whether it makes them not alike."""


def facts(run: Measured, purpose: Purpose) -> dict[str, str]:
    """Returns what a run tells of all that the purpose does not ignore, by name."""
    return {name: value() for name, asked, value in _told(run, purpose) if asked is not Rule.IGNORED}


def key(run: Measured, purpose: Purpose) -> tuple[tuple[str, str], ...]:
    """Returns what is equal for runs that are alike, for a purpose whose facts all must agree."""
    return tuple(sorted(facts(run, purpose).items()))


def alike(one: Measured, other: Measured, purpose: Purpose, *, but: Collection[str] = ()) -> bool:
    """Returns whether two runs are alike in all but the facts of those names; `all`: in any case."""
    return ALL in but or not any(each.matters and each.name not in but for each in differences([one, other], purpose))


def differences(runs: Sequence[Measured], purpose: Purpose) -> list[Difference]:
    """Returns the facts that the runs tell otherwise."""
    rules = {name: asked for run in runs for name, asked, _ in _told(run, purpose)}
    told = [facts(run, purpose) for run in runs]
    found = []
    for name in dict.fromkeys(name for each in told for name in each):
        values = tuple(each.get(name, UNTOLD) for each in told)
        if len(set(values)) > 1:
            contradicted = len({*values} - {UNTOLD}) > 1
            matters = rules[name] is Rule.AGREE or (rules[name] is Rule.AGREE_IF_TOLD and contradicted)
            found.append(Difference(name, values, matters))
    return found


def check_names(names: Collection[str], runs: Sequence[Measured], purpose: Purpose) -> None:
    """Refuse to let differ what is no fact.

    Raises:
        ConfigError: there is no such fact.
    """
    known = dict.fromkeys(name for run in runs for name in facts(run, purpose))
    if unknown := [name for name in names if name not in (*known, *ELSEWHERE, ALL)]:
        raise ConfigError(
            f"{unknown[0]!r} is nothing that is checked; known: {', '.join(known)}", field="allow_different"
        )


def _told(run: Any, purpose: Purpose) -> Iterator[tuple[str, Rule, Callable[[], str]]]:
    """Yields each fact that a run tells: its name, what is asked of it, and its value, made when it is wanted."""
    where, model = run.environment, run.model
    for name, of in _FACTS.items():
        if name in _OF_PHOTOGRAPHS:
            if model is not None and (name == "photographs" or run.case.preprocessing):
                yield name, RULES[name][purpose], partial(of, run)
        elif where is not None or name not in _OF_ENVIRONMENT:
            yield name, RULES[name][purpose], partial(of, run)
    if where is None:
        return
    for told, any_other in ((where.versions, ANY_VERSION), (where.settings, ANY_SETTING)):
        for name, value in told.items():
            if name != "OMP_WAIT_POLICY":  # told once
                yield name, RULES[name if name in RULES else any_other][purpose], partial(str, value)


def _computed(case: Case) -> str:
    """Returns the backend without what changes no number: whether stages that it can't prepare are refused."""
    name, options = parse_backend(case.backend)
    return write_backend(name, {key: value for key, value in options.items() if key != STRICT})


def _commit(run: Any) -> str:
    return "none" if run.source is None else f"{run.source.commit}{'*' * run.source.dirty}"


_OF_ENVIRONMENT: Mapping[str, Callable[[Any], str]] = {
    "machine": lambda run: f"{run.environment.machine} {run.environment.fingerprint}",
    "device": lambda run: str(run.environment.device),
    "threads": lambda run: str(run.environment.threads),
    "omp-wait-policy": lambda run: run.environment.omp_wait_policy or "unset",
}
_OF_PHOTOGRAPHS: Mapping[str, Callable[[Any], str]] = dict.fromkeys(
    ("photographs", "decoded"), lambda run: ", ".join(run.model.images)
)
_FACTS: Mapping[str, Callable[[Any], str]] = {
    **_OF_ENVIRONMENT,
    "embedder": lambda run: run.case.embedder,
    "options": lambda run: written_options(run.case) or "none",
    "resolution": lambda run: str(run.case.resolution),
    "fit": lambda run: str(run.case.fit),
    "tiles": lambda run: str(run.case.tiles),
    "reduce": lambda run: str(run.case.reduce),
    "images": lambda run: str(run.case.images),
    **_OF_PHOTOGRAPHS,
    "preprocessing": lambda run: str(run.case.preprocessing),
    "preprocessor": lambda run: str(run.case.preprocessor),
    "decoder": lambda run: str(run.case.decoder),
    "frames": lambda run: str(run.case.frames),
    "frame-rate": lambda run: str(run.case.frame_rate),
    "preprocessing-workers": lambda run: str(run.case.preprocessing_workers),
    "pin-memory": lambda run: str(run.case.pin_memory),
    "text-length": lambda run: str(run.case.text_length),
    "images-per-text": lambda run: str(run.case.images_per_text),
    "dtype": lambda run: str(run.case.dtype),
    "batch-size": lambda run: str(run.case.batch_size),
    "backend": lambda run: _computed(run.case),
    "quantize": lambda run: str(run.case.quantize),
    "checkpoint": lambda run: str(run.case.checkpoint),
    "interaction": lambda run: str(run.case.interaction),
    "vilt": lambda run: str(run.case.vilt),
    "seed": lambda run: str(run.case.seed),
    "device asked": lambda run: run.case.device,
    "threads asked": lambda run: str(run.case.threads),
    "sampling": lambda run: f"precision {run.sampling.precision:g}, {run.sampling.max_time_s:g} s",
    "trials": lambda run: f"{run.sampling.trials}, {run.sampling.least_samples} samples at least",
    "commit": _commit,
    "name": lambda run: run.name or "none",
    "side": lambda run: run.side or "none",
}
