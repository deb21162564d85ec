"""The measuring process: builds a case, times its passes, counts what is not timed."""
