#!/usr/bin/env bash
# A whole Slurm on this machine, for tests: munged, slurmctld and slurmd from Debian's or Ubuntu's packages (slurm-wlm, munge). Needs root.
#   scripts/slurm_single_node.sh start | stop | status
# Everything it writes is in $SLURM_TEST_DIR (default /tmp/panscreen-slurm). `start` prints the line that lets Slurm's commands find it.
set -euo pipefail
dir=${SLURM_TEST_DIR:-/tmp/panscreen-slurm}
conf=$dir/slurm.conf

skip() {
    echo "SKIPPED: no Slurm here: $*" >&2
    exit 69
}

# Ask every daemon to end, and wait until it has: a new one needs its port. A number that was left behind may be somebody else's process by now.
stop() {
    for daemon in slurmd slurmctld munged; do
        pid=$(cat "$dir/$daemon.pid" 2>/dev/null) || continue
        [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$daemon" ] || continue
        kill "$pid" || true
        for _ in $(seq 100); do
            # A zombie has no executable.
            [ -e "/proc/$pid/exe" ] || break
            sleep 0.1
        done
    done
}

start() {
    [ "$(id -u)" = 0 ] || skip "it must be started as root"
    if ! command -v slurmctld >/dev/null || ! command -v munged >/dev/null; then
        command -v apt-get >/dev/null || skip "slurmctld is missing, and so is apt-get"
        apt-get -o Acquire::http::Timeout=15 -o Acquire::Retries=0 update -qq >&2 &&
            DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge >&2 ||
            skip "apt-get can't install slurm-wlm and munge"
    fi
    if [ -e "$dir" ] && [ ! -e "$conf" ]; then
        echo "error: $dir is there and is no folder of this script; set SLURM_TEST_DIR to another one" >&2
        exit 2
    fi
    stop
    rm -rf "$dir"
    mkdir -p "$dir"/{state,spool,munge}
    : >"$conf"
    dd if=/dev/urandom of="$dir/munge/key" bs=1024 count=1 2>/dev/null
    chmod 700 "$dir/munge"
    chmod 400 "$dir/munge/key"
    host=$(hostname -s)
    cores=$(nproc)
    cat >"$conf" <<CONF
ClusterName=panscreen
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=36817
SlurmdPort=36818
AuthType=auth/munge
AuthInfo=socket=$dir/munge/socket
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
SchedulerParameters=sched_interval=1,batch_sched_delay=0,sched_min_interval=100000
MinJobAge=10
KillWait=20
JobAcctGatherType=jobacct_gather/none
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cores State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
    # For containers, where control groups can't be made; versions before 24 neither need nor know it.
    case $(slurmctld -V) in
        *' 2'[4-9].*) printf 'CgroupPlugin=disabled\n' >"$dir/cgroup.conf" ;;
    esac
    munged --force --key-file="$dir/munge/key" --socket="$dir/munge/socket" --pid-file="$dir/munged.pid" --log-file="$dir/munge/log" \
        --seed-file="$dir/munge/seed" || skip "munged does not start, see $dir/munge/log"
    SLURM_CONF=$conf slurmctld -c || skip "slurmctld does not start, see $dir/slurmctld.log"
    SLURM_CONF=$conf slurmd -N "$host" || skip "slurmd does not start, see $dir/slurmd.log"
    for _ in $(seq 60); do
        if SLURM_CONF=$conf sinfo --noheader --format=%T 2>/dev/null | grep -q idle; then
            echo "export SLURM_CONF=$conf"
            return
        fi
        sleep 0.5
    done
    tail -5 "$dir/slurmctld.log" "$dir/slurmd.log" >&2 || true
    stop
    skip "the node does not become idle in 30 s"
}

case ${1:-} in
    start) start ;;
    stop) stop ;;
    status) SLURM_CONF=$conf sinfo && SLURM_CONF=$conf squeue ;;
    *)
        echo "usage: $0 start | stop | status" >&2
        exit 2
        ;;
esac
