#!/usr/bin/env bash
# One machine with a Cloud TPU, or a slice of several: makes it, trains on it, takes it away again.
#
#   launch/tpu_vm.sh COMMAND --name=NAME --zone=ZONE [settings] [-- SCRIPT FLAGS...]
#
# Commands, in the order in which they are needed:
#   create   makes the machine; from here on it costs money
#   install  copies this checkout there and installs it, on every host of a slice
#   start    starts SCRIPT there; again after a stop or a new machine: it goes on where it was
#   follow   shows the log of the first host, until Ctrl-C; the run does not mind
#   status   says whether the run goes on, or its exit code: 0 done, 143 stopped, 2 refused
#   stop     tells the run to save and leave
#   fetch    copies the work directory to runs/NAME of this machine
#   delete   takes the machine away, with its disk
#
# Settings:
#   --name=NAME        of the machine
#   --zone=ZONE        as in us-west4-a
#   --project=PROJECT  of Google Cloud; gcloud's own where not given
#   --type=TYPE        v5litepod-1, v5litepod-8 (the default) or a slice such as v5litepod-32
#   --version=VERSION  image; v2-alpha-tpuv5-lite where not given
#   --spot             cheaper, and may be taken away at any time (create)
#   --workdir=DIR      gs://BUCKET/FOLDER; of one host also a folder there (start, fetch)
#   --dry_run          prints the commands and does nothing else
#   --help             this text
#
# SCRIPT is experiments.reproduce --config=configs/gridworld.py:paper --nosweeps where not given.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
# shellcheck source=launch/common.sh
. "$here/common.sh"

command="${1:-}"
case "$command" in
  create | install | start | follow | status | stop | fetch | delete) shift ;;
  --help | -h | help) show_help "$0" && exit 0 ;;
  "") fail "no command given, allowed are create, install, start, follow, status, stop, fetch, delete" ;;
  *) fail "$command: unknown command, see --help" ;;
esac

name="" zone="" project="" workdir="" spot=""
type="v5litepod-8" version="v2-alpha-tpuv5-lite"
take_settings "name zone project type version workdir" "spot dry_run" "$@"
[ -n "$script_given" ] && [ "$command" != start ] && fail "${script[0]}: only start takes a script"
set -- "${script[@]}"

require name "$name" paper
require zone "$zone" us-west4-a
chips="${type##*-}"
case "$chips" in
  "" | *[!0-9]*) fail "--type: '$type' given, allowed is for example v5litepod-8" ;;
esac
# Up to eight chips (or cores, as older types count) are one host.
hosts_are_several=""
[ "$chips" -le 8 ] || hosts_are_several=1

where=("--zone=$zone")
[ -z "$project" ] || where+=("--project=$project")

tpu_vm() {
  local what="$1"
  shift
  run gcloud compute tpus tpu-vm "$what" "$@" "${where[@]}"
}

# on HOSTS COMMAND: runs one line of shell on the hosts, 0 or all.
on() {
  tpu_vm ssh "$name" --worker="$1" --command="$2"
}

check_places() {
  require workdir "$workdir" gs://my-bucket/paper
  check_workdir "$workdir"
  case "$workdir" in
    gs://*) ;;
    *) [ -z "$hosts_are_several" ] || fail "--workdir: '$workdir' given, allowed for $type, which has several hosts, is gs://BUCKET/FOLDER" ;;
  esac
}

case "$command" in
  create)
    tpu_vm create "$name" --accelerator-type="$type" --version="$version" \
      --scopes=https://www.googleapis.com/auth/cloud-platform ${spot:+--spot}
    ;;
  install)
    # What is committed, without the history but with the commit's name, which runs write down.
    copy="${TMPDIR:-/tmp}/internal_rl_to_install"
    run rm -rf "$copy"
    run git clone --quiet --depth=1 "file://${here%/*}" "$copy/internal_rl"
    run tar -czf "$copy/internal_rl.tar.gz" -C "$copy" internal_rl
    tpu_vm scp "$copy/internal_rl.tar.gz" "$name:internal_rl.tar.gz" --worker=all
    # The images have an older Python than the project needs; uv brings its own.
    on all "set -e; tar -xzf internal_rl.tar.gz; cd internal_rl; curl -LsSf https://astral.sh/uv/install.sh | sh; ~/.local/bin/uv venv --python 3.12 --allow-existing .venv; ~/.local/bin/uv pip install --python .venv/bin/python -e '.[tpu,gcs]'"
    ;;
  start)
    check_places
    check_program "$1"
    program="$(quoted .venv/bin/python -m "$@" "--workdir=$workdir" ${hosts_are_several:+--coordinator=auto})"
    # Outlives the connection; leaves its number, its log and its exit code beside the checkout.
    on all "cd internal_rl; if kill -0 \$(cat ../run.pid 2>/dev/null) 2>/dev/null; then echo 'a run goes on already'; exit 2; fi; rm -f ../run.exit; nohup setsid bash -c $(quoted "$program >> ../run.log 2>&1 & echo \$! > ../run.pid; wait \$!; echo \$? > ../run.exit") > /dev/null 2>&1 < /dev/null &"
    ;;
  follow)
    on 0 "tail -n 100 -F run.log"
    ;;
  status)
    on all "if kill -0 \$(cat run.pid 2>/dev/null) 2>/dev/null; then echo running; else echo exit code \$(cat run.exit 2>/dev/null || echo unknown); fi; tail -n 3 run.log"
    ;;
  stop)
    # The run saves a checkpoint and has left within 30 seconds.
    on all "kill -TERM \$(cat run.pid) || exit 0; for i in \$(seq 40); do kill -0 \$(cat run.pid) 2>/dev/null || break; sleep 1; done; echo exit code \$(cat run.exit 2>/dev/null || echo unknown)"
    ;;
  fetch)
    check_places
    run mkdir -p "runs/$name"
    case "$workdir" in
      gs://*) run gcloud storage rsync --recursive "$workdir" "runs/$name" ;;
      /* | \~*) tpu_vm scp --recurse "$name:$workdir/*" "runs/$name/" --worker=0 ;;
      *) tpu_vm scp --recurse "$name:internal_rl/$workdir/*" "runs/$name/" --worker=0 ;;
    esac
    ;;
  delete)
    tpu_vm delete "$name" --quiet
    ;;
esac
