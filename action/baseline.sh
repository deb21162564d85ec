#!/usr/bin/env bash
# Finds the commit to compare with, and fetches it: checkouts on GitHub are shallow.
#
# BASELINE_REF       what the user asked for, if anything
# PULL_REQUEST_BASE  commit that the pull request is to merge into
# MERGE_GROUP_BASE   likewise, of a merge queue
# PUSHED_ONTO        commit before the push; zeros for a new branch
#
# Output: commit, empty if there is none.
set -euo pipefail

if ! git rev-parse --git-dir >/dev/null 2>&1; then
  echo "::error title=vilt-bench::No git repository here: put actions/checkout before this action."
  exit 2
fi
ref=${BASELINE_REF:-${PULL_REQUEST_BASE:-${MERGE_GROUP_BASE:-$PUSHED_ONTO}}}
if [[ -z $BASELINE_REF && -n $PULL_REQUEST_BASE && $(git rev-parse HEAD) == "$GITHUB_SHA" ]]; then
  # The checkout is GitHub's trial merge; its first parent is what it merged into, newer than the event knows.
  ref=$(git cat-file -p HEAD | sed -n 's/^parent //p' | sed -n 1p)
fi
if [[ -z $ref || $ref =~ ^0+$ ]]; then
  echo "::warning title=vilt-bench::Nothing to compare with: give baseline-ref, or run on pull requests or pushes."
  echo "commit=" >>"$GITHUB_OUTPUT"
  exit
fi

if ! commit=$(git rev-parse --quiet --verify --end-of-options "$ref^{commit}"); then
  if ! git fetch --quiet --no-tags --depth=1 -- origin "$ref"; then
    echo "::error title=vilt-bench::No baseline $ref in this repository; give baseline-ref a commit, branch or tag of it."
    exit 2
  fi
  commit=$(git rev-parse --verify 'FETCH_HEAD^{commit}')
fi
echo "baseline: $ref ($commit)"
echo "commit=$commit" >>"$GITHUB_OUTPUT"
