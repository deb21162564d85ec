"""`vilt-bench`, and `python -m vilt_bench`: starts the command line, quietly ended by Ctrl-C from the first moment."""

import sys

INTERRUPTED = 130


def main() -> int:
    """Returns the exit code of one command."""
    try:
        from vilt_bench.cli import main as run

        return run()
    except KeyboardInterrupt:  # while it is being imported
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
