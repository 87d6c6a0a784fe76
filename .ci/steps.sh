# Sourced by .ci/run and .ci/full: names the steps of a script, and prints at its end a table of them, also
# after a failure.
step_rows=()
step_name= step_started=0 step_shown=

# Begin a step: step NAME.
step() {
  end_step
  step_name=$1 step_started=$SECONDS
  printf '\n== %s (%ds)\n' "$1" "$SECONDS"
}

# Say what the step showed, for the table: shown TEXT.
shown() { step_shown=$1; }

end_step() {
  [ -n "$step_name" ] || return 0
  step_rows+=("$step_name|$((SECONDS - step_started))|${1:-$step_shown}")
  step_name= step_shown=
}

# Print the table: print_steps STATUS, where STATUS is the exit status of the script.
print_steps() {
  [ "$1" = 0 ] || end_step "FAILED"
  end_step
  local row name seconds text
  printf '\n%-45s %7s  %s\n' step seconds 'what it showed'
  for row in "${step_rows[@]}"; do
    IFS='|' read -r name seconds text <<< "$row"
    printf '%-45s %7d  %s\n' "$name" "$seconds" "$text"
  done
  printf '%-45s %7d  %s\n' all "$SECONDS" "$([ "$1" = 0 ] && echo passed || echo FAILED)"
}

# Install packages of Debian or Ubuntu: install_packages NAME...
install_packages() {
  local as_root=()
  [ "$(id -u)" = 0 ] || as_root=(sudo)
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" apt-get install -y -qq --no-install-recommends "$@"
}

# Run a test command, and say in the table what pytest counted: run_tests COMMAND...
run_tests() {
  "$@" 2>&1 | tee "$work/tests.log"
  shown "$(grep -E '^[0-9]+ passed' "$work/tests.log" | tail -n 1)"
}

# Wait for a background command, and print what it wrote: wait_for PROCESS LOG.
wait_for() {
  wait "$1" || { cat "$2" >&2; return 1; }
  cat "$2"
}
