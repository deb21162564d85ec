#!/usr/bin/env bash
# Installs vilt-bench and what is to be measured.
#
# PACKAGE     requirements, one a line
# VILT_BENCH  a requirement; empty for this action's own version; none if vilt-bench is there
set -euo pipefail

requirements=()
case "$VILT_BENCH" in
  none) ;;
  "") requirements+=("$GITHUB_ACTION_PATH") ;;
  *) requirements+=("$VILT_BENCH") ;;
esac
while read -r line; do
  [[ -z $line ]] || requirements+=("$line")
done <<<"$PACKAGE"

if ((${#requirements[@]})); then
  python -m pip install --quiet --disable-pip-version-check -- "${requirements[@]}"
fi
vilt-bench --version
