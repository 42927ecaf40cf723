# shellcheck shell=bash
# What the launch scripts share; to be sourced. Plain bash, also that of macOS (3.2).

DEFAULT_PROGRAM="experiments.reproduce --config=configs/gridworld.py:paper --nosweeps"
dry_run=""

# One line on the standard error, exit code 2.
fail() {
  echo "error: $*" >&2
  exit 2
}

# The text at the head of a script, from the second line to the first that is no comment.
show_help() {
  sed -n -e '1d' -e '/^#/!q' -e 's/^# \{0,1\}//p' "$1"
}

# Words as a shell reads them again.
quoted() {
  local word escaped="'\\''" line=""
  for word in "$@"; do
    case "$word" in
      "" | *[!A-Za-z0-9_./:=,@%+~-]*) word="'${word//\'/$escaped}'" ;;
    esac
    line="$line $word"
  done
  printf '%s' "${line# }"
}

# Runs a command, or prints it with --dry_run.
run() {
  if [ -n "$dry_run" ]; then
    quoted "$@"
    echo
  else
    "$@"
  fi
}

# require FLAG VALUE EXAMPLE
require() {
  [ -n "$2" ] || fail "--$1: not given, allowed is for example --$1=$3"
}

# take_settings NAMES SWITCHES ARGUMENTS...
# Sets a variable for every --NAME=VALUE, and to 1 for every --SWITCH; --help shows the head of the
# script and leaves. Words behind -- go to the array `script`, by default those of DEFAULT_PROGRAM;
# `script_given` is empty then.
take_settings() {
  local names=" $1 " switches=" $2 " key
  shift 2
  while [ $# -gt 0 ]; do
    key="${1#--}" && key="${key%%=*}"
    case "$1" in
      --help | -h) show_help "$0" && exit 0 ;;
      --) shift && break ;;
    esac
    case "$1" in
      --*=*) [ "${names#* "$key" }" != "$names" ] && printf -v "$key" %s "${1#*=}" ;;
      --*) [ "${switches#* "$key" }" != "$switches" ] && printf -v "$key" 1 ;;
      *) false ;;
    esac || fail "$1: unknown setting, see --help"
    shift
  done
  # shellcheck disable=SC2034  # for the script that sources this
  script_given="${1:-}"
  # shellcheck disable=SC2086  # words on purpose
  [ $# -gt 0 ] || set -- $DEFAULT_PROGRAM
  # shellcheck disable=SC2034
  script=("$@")
}

# Refuses a program that is none of the project's scripts.
check_program() {
  case "$1" in
    experiments | experiments.*) ;;
    *) fail "program: '$1' given, allowed is a script such as $DEFAULT_PROGRAM" ;;
  esac
}

# Refuses a work directory whose name is a misspelt store.
check_workdir() {
  case "$1" in
    gs://?*/?*) ;;
    *:/*) fail "--workdir: '$1' given, allowed is gs://BUCKET/FOLDER or a folder there" ;;
  esac
}
