#!/usr/bin/env bash
# Installs vilt-bench and what is to be measured.
#
# PACKAGE     lines of a requirements file
# VILT_BENCH  a requirement; empty for this action's own version; none if vilt-bench is there
set -euo pipefail

requirements=$RUNNER_TEMP/vilt-bench-requirements.txt
{
  case "$VILT_BENCH" in
    none) ;;
    "") echo "$GITHUB_ACTION_PATH" ;;
    *) echo "$VILT_BENCH" ;;
  esac
  echo "$PACKAGE"
} >"$requirements"
if grep --quiet '[^[:space:]]' "$requirements"; then
  python -m pip install --quiet --disable-pip-version-check --requirement "$requirements"
fi
vilt-bench --version
