"""Shows runs to whoever works in Python: tables and pictures, which a notebook shows by itself."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vilt_bench.errors import ConfigError
from vilt_bench.judge.summary import Summary
from vilt_bench.record.run import Run
from vilt_bench.words import counted


@dataclass(frozen=True)
class Shown:
    """A report that a notebook shows as HTML and `print` as text."""

    text: str
    html: str

    def __str__(self) -> str:
        """Returns the text."""
        return self.text

    def __repr__(self) -> str:
        """Returns the text: where nothing shows HTML, a line of Python shows this."""
        return self.text

    def _repr_html_(self) -> str:
        return self.html


@dataclass(frozen=True)
class Picture:
    """A picture that a notebook shows, and `save` writes."""

    runs: Sequence[Run | Summary]
    options: dict[str, Any]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the picture in the format that the file's name says, such as `latency.pdf`; returns the path.

        Raises:
            ConfigError: the name says none, or the file can't be written.
        """
        from vilt_bench.record.store import write_bytes
        from vilt_bench.report import PICTURES, render_picture

        format = Path(path).suffix.lower().removeprefix(".")
        if format not in PICTURES:
            raise ConfigError(
                f"{path} says no format of pictures; expected a name that ends in .{', .'.join(PICTURES)}"
            )
        write_bytes(path, render_picture(self.runs, format, **self.options))
        return Path(path)

    def __repr__(self) -> str:
        """Returns how to see it, where nothing shows pictures."""
        return f"<picture of {counted(len(self.runs), 'run')}; .save('latency.pdf') writes it>"

    def _repr_svg_(self) -> str:
        from vilt_bench.report import render_picture

        return render_picture(self.runs, "svg", **self.options).decode()


def table(runs: Run | Iterable[Run], *, columns: Sequence[str] = ()) -> Shown:
    """Returns the runs side by side, and each by stage, as `vilt-bench report` prints them.

    Args:
        runs: one or several.
        columns: quantities, as `--columns` names them, such as `images-per-second`; none: the usual ones.

    Raises:
        ConfigError: there is no such quantity.
    """
    from vilt_bench.judge.summary import summaries
    from vilt_bench.report import render
    from vilt_bench.report.cells import of_runs
    from vilt_bench.report.columns import chosen

    judged = summaries([runs] if isinstance(runs, Run) else runs)
    told = chosen(columns) if columns else ()
    return Shown(render(judged, "table", quantities=columns), of_runs(judged, told))


def figure(
    runs: Run | Iterable[Run],
    *,
    figure: str = "latency",
    allow_different: bool | Collection[str] = False,
    span: int = 1,
) -> Picture:
    """Returns a picture of the runs: latency by stage, or their relative computational size.

    Args:
        runs: from top to bottom.
        figure: `latency` or `size`.
        allow_different: names of what may differ, such as `torch`, or whether anything may.
        span: columns of a two-column paper that it spans, 1 or 2.
    """
    found = [runs] if isinstance(runs, Run) else list(runs)
    return Picture(found, {"figure": figure, "allow_different": allow_different, "span": span})


def embedders(query: str = "") -> tuple[str, ...]:
    """Returns the names of the installed embedders that a query fits, as `vilt-bench list` has them.

    Args:
        query: part of a name, or a kind such as `grid`; `timm/` and part of a name looks into that family.

    Raises:
        EmbedderError: nothing fits.
    """
    from vilt_bench.ask.catalog import find

    return tuple(row.name for row in find(query).rows)
