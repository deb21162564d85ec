"""Runs as JSON, and back; the history of the schema."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import msgspec

from vilt_bench.errors import RecordError, ViltBenchError
from vilt_bench.record.run import SCHEMA_VERSION, Run, whole_texts

UPGRADES: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""By version: the step that makes a record of that version one of the next."""


def encode(run: Run) -> bytes:
    """Returns the record as JSON.

    Raises:
        RecordError: a number is not finite.
    """
    _check_finite(dataclasses.asdict(run), "run")
    try:
        data = msgspec.json.encode(run)
    except UnicodeEncodeError:  # a message that quotes a path as the system has it must not cost what was measured
        data = msgspec.json.encode(whole_texts(msgspec.to_builtins(run)))
    return msgspec.json.format(data, indent=1) + b"\n"


def decode(data: bytes, *, name: str) -> Run:
    """Returns the run of a record's JSON, upgraded from older schemas.

    Args:
        data: the file's content.
        name: the file's name, for messages.

    Raises:
        RecordError: the record is empty, corrupt, of something else, or newer than this program.
    """
    if b'"schema_version"' in data:
        # What is wrong with it is told below.
        with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError, ViltBenchError):
            run = _DECODER.decode(data)
            if run.schema_version == SCHEMA_VERSION:
                return run
    if not data.strip():
        raise RecordError(f"{name} is empty; a record is the JSON file that 'vilt-bench run' saves")
    try:
        raw = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RecordError(f"{name} is not a whole record ({error}); measure again or restore the file") from None
    if not isinstance(raw, dict) or not isinstance(version := raw.get("schema_version"), int):
        raise RecordError(f"{name} is JSON but no vilt-bench record (no schema_version)")
    if version > SCHEMA_VERSION:
        raise RecordError(
            f"{name} has schema version {version}, newer than this program's {SCHEMA_VERSION}; upgrade vilt-bench"
        )
    try:
        for step in range(version, SCHEMA_VERSION):
            raw = UPGRADES[step](raw)
        return msgspec.convert(raw, Run)
    except KeyError:
        raise RecordError(f"{name} has unknown schema version {version}") from None
    except (msgspec.ValidationError, ViltBenchError) as error:  # of a case, which checks itself
        raise RecordError(f"{name} is no valid record: {error}") from None


_DECODER = msgspec.json.Decoder(Run)


def _check_finite(value: Any, path: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise RecordError(f"{path} is {value}; a record holds finite numbers only")
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_finite(item, f"{path}.{key}")
    elif isinstance(value, tuple | list):
        for index, item in enumerate(value):
            _check_finite(item, f"{path}[{index}]")
