#!/usr/bin/env bash
# Trains on one or several nodes of a SLURM cluster, through as many jobs as it takes.
#
#   launch/slurm.sh --workdir=DIR [settings] [-- SCRIPT FLAGS...]
#
# Submits itself with sbatch. A job that is at its end, or whose nodes are wanted by others, is told
# so some time before: the run saves, leaves with exit code 143, and the job is queued again and goes
# on. Python is that of this checkout, .venv/bin/python, on a file system that all nodes share.
#
# Settings:
#   --workdir=DIR         folder that all nodes share, or gs://BUCKET/FOLDER
#   --nodes=N             how many; 1 where not given. One process runs on each, with all of its GPUs
#   --gpus_per_node=N     1 where not given; 0 for CPUs
#   --cpus_per_task=N     8 where not given
#   --time=TIME           of one job; 12:00:00 where not given
#   --grace=SECONDS       how long before the end the run is told; 120 where not given, 60 at least
#   --partition=NAME      where the cluster asks for it
#   --account=NAME        where the cluster asks for it
#   --python=PATH         another Python
#   --dry_run             prints the commands, those of the job too, and does nothing else
#   --help                this text
#
# SCRIPT is experiments.reproduce --config=configs/gridworld.py:paper --nosweeps where not given.
set -euo pipefail
here="${INTERNAL_RL_LAUNCH:-$(cd "$(dirname "$0")" && pwd)}"
# shellcheck source=launch/common.sh
. "$here/common.sh"

# in_job PYTHON SCRIPT FLAGS...: inside of the job. SLURM tells every process which one it is.
in_job() {
  local code=0
  # Without its GPUs a run would train on the CPUs, for weeks.
  [ -z "${SLURM_GPUS_ON_NODE:-}" ] || export JAX_PLATFORMS="${JAX_PLATFORMS:-cuda,cpu}"
  # The first process may still be writing when another one has left.
  run srun --kill-on-bad-exit=0 --wait=60 "$1" -m "${@:2}" || code=$?
  [ -z "$dry_run" ] || return 0
  if [ "$code" -eq 143 ]; then
    scontrol requeue "$SLURM_JOB_ID"
  fi
  exit "$code"
}

if [ "${1:-}" = in_job ]; then
  shift
  in_job "$@"
fi

workdir="" partition="" account="" nodes=1 gpus_per_node=1 cpus_per_task=8 time=12:00:00 grace=120
python=".venv/bin/python"
take_settings "workdir nodes gpus_per_node cpus_per_task time grace partition account python" "dry_run" "$@"
set -- "${script[@]}"

require workdir "$workdir" /shared/runs/paper
check_workdir "$workdir"
check_program "$1"
for number in "nodes $nodes" "gpus_per_node $gpus_per_node" "cpus_per_task $cpus_per_task" "grace $grace"; do
  case "${number#* }" in
    "" | *[!0-9]*) fail "--${number% *}: '${number#* }' given, allowed is a whole number" ;;
  esac
done
[ "$nodes" -ge 1 ] || fail "--nodes: $nodes given, allowed is 1 or more"
# A run needs up to 30 seconds, and SLURM looks at its clock once in a while.
[ "$grace" -ge 60 ] || fail "--grace: $grace given, allowed is 60 or more"

job=(--job-name=internal_rl "--nodes=$nodes" --ntasks-per-node=1 "--cpus-per-task=$cpus_per_task")
job+=("--time=$time" "--signal=TERM@$grace" --requeue --open-mode=append "--output=internal_rl-%j.log")
[ "$gpus_per_node" -eq 0 ] || job+=("--gpus-per-node=$gpus_per_node")
[ -z "$partition" ] || job+=("--partition=$partition")
[ -z "$account" ] || job+=("--account=$account")
# SLURM runs a copy of this file, which has to find the other one.
run sbatch "${job[@]}" "--chdir=$(cd "$here/.." && pwd)" "--export=ALL,INTERNAL_RL_LAUNCH=$here" \
  "$here/slurm.sh" in_job "$python" "$@" "--workdir=$workdir"
if [ -n "$dry_run" ]; then
  echo "# inside of the job:"
  in_job "$python" "$@" "--workdir=$workdir"
fi
