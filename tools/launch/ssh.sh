#!/usr/bin/env bash
# Train on machines that are reached by ssh, from one that is not among them; what follows the hosts goes to roma/train.py:
#
#   HOSTS="node-a node-b" tools/launch/ssh.sh --preset roma-multi --infrared '/data/lite/city/infrared-train/*.tar' \
#       --visible '/data/lite/city/visible-train/*.tar' --out /data/runs/city --set vit.weights=/data/vit.safetensors
#
# This machine keeps the rendezvous and starts a torchrun on each host; one that ends badly, or whose host is lost, is started again as
# soon as the host answers, and the run goes on from its newest checkpoint. Ctrl-C or SIGTERM here ends the run with a checkpoint.
# Needs: ssh without passwords, the checkout in the same folder on all hosts, shards and --out on a file system that all share.
set -euo pipefail

: "${HOSTS:?set HOSTS to the machines that train, as in HOSTS=\"node-a node-b\"}"
ADDRESS=${ADDRESS:-$(hostname -f)}       # of this machine, as the hosts reach it
PORT=${PORT:-29400}
FOLDER=${FOLDER:-$PWD}                   # the checkout on the hosts
PYTHON=${PYTHON:-.venv/bin/python}       # from there
PROCESSES=${PROCESSES:-gpu}              # per host: one for each GPU, or a number
MIN_HOSTS=${MIN_HOSTS:-$(wc -w <<<"$HOSTS")}   # fewer lets the run go on without the hosts that are lost
RETRY_S=${RETRY_S:-10}
MAX_STARTS=${MAX_STARTS:-100}            # of each host's torchrun
SSH=${SSH:-ssh -o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=10 -o ServerAliveCountMax=3}

run_id=roma-$(date +%s)-$$
num_hosts=$(wc -w <<<"$HOSTS")
nodes=$num_hosts
[ "$MIN_HOSTS" -eq "$num_hosts" ] || nodes="$MIN_HOSTS:$num_hosts"
train=$(printf '%q ' roma/train.py "$@")

state=$(mktemp -d)    # here: for each host the folder that is its own there, and whether the run is to stop
stopping=$state/.stopping

# A new folder on a host, or the one from before; nobody else there can know its name, or put into it the number of a process to kill.
claim_folder() {
    local host=$1 before=''
    [ ! -e "$state/$host" ] || before=$(<"$state/$host")
    $SSH "$host" "{ [ -n '$before' ] && [ -O '$before' ] && echo '$before'; } || mktemp -d" | tail -n 1 >"$state/$host.new" &&
        mv "$state/$host.new" "$state/$host"
}

# What a host runs, in this order: end what an earlier, broken connection left; find the address that faces this machine; train.
# The number of the process is kept, so that it can be told to stop: a signal to ssh here would not reach it.
remote() {
    cat <<END
cd $(printf '%q' "$FOLDER") || exit 1
kept=$2/pid
old=\$(cat "\$kept" 2>/dev/null) && grep -q "$run_id" "/proc/\$old/cmdline" 2>/dev/null && {
    kill -TERM "\$old"
    for _ in \$(seq 60); do kill -0 "\$old" 2>/dev/null || break; sleep 1; done
    kill -KILL "\$old" 2>/dev/null
}
echo \$\$ >"\$kept"
address=\$($PYTHON -c 'import socket, sys
probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
probe.connect((sys.argv[1], 9))
print(probe.getsockname()[0])' "$ADDRESS") || exit 1
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
exec $PYTHON -m torch.distributed.run --nnodes=$nodes --nproc-per-node=$PROCESSES --max-restarts=100 \
    --rdzv-backend=c10d --rdzv-endpoint=$ADDRESS:$PORT --rdzv-id=$run_id \
    --rdzv-conf=is_host=0,join_timeout=1800,last_call_timeout=15 --local-addr="\$address" $train
END
}

train_on() {
    local host=$1 code
    for ((start = 1; start <= MAX_STARTS; start++)); do
        code=0
        { claim_folder "$host" && $SSH "$host" "$(remote "$host" "$(<"$state/$host")")"; } || code=$?
        if [ "$code" -eq 0 ] || [ -e "$stopping" ]; then
            return "$code"
        fi
        echo "$host: ended with exit code $code; starting again in $RETRY_S s" >&2
        sleep "$RETRY_S"
    done
    return "$code"
}

stop() {
    touch "$stopping"
    for host in $HOSTS; do
        [ ! -e "$state/$host" ] || $SSH "$host" "kill -TERM \$(cat $(<"$state/$host")/pid)" || true
    done
}

"$PYTHON" tools/rendezvous.py --port "$PORT" &
store=$!
trap 'kill "$store" 2>/dev/null; rm -rf "$state"' EXIT
trap stop INT TERM
declare -A loops
for host in $HOSTS; do
    train_on "$host" </dev/null &
    loops[$host]=$!
done

worst=0
for host in $HOSTS; do
    code=0
    wait "${loops[$host]}" || code=$?
    while [ "$code" -gt 128 ] && kill -0 "${loops[$host]}" 2>/dev/null; do  # a signal ended the wait, not the loop
        code=0
        wait "${loops[$host]}" || code=$?
    done
    [ "$code" -eq 0 ] || { echo "$host: ended with exit code $code" >&2; worst=$code; }
done
for host in $HOSTS; do
    [ ! -e "$state/$host" ] || $SSH "$host" "rm -rf '$(<"$state/$host")'" || true
done
exit "$worst"
