#!/usr/bin/env bash
# Ends the job as the gate's exit code says.
#
# EXIT_CODE    of vilt-bench
# NO_BASELINE  pass or fail
set -euo pipefail
# shellcheck source=action/common.sh
. "${BASH_SOURCE[0]%/*}/common.sh"

unexpected=70
case "$EXIT_CODE" in
  0) exit 0 ;;
  1) say="slower than the baseline, or lacking what it has" ;;
  2) say="could not be measured: see the error above" ;;
  3) say="could not be decided: see what the report says of noise" ;;
  4)
    say="nothing to compare with yet"
    if [[ $NO_BASELINE == pass ]]; then
      tell warning "Passed without a comparison: $say."
      exit 0
    fi
    ;;
  "$unexpected") say="vilt-bench met an error that it did not expect, which says nothing of speed: see the log" ;;
  *) say="vilt-bench ended unexpectedly" ;;
esac
tell error "Failed: $say (exit code $EXIT_CODE)."
# What is no exit code would be none of a failure either: bash ends with 0 for 256.
[[ $EXIT_CODE =~ ^[1-9][0-9]{0,2}$ ]] && ((EXIT_CODE < 256)) || exit "$unexpected"
exit "$EXIT_CODE"
