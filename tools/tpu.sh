#!/usr/bin/env bash
# Runs bertjax on a Cloud TPU VM slice, from creating it to deleting it. docs/tpu.md is the guide.
set -euo pipefail

readonly ME=tpu.sh
readonly SUBCOMMANDS="create install run status logs stop resume delete"
readonly POLL_SECONDS=60
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly root

usage() {
  cat <<'END'
usage: tools/tpu.sh SUBCOMMAND NAME [flags] [-- COMMAND]

Runs bertjax on every worker of the Cloud TPU VM slice NAME, through gcloud.

subcommands:
  create   Asks for the slice. With --queued the request waits in a queue.
  install  Puts Python, bertjax and the data of --data on every worker.
  run      Starts 'bertjax COMMAND' on every worker; it goes on without this terminal.
  status   Shows the state of the slice and of the run on every worker.
  logs     Shows the end of a worker's log.
  stop     Ends the run with SIGTERM, so that it saves its state first.
  resume   Creates, installs and runs whatever is missing: after a preemption the same COMMAND
           goes on from the newest checkpoint in its workdir.
  delete   Deletes the slice, which ends its costs.

flags (a subcommand ignores those that it does not need, so all can be given the same ones):
  --accelerator=TYPE  Cloud's name, such as v5litepod-16, v6e-8, v4-32 or v5p-32, or a topology as
                      'bertjax plan' takes it, such as v5e:4x4 or v4:4x4x8.
  --zone=ZONE         Default: gcloud's compute/zone.
  --project=PROJECT   Default: gcloud's core/project.
  --spot              Spot capacity: cheaper, and preempted at any time.
  --preemptible       The older kind of it: at most 24 hours, not with --queued.
  --reserved          Uses the project's reservation.
  --queued            Asks by a queued resource, which waits until there is capacity.
  --slices=N          Several slices of the same type as one run; needs --queued. Default: 1.
  --runtime=VERSION   The TPU software version. Default: the accelerator's.
  --package=SPEC      What pip installs. Default: the newest commit of this clone, with the
                      extras tpu and gcs.
  --data=gs://PATH    Copied into the home folder of every worker, under its last name.
  --worker=N          For logs: whose. Default: 0, which is the one that tells of the training.
  --follow            For logs: goes on until Ctrl-C.
  --create-with=FLAG  One more flag for gcloud's create, such as --network=NAME; may be repeated.
  --ssh-with=FLAG     One more flag for gcloud's ssh and scp, such as --internal-ip; likewise.
  --dry-run           Prints every command and runs none.
  --help              Shows this page.

COMMAND is a bertjax command line without the word bertjax. It runs in the home folder.

example:
  tools/tpu.sh resume bert --accelerator=v5e:4x4 --zone=us-west4-a --spot --queued \
    --data=gs://BUCKET/corpus -- pretrain --config=configs/pretrain.py:bert_base \
    --config.data=corpus --workdir=gs://BUCKET/runs/base
END
}

fail() {
  printf '%s: error: %s\n' "$ME" "$1" >&2
  exit "${2:-2}"
}

note() { printf '%s: %s\n' "$ME" "$1" >&2; }

# A word as a shell reads it back: bare where it can be, else in single quotes; --flag= stays bare.
quote() {
  local bare='^[A-Za-z0-9_./:=,@%+~-]+$' flag='^(--?[A-Za-z0-9_.-]+=)(.+)$' head='' word=$1
  if [[ $word =~ $bare ]]; then
    printf '%s' "$word"
    return
  fi
  if [[ $word =~ $flag ]]; then
    head=${BASH_REMATCH[1]} word=${BASH_REMATCH[2]}
  fi
  printf "%s'%s'" "$head" "$(printf '%s' "$word" | sed "s/'/'\\\\''/g")"
}

quote_all() {
  local word separator=''
  for word in "$@"; do
    printf '%s%s' "$separator" "$(quote "$word")"
    separator=' '
  done
}

# Shows a command and runs it; with --dry-run only shows it.
execute() {
  if $dry_run; then
    printf '%s\n' "$(quote_all "$@")"
  else
    printf '+ %s\n' "$(quote_all "$@")" >&2
    "$@"
  fi
}

