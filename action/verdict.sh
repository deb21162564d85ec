#!/usr/bin/env bash
# Ends the job as the gate's exit code says.
#
# EXIT_CODE    of vilt-bench
# NO_BASELINE  pass or fail
set -euo pipefail

case "$EXIT_CODE" in
  0) exit 0 ;;
  1) say="slower than the baseline, or lacking what it has" ;;
  2) say="could not be measured: see the error above" ;;
  3) say="could not be decided: see what the report says of noise" ;;
  4)
    say="nothing to compare with yet"
    if [[ $NO_BASELINE == pass ]]; then
      echo "::warning title=vilt-bench::Passed without a comparison: $say."
      exit 0
    fi
    ;;
  *) say="vilt-bench ended unexpectedly" ;;
esac
echo "::error title=vilt-bench::Failed: $say (exit code $EXIT_CODE)."
exit "$EXIT_CODE"
