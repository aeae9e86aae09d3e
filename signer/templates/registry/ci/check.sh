#!/bin/bash
# The check of a pull request: each recipe that it changes, or all of them if it changes what they
# are checked by. The result is a comment on the request; the exit code is the gate.
#
# MCPFS_BASE        what the branch is compared with, such as origin/main
# MCPFS_FORGE       github, gitlab or gitea; with it these four, to write the comment:
# MCPFS_API         the address of its API
# MCPFS_REPOSITORY  the repository's name there
# MCPFS_REQUEST     the request's number
# MCPFS_FORGE_TOKEN a token that may comment; without one the result is only shown here
set -euo pipefail

git() { command git -c safe.directory="$PWD" "$@"; }

results=check-results
mkdir -p "$results"

options=()
while IFS= read -r line; do
  case $line in '' | '#'*) ;; *) options+=("$line") ;; esac
done < ci/options

if git diff --quiet "$MCPFS_BASE...HEAD" -- policy.yaml waivers.yaml ci; then
  mapfile -d '' -t recipes < <(git diff -z --name-only --diff-filter=d "$MCPFS_BASE...HEAD" -- 'servers/*.yaml' 'servers/*.yml')
else
  mapfile -d '' -t recipes < <(git ls-files -z -- 'servers/*.yaml' 'servers/*.yml')
fi
mapfile -d '' -t removed < <(git diff -z --name-only --diff-filter=D "$MCPFS_BASE...HEAD" -- 'servers/*.yaml' 'servers/*.yml')

comment=$results/comment.md
: > "$comment"
failed=0
for recipe in "${recipes[@]}"; do
  name=$(basename "$recipe")
  name=${name%.*}
  echo "== $recipe"
  mcpfs-signer check "$recipe" "${options[@]}" --format markdown --out "$results/$name.md" || failed=1
  mcpfs-signer check "$recipe" "${options[@]}" --format sarif --out "$results/$name.sarif" > "$results/$name.txt" || failed=1
  if [ -s "$results/$name.md" ]; then
    cat "$results/$name.md" >> "$comment"
  else
    echo "The check of one recipe could not be made; see the job's log." >> "$comment"
  fi
  echo >> "$comment"
done
if [ ${#removed[@]} -gt 0 ]; then
  echo "Removed recipes: ${#removed[@]}. Their servers stay published; withdraw them with \`mcpfs-signer yank\` or \`revoke\`." >> "$comment"
fi
if [ ! -s "$comment" ]; then
  echo "No recipe changes."
  exit 0
fi

# GitHub shows this beside the job, also for requests from forks, whose token may not comment.
if [ -n "${GITHUB_STEP_SUMMARY:-}" ]; then
  cat "$comment" >> "$GITHUB_STEP_SUMMARY"
fi
if [ -n "${MCPFS_FORGE:-}" ] && [ -n "${MCPFS_FORGE_TOKEN:-}" ]; then
  mcpfs-signer comment "$comment" --forge "$MCPFS_FORGE" --api "$MCPFS_API" --repository "$MCPFS_REPOSITORY" --request "$MCPFS_REQUEST" ||
    echo "The comment could not be written; the result stands above."
fi
exit "$failed"