# Sets `kind` (the flags that name the accelerator) and the default of `runtime`.
read_accelerator() {
  local counted='^(v2|v3|v4|v5p)-([1-9][0-9]*)$' lite='^(v5litepod|v6e)-([1-9][0-9]*)$'
  local flat='^(v5e|v6e):(1x1|2x2|2x4|4x4|4x8|8x8|8x16|16x16)$'
  local cube='^(v4|v5p):([1-9][0-9]*x[1-9][0-9]*x[1-9][0-9]*)$'
  local family='' chips='none'
  [ -n "$accelerator" ] ||
    fail "$subcommand needs --accelerator=TYPE, such as v5litepod-16 or v5e:4x4"
  if [[ $accelerator =~ $counted ]] && [ $((BASH_REMATCH[2] % 8)) = 0 ]; then
    family=${BASH_REMATCH[1]} kind=("--accelerator-type=$accelerator")
  elif [[ $accelerator =~ $cube ]]; then
    family=${BASH_REMATCH[1]} kind=("--type=$family" "--topology=${BASH_REMATCH[2]}")
  else
    if [[ $accelerator =~ $lite ]]; then
      family=${BASH_REMATCH[1]} chips=${BASH_REMATCH[2]}
    elif [[ $accelerator =~ $flat ]]; then
      family=${BASH_REMATCH[1]} chips=$((${BASH_REMATCH[2]/x/*}))
      family=${family/#v5e/v5litepod}
    fi
    case "$chips" in
      1 | 4 | 8 | 16 | 32 | 64 | 128 | 256) kind=("--accelerator-type=$family-$chips") ;;
      *) fail "there is no accelerator '$accelerator'; write v5litepod-N or v6e-N with the number \
of chips (1, 4, 8 ... 256), v4-N or v5p-N with that of cores (8, 16 ...), or a topology such as \
v5e:4x4 or v4:2x2x4" ;;
    esac
  fi
  case "$family" in
    v6e) : "${runtime:=v2-alpha-tpuv6e}" ;;
    v5p) : "${runtime:=v2-alpha-tpuv5}" ;;
    v5litepod) : "${runtime:=v2-alpha-tpuv5-lite}" ;;
    *) : "${runtime:=tpu-ubuntu2204-base}" ;;
  esac
}

create() {
  read_accelerator
  local words=("${kind[@]}" ${capacity[@]+"${capacity[@]}"})
  if $queued; then
    if [ "$slices" = 1 ]; then
      words+=("--node-id=$name")
    else
      words+=("--node-count=$slices" "--node-prefix=$name")
    fi
    execute gcloud compute tpus queued-resources create "$name" "${place[@]}" "${words[@]}" \
      "--runtime-version=$runtime" ${create_with[@]+"${create_with[@]}"}
  else
    execute gcloud compute tpus tpu-vm create "$name" "${place[@]}" "${words[@]}" \
      "--version=$runtime" ${create_with[@]+"${create_with[@]}"}
  fi
}

delete() {
  if $queued; then
    execute gcloud compute tpus queued-resources delete "$name" "${place[@]}" --force
  else
    execute gcloud compute tpus tpu-vm delete "$name" "${place[@]}"
  fi
}

# Runs a shell command on the workers that $1 names ('all' or a number).
remote() {
  execute gcloud compute tpus "$group" ssh "$name" "${place[@]}" ${nodes[@]+"${nodes[@]}"} \
    "--worker=$1" ${ssh_with[@]+"${ssh_with[@]}"} "--command=$2"
}

# With $1 = missing, leaves those workers alone where it has succeeded before.
install() {
  local archive=$root/dist/bertjax-source.tar.gz folder=${data%/} source='' what work
  if [ -n "$package" ]; then
    what=$(quote "$package")
  else
    git -C "$root" rev-parse --git-dir >/dev/null 2>&1 ||
      fail "$root is no git clone, so it cannot be copied; name what pip installs by --package=SPEC"
    [ -z "$(git -C "$root" status --porcelain)" ] ||
      note "the newest commit is installed, without the changes that are not committed"
    execute mkdir -p "$root/dist"
    execute git -C "$root" archive --format=tar.gz "--output=$archive" HEAD
    execute gcloud compute tpus "$group" scp "$archive" "$name:" "${place[@]}" \
      ${nodes[@]+"${nodes[@]}"} --worker=all ${ssh_with[@]+"${ssh_with[@]}"}
    source='rm -rf bertjax-source && mkdir bertjax-source && '
    source+='tar -xzf bertjax-source.tar.gz -C bertjax-source && '
    what="'./bertjax-source[tpu,gcs]'"
  fi
  work="{ curl -LsSf https://astral.sh/uv/install.sh | sh && \
~/.local/bin/uv venv --allow-existing --python 3.11 bertjax-env && ${source}\
~/.local/bin/uv pip install --python bertjax-env/bin/python --reinstall-package bertjax $what && "
  [ -z "$data" ] ||
    work+="mkdir -p ${folder##*/} && gcloud storage rsync --recursive $folder ${folder##*/} && "
  work+='touch bertjax-env/installed; }'
  [ "${1:-}" != missing ] || work="{ test -e bertjax-env/installed || $work; }"
  remote all "cd ~ && $work && echo \"\$(hostname): bertjax is installed\""
}

# shellcheck disable=SC2016  # expanded on the worker
readonly RUNNING='[ ! -e exit ] && kill -0 "$(cat pid 2>/dev/null)" 2>/dev/null'

in_bucket() { [[ " ${command[*]}" == *" --workdir=gs://"* ]]; }

# Starts the command where none runs. With $1 = again, a run that goes on is no error.
# The subshell outlives the connection, because it ignores the hang-up, and notes how the run ended.
run() {
  local code=1
  [ "${1:-}" != again ] || code=0
  in_bucket || note "the --workdir is not in a bucket, so it is lost together with the slice"
  remote all "mkdir -p ~/bertjax-run && cd ~/bertjax-run && \
if $RUNNING; then echo \"\$(hostname): a run goes on here already\"; exit $code; fi; \
if [ ! -x ~/bertjax-env/bin/bertjax ]; then \
echo \"\$(hostname): bertjax is not installed here; use install\"; exit 1; fi; \
rm -f exit pid; (trap '' HUP; cd ~; \
PYTHONUNBUFFERED=1 ~/bertjax-env/bin/bertjax $(quote_all "${command[@]}") & \
echo \$! > ~/bertjax-run/pid; wait \$!; echo \$? > ~/bertjax-run/exit) >> log 2>&1 < /dev/null & \
echo \"\$(hostname): started\""
}

status() {
  local state=READY
  if $dry_run; then
    describe
  else
    state=$(slice_state)
    printf '%s: %s\n' "$name" "${state:-there is no such slice}"
  fi
  case "$state" in
    READY | ACTIVE) remote all "mkdir -p ~/bertjax-run && cd ~/bertjax-run && \
if $RUNNING; then echo \"\$(hostname): running\"; \
elif [ -e exit ]; then echo \"\$(hostname): ended with code \$(cat exit)\"; \
else echo \"\$(hostname): nothing runs\"; fi; tail -n 1 log 2>/dev/null || true" ;;
  esac
}

logs() {
  local follow_flag=''
  ! $follow || follow_flag='-F '
  remote "$worker" "tail -n 100 ${follow_flag}~/bertjax-run/log"
}

stop() {
  remote all "cd ~/bertjax-run && if $RUNNING; then kill -TERM \"\$(cat pid)\"; \
echo \"\$(hostname): told to save and end\"; else echo \"\$(hostname): nothing runs\"; fi"
}

describe() {
  if $queued; then
    execute gcloud compute tpus queued-resources describe "$name" "${place[@]}" \
      '--format=value(state.state)'
  else
    execute gcloud compute tpus tpu-vm describe "$name" "${place[@]}" '--format=value(state)'
  fi
}

# Prints the state of the slice, or of the request where it is queued; nothing where there is none.
slice_state() {
  local errors said code=0
  errors=$(mktemp)
  describe 2>"$errors" || code=$?
  said=$(tail -n 1 "$errors")
  if [ "$code" = 0 ] || grep -q NOT_FOUND "$errors"; then
    code=0
  fi
  rm -f "$errors"
  [ "$code" = 0 ] || fail "gcloud cannot tell the state of '$name': $said" 1
}

wait_until_active() {
  local state='' before=''
  if $dry_run; then
    echo "# asks for the state every $POLL_SECONDS seconds until it is ACTIVE"
    return
  fi
  while [ "$state" != ACTIVE ]; do
    state=$(slice_state)
    [ "$state" = "$before" ] || note "the request for '$name' is ${state:-gone}"
    case "$state" in
      '' | FAILED | SUSPENDED)
        fail "the request for '$name' ended without a slice; run resume again" 1
        ;;
      ACTIVE) return ;;
    esac
    before=$state
    sleep "$POLL_SECONDS"
  done
}

