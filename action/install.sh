#!/usr/bin/env bash
# Installs vilt-bench and what is to be measured.
#
# PACKAGE     lines of a requirements file
# VILT_BENCH  a requirement; empty for this action's own version; none if vilt-bench is there
set -euo pipefail
# shellcheck source=action/common.sh
. "${BASH_SOURCE[0]%/*}/common.sh"

requirements=$RUNNER_TEMP/vilt-bench-requirements.txt
printf '%s\n' "$PACKAGE" >"$requirements"
wanted=(--requirement "$requirements")
case "$VILT_BENCH" in
  none) ;;
  "") wanted+=("$GITHUB_ACTION_PATH") ;;
  *) printf '%s\n' "$VILT_BENCH" >>"$requirements" ;;
esac
if [[ $VILT_BENCH != none || $PACKAGE == *[![:space:]]* ]]; then
  # -P: pip is not taken from the checkout.
  if ! as_text python -P -m pip install --quiet --disable-pip-version-check "${wanted[@]}"; then
    tell error "pip can't install package and vilt-bench as they are given; what it says is above."
    exit 2
  fi
fi
if ! as_text vilt-bench --version; then
  tell error "vilt-bench does not start; with 'vilt-bench: none' it must be on PATH."
  exit 2
fi
