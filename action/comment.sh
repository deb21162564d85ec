#!/usr/bin/env bash
# Keeps one comment on the pull request up to date; where that can't be done, says so and does not fail.
#
# NAME             of this gate
# REPORT           folder that has report.md, if anything was compared
# EXIT_CODE        of vilt-bench
# PULL_REQUEST     its number; empty if this is none
# HEAD_REPOSITORY  where its branch lies
# GH_TOKEN         for gh
set -euo pipefail
# shellcheck source=action/common.sh
. "${BASH_SOURCE[0]%/*}/common.sh"

skip() {
  tell notice "No comment: $1. The job's summary has the report."
  exit 0
}

[[ $PULL_REQUEST =~ ^[0-9]+$ ]] || skip "this is no pull request"
[[ $HEAD_REPOSITORY == "$GITHUB_REPOSITORY" ]] || skip "pull requests of forks have a token that may only read"
command -v gh >/dev/null || skip "there is no gh on this runner"

export GH_HOST=${GITHUB_SERVER_URL#*://} GH_ENTERPRISE_TOKEN=$GH_TOKEN
comments=repos/$GITHUB_REPOSITORY/issues/$PULL_REQUEST/comments
marker="<!-- vilt-bench gate: $NAME -->"
[[ $EXIT_CODE =~ ^[0-9]+$ ]] || EXIT_CODE=unknown
body=$REPORT/comment.md
compared=true
{
  echo "$marker"
  if [[ -s $REPORT/report.md ]]; then
    tail -n +2 "$REPORT/report.md" # without its own marker, which is equal for all gates
  else
    compared=false
    printf '\n### 🟣 Nothing was compared\n\nThe run of %s ended with exit code %s: ' "$GITHUB_SHA" "$EXIT_CODE"
    [[ $EXIT_CODE == 4 ]] && echo "there is no baseline." || echo "it could not be measured; the job's log says why."
  fi
} >"$body"
if (($(wc -c <"$body") > 65000)); then # GitHub takes 65,536 characters
  short=$(sed '/<details>/,$d' "$body")
  printf '%s\n\n%s\n' "${short:0:60000}" "Details are too long for a comment: the job's summary has them." >"$body"
fi

# Anyone can write the marker; who wrote a comment could change it later.
if ! login=$(gh api graphql --raw-field 'query={viewer{login}}' --jq .data.viewer.login); then
  skip "whose token this is can't be read, so that no comment is known to be its own"
fi
[[ $login =~ ^[A-Za-z0-9_-]+(\[bot\])?$ ]] || skip "the token belongs to nobody who could comment"
own=".user.login == \"$login\" or (.user.type == \"Bot\" and .user.login == \"${login}[bot]\")"
own_and_marked=".[] | select(($own) and (.body | startswith(\"$marker\"))) | .id"
if ! found=$(gh api --paginate "$comments?per_page=100" --jq "$own_and_marked"); then
  skip "the comments can't be read; does the job have the permission pull-requests: write?"
fi
mine=${found%%$'\n'*}
[[ -n $mine || $compared == true ]] || skip "nothing was compared" # but what an earlier run has said must not stay
if [[ -n $mine ]]; then
  request=(--method PATCH "repos/$GITHUB_REPOSITORY/issues/comments/$mine")
else
  request=(--method POST "$comments")
fi
gh api --silent "${request[@]}" --field "body=@$body" ||
  skip "it can't be written; does the job have the permission pull-requests: write?"
