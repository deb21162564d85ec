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
# shellcheck source=action/common.sh
. "${BASH_SOURCE[0]%/*}/common.sh"

# Hooks may lie in the checkout: some tools set core.hooksPath to a folder of it.
git() {
  command git -c core.hooksPath=/dev/null "$@"
}

if ! problem=$(git rev-parse --git-dir 2>&1 >/dev/null); then
  tell error "No git repository here: put actions/checkout before this action. Git says: $problem"
  exit 2
fi
ref=${BASELINE_REF:-${PULL_REQUEST_BASE:-${MERGE_GROUP_BASE:-$PUSHED_ONTO}}}
if [[ -z $BASELINE_REF && -n $PULL_REQUEST_BASE && $(git rev-parse HEAD) == "$GITHUB_SHA" ]]; then
  # The checkout is GitHub's trial merge; its first parent is what it merged into, newer than the event knows.
  parents=$(git cat-file commit HEAD | sed -n -e '/^$/q' -e 's/^parent //p') # the message comes after an empty line
  [[ $parents != *$'\n'* ]] || ref=${parents%%$'\n'*}
fi
if [[ -z $ref || $ref =~ ^0+$ ]]; then
  tell warning "Nothing to compare with: give baseline-ref, or run on pull requests or pushes."
  echo "commit=" >>"$GITHUB_OUTPUT"
  exit
fi

# A name, perhaps with the way to an ancestor; nothing else that git reads, such as a refspec or a search.
if ! [[ $ref =~ ^[^-+:~^][^:~^]*[~^0-9]*$ ]] || ! git check-ref-format --allow-onelevel "${ref%%[~^]*}"; then
  tell error "The baseline must be a commit, branch or tag, got '$ref'."
  exit 2
fi
if ! commit=$(git rev-parse --quiet --verify --end-of-options "$ref^{commit}"); then
  if ! as_text git fetch --quiet --no-tags --no-recurse-submodules --depth=1 -- origin "$ref"; then
    tell error "No baseline $ref in this repository; give baseline-ref a commit, branch or tag of it."
    exit 2
  fi
  commit=$(git rev-parse --verify 'FETCH_HEAD^{commit}')
fi
as_text echo "baseline: $ref ($commit)"
echo "commit=$commit" >>"$GITHUB_OUTPUT"
