# shellcheck shell=bash
# What the other scripts share: nothing that they print or start is what an input or a file of the checkout makes of it.

# A relative folder on PATH is one of the checkout: no program is taken from there.
absolute=
while IFS= read -r -d : folder; do
  [[ $folder != /* ]] || absolute+=:$folder
done <<<"$PATH:"
PATH=${absolute#:}

# Prints an annotation. LEVEL TEXT; a line break in the text begins no line of its own, which could be a command.
tell() {
  local text=$2
  text=${text//'%'/%25}
  text=${text//$'\r'/%0D}
  text=${text//$'\n'/%0A}
  printf '::%s title=vilt-bench::%s\n' "$1" "${text//[[:cntrl:]]/ }"
}

# Runs a command whose lines are text to the runner, also where one of them quotes an input or a file of the checkout.
as_text() {
  local token code=0
  token=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
  printf '::stop-commands::%s\n' "$token"
  "$@" 2>&1 || code=$?
  printf '\n::%s::\n' "$token"
  return "$code"
}
