#!/usr/bin/env bash
# Measures and compares. Never fails itself: verdict.sh does, after artifact and comment.
#
# NAME             of this gate
# BASELINE         ref or records
# BASELINE_COMMIT  of ref; empty if there is none
# RECORDS          folder of the baseline's records
# EMBEDDERS        one a line
# DEVICE, GATE, TOLERANCE, MAX_TIME, INCONCLUSIVE  options; empty for the default
# ALLOW_DIFFERENT  of records: what may differ
# ARGUMENTS        more options, split at blanks
#
# Outputs: report (a folder), exit-code, verdict (empty if nothing was compared).
set -uo pipefail
# shellcheck source=action/common.sh
. "${BASH_SOURCE[0]%/*}/common.sh"

report=$RUNNER_TEMP/vilt-bench-$NAME
rm -rf "$report"
mkdir -p "$report/records"

# The user's options come first: of two that exclude each other the last counts. A value is joined to its option by =,
# so that one which begins with a dash is no option.
measuring=()
read -r -d '' -a more <<<"$ARGUMENTS"
((${#more[@]} == 0)) || measuring+=("${more[@]}") # the bash of macOS can't expand an empty array
measuring+=("--output=$report/records" "--device=$DEVICE")
while read -r embedder; do
  [[ -z $embedder ]] || measuring+=("--embedder=$embedder")
done <<<"${EMBEDDERS//$'\r'/$'\n'}"
[[ -z $MAX_TIME ]] || measuring+=("--max-time=$MAX_TIME")

judging=("--gate=$GATE" "--inconclusive=$INCONCLUSIVE")
judging+=("--markdown=$report/report.md" "--json=$report/report.json" "--junit=$report/junit.xml")
[[ -z $TOLERANCE ]] || judging+=("--tolerance=$TOLERANCE")

no_baseline=4
unexpected=70
if [[ $BASELINE == ref ]]; then
  if [[ -n $BASELINE_COMMIT ]]; then
    vilt-bench gate "${measuring[@]}" "--baseline-ref=$BASELINE_COMMIT" "${judging[@]}"
    code=$?
  else
    code=$no_baseline
  fi
else
  # A stored baseline asks for ten processes a side.
  as_text vilt-bench run --trials=10 "${measuring[@]}"
  code=$?
  if ((code == 0)); then
    [[ -z $ALLOW_DIFFERENT ]] || judging+=("--allow-different=$ALLOW_DIFFERENT")
    if [[ -d $RECORDS ]]; then
      vilt-bench compare "$RECORDS" "$report/records" "${judging[@]}"
      code=$?
    else
      code=$no_baseline
    fi
    # The newest is the baseline, older ones tell how far the machine drifts; their names sort by time.
    mkdir -p "$RECORDS"
    cp -R "$report/records/." "$RECORDS/"
    LC_ALL=C
    stored=("$RECORDS"/*.json)
    for ((older = 0; older < ${#stored[@]} - 200; older++)); do
      rm -f -- "${stored[older]}"
    done
  fi
fi

verdict=
if [[ -s $report/report.json ]]; then
  # -I: json is Python's own, whatever lies in the checkout.
  read_verdict='import json, sys; print(json.load(open(sys.argv[1], encoding="utf-8"))["verdict"])'
  verdict=$(python -I -c "$read_verdict" "$report/report.json")
  case "$verdict" in
    regressed | missing | inconclusive | improved | unchanged) ;;
    *)
      tell error "report.json has no verdict that is known here."
      verdict=
      ((code != 0)) || code=$unexpected
      ;;
  esac
fi
{
  echo "report=$report"
  echo "exit-code=$code"
  echo "verdict=$verdict"
} >>"$GITHUB_OUTPUT"
