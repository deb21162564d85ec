#!/usr/bin/env bash
# Measures and compares. Never fails itself: verdict.sh does, after artifact and comment.
#
# BASELINE         ref or records
# BASELINE_COMMIT  of ref; empty if there is none
# EMBEDDERS        one a line
# DEVICE, GATE, TOLERANCE, MAX_TIME, INCONCLUSIVE  options; empty for the default
# ALLOW_DIFFERENT  of records: what may differ
# ARGUMENTS        more options, split at blanks
#
# Outputs: report (a folder), exit-code, verdict (empty if nothing was compared).
set -uo pipefail

report=$RUNNER_TEMP/vilt-bench
rm -rf "$report"
mkdir -p "$report/records"

measuring=(--output "$report/records" --device "$DEVICE")
while read -r embedder; do
  [[ -z $embedder ]] || measuring+=(--embedder "$embedder")
done <<<"$EMBEDDERS"
[[ -z $MAX_TIME ]] || measuring+=(--max-time "$MAX_TIME")
read -r -d '' -a more <<<"$ARGUMENTS"
((${#more[@]} == 0)) || measuring+=("${more[@]}") # the bash of macOS can't expand an empty array

judging=(--gate "$GATE" --inconclusive "$INCONCLUSIVE")
judging+=(--markdown "$report/report.md" --json "$report/report.json" --junit "$report/junit.xml")
[[ -z $TOLERANCE ]] || judging+=(--tolerance "$TOLERANCE")

no_baseline=4
case "$BASELINE" in
  ref)
    if [[ -n $BASELINE_COMMIT ]]; then
      vilt-bench gate --baseline-ref "$BASELINE_COMMIT" "${measuring[@]}" "${judging[@]}"
      code=$?
    else
      code=$no_baseline
    fi
    ;;
  records)
    # A stored baseline asks for ten processes a side.
    vilt-bench run --trials 10 "${measuring[@]}"
    code=$?
    stored=.vilt-bench/baseline
    if ((code == 0)); then
      [[ -z $ALLOW_DIFFERENT ]] || judging+=(--allow-different "$ALLOW_DIFFERENT")
      if [[ -d $stored ]]; then
        vilt-bench compare "$stored" "$report/records" "${judging[@]}"
        code=$?
      else
        code=$no_baseline
      fi
      # The newest is the baseline, older ones tell how far the machine drifts; their names sort by time.
      mkdir -p "$stored"
      cp -R "$report/records/." "$stored/"
      find "$stored" -name '*.json' | sort -r | tail -n +201 | xargs rm -f
    fi
    ;;
  *)
    echo "::error title=vilt-bench::baseline must be ref or records, got $BASELINE"
    code=2
    ;;
esac

verdict=
if [[ -s $report/report.json ]]; then
  verdict=$(python -c 'import json, sys; print(json.load(open(sys.argv[1]))["verdict"])' "$report/report.json")
fi
{
  echo "report=$report"
  echo "exit-code=$code"
  echo "verdict=$verdict"
} >>"$GITHUB_OUTPUT"