resume() {
  local state
  read_accelerator
  in_bucket ||
    fail "resume needs a COMMAND with --workdir=gs://..., because the slice's disk is lost with it"
  if $dry_run; then
    describe
    echo "# as after a preemption; a slice that is there and ready is kept"
    state=PREEMPTED
  else
    state=$(slice_state)
  fi
  case "$state" in
    READY | ACTIVE) ;;
    '') create ;;
    PREEMPTED | TERMINATED | SUSPENDED | FAILED)
      $dry_run || note "'$name' is $state; it is deleted and asked for anew"
      delete
      create
      ;;
    *) $queued || fail "'$name' is $state; run resume again when that is over, or delete it" 1 ;;
  esac
  ! $queued || wait_until_active
  install missing
  run again
}

check_flags() {
  local valid='^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$' number='^(0|[1-9][0-9]{0,5})$'
  [ -n "$name" ] || fail "$subcommand needs the NAME of the slice: tools/tpu.sh $subcommand NAME"
  [[ $name =~ $valid ]] ||
    fail "'$name' is no name for a slice: use lower-case letters, digits and '-', a letter first"
  if ! [[ $slices =~ $number ]] || [ "$slices" = 0 ]; then
    fail "--slices=$slices is not a number from 1 on"
  fi
  [[ $worker =~ $number ]] || fail "--worker=$worker is not the number of a worker"
  [ "$slices" = 1 ] || $queued || fail "--slices=$slices needs --queued"
  [ "${#capacity[@]}" -le 1 ] || fail "give only one of --spot, --preemptible and --reserved"
  if $queued && [ "${capacity[*]-}" = --preemptible ]; then
    fail "queued resources know no --preemptible; use --spot"
  fi
  [[ -z $data || $data =~ ^gs://[A-Za-z0-9_./-]+$ ]] ||
    fail "--data=$data is not of the form gs://BUCKET/FOLDER"
  case "$subcommand" in
    run | resume)
      [ "${#command[@]}" != 0 ] ||
        fail "$subcommand needs the bertjax command after '--', such as: -- pretrain --workdir=..."
      ;;
  esac
}

main() {
  subcommand=${1:-}
  case "$subcommand" in
    '' | -h | --help | help)
      usage
      exit 0
      ;;
  esac
  case " $SUBCOMMANDS " in
    *" $subcommand "*) shift ;;
    *) fail "there is no subcommand '$subcommand'; choose one of: $SUBCOMMANDS" ;;
  esac
  name='' accelerator='' zone='' project='' runtime='' package='' data='' worker=0 slices=1
  dry_run=false queued=false follow=false group=tpu-vm
  capacity=() create_with=() ssh_with=() command=() kind=() place=() nodes=()
  while [ $# -gt 0 ]; do
    case "$1" in
      --accelerator=*) accelerator=${1#*=} ;;
      --zone=*) zone=${1#*=} ;;
      --project=*) project=${1#*=} ;;
      --spot | --preemptible | --reserved) capacity+=("$1") ;;
      --queued) queued=true ;;
      --slices=*) slices=${1#*=} ;;
      --runtime=*) runtime=${1#*=} ;;
      --package=*) package=${1#*=} ;;
      --data=*) data=${1#*=} ;;
      --worker=*) worker=${1#*=} ;;
      --follow) follow=true ;;
      --create-with=*) create_with+=("${1#*=}") ;;
      --ssh-with=*) ssh_with+=("${1#*=}") ;;
      --dry-run) dry_run=true ;;
      -h | --help)
        usage
        exit 0
        ;;
      --)
        shift
        command=("$@")
        break
        ;;
      -*) fail "there is no flag '$1'; 'tools/tpu.sh --help' lists them, written --name=value" ;;
      *)
        [ -z "$name" ] || fail "'$1' is too many after '$name'; the bertjax command follows '--'"
        name=$1
        ;;
    esac
    shift
  done
  [ "${command[0]-}" != bertjax ] || command=("${command[@]:1}")
  check_flags
  place=(--quiet)
  [ -z "$project" ] || place+=("--project=$project")
  [ -z "$zone" ] || place+=("--zone=$zone")
  if [ "$slices" != 1 ]; then
    group=queued-resources nodes=(--node=all)
  fi
  $dry_run || command -v gcloud >/dev/null ||
    fail "gcloud is not installed; see https://cloud.google.com/sdk/docs/install"
  "$subcommand"
}

main "$@"
