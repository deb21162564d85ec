#!/usr/bin/env bash
# Refuses inputs that are not what they must be, before anything is set up or measured.
#
# BASELINE, COMMENT, GATE, INCONCLUSIVE, NO_BASELINE  one of a few words each
# ALLOW_DIFFERENT, BASELINE_REF, DEVICE, MAX_TIME, PYTHON_VERSION, TOLERANCE, VILT_BENCH  a line each, or empty
# ARGUMENTS, EMBEDDERS, PACKAGE  lines
# NAME  of this gate
#
# Output: records, the folder for those of the baseline. It is not one of the checkout, which could bring its own.
set -euo pipefail
# shellcheck source=action/common.sh
. "${BASH_SOURCE[0]%/*}/common.sh"

# Returns with the input's name as action.yml has it.
called() {
  tr 'A-Z_' 'a-z-' <<<"$1"
}

refuse() {
  tell error "$(called "$1") must be $2, got '${!1}'."
  exit 2
}

# INPUT WORD OTHER
choice() {
  [[ ${!1} == "$2" || ${!1} == "$3" ]] || refuse "$1" "$2 or $3"
}

choice BASELINE ref records
choice COMMENT true false
choice GATE total stages
choice INCONCLUSIVE fail pass
choice NO_BASELINE fail pass
[[ $NAME =~ ^[A-Za-z0-9._-]+$ ]] || refuse NAME "letters, digits, dots, dashes"
for input in ALLOW_DIFFERENT BASELINE_REF DEVICE MAX_TIME PYTHON_VERSION TOLERANCE VILT_BENCH; do
  [[ ${!input} != *[[:cntrl:]]* ]] || refuse "$input" "one line without control characters"
  [[ ${!input} != -* ]] || refuse "$input" "a value, which begins with no dash"
done
version='^[A-Za-z0-9 .,*|<>=~^_-]*$'
[[ $PYTHON_VERSION =~ $version ]] || refuse PYTHON_VERSION "a version"
for input in ARGUMENTS EMBEDDERS PACKAGE; do
  value=${!input}
  [[ ${value//[$'\t\r\n']/} != *[[:cntrl:]]* ]] || refuse "$input" "lines without control characters"
done
[[ $EMBEDDERS == *[![:space:]]* ]] || refuse EMBEDDERS "at least one embedder, one a line"

records=$RUNNER_TEMP/vilt-bench-baseline
rm -rf "$records" # of another gate of this job
echo "records=$records" >>"$GITHUB_OUTPUT"
