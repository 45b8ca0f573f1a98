#!/usr/bin/env bash
# Four processes on two "hosts", which are two network namespaces joined by a cable of
# their own, against one process: every operator, estimator and run. Needs root and
# iproute2.
#
#     benchmarks/two_hosts.sh [PYTHON]
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(realpath -s "${1:-.venv/bin/python}")
id=$$
first="eigen-a-$id" second="eigen-b-$id"
work=$(mktemp -d)
clean_up() {
  ip netns pids "$first" 2>/dev/null | xargs -r kill 2>/dev/null || true
  ip netns pids "$second" 2>/dev/null | xargs -r kill 2>/dev/null || true
  ip netns del "$first" 2>/dev/null || true
  ip netns del "$second" 2>/dev/null || true
  rm -rf "$work"
}
trap clean_up EXIT

ip netns add "$first"
ip netns add "$second"
ip link add cable netns "$first" type veth peer name cable netns "$second"
ip -n "$first" addr add 10.77.0.1/24 dev cable
ip -n "$second" addr add 10.77.0.2/24 dev cable
for host in "$first" "$second"; do
  ip -n "$host" link set lo up
  ip -n "$host" link set cable up
done

export PYTHONPATH="src:tests:${PYTHONPATH:-}" OMP_NUM_THREADS=1 GLOO_SOCKET_IFNAME=cable
launch() { # namespace, number of the host
  ip netns exec "$1" "$python" -m torch.distributed.run \
    --nnodes 2 --nproc-per-node 2 --node-rank "$2" \
    --master-addr 10.77.0.1 --master-port 29400 benchmarks/two_hosts.py "$work"
}
launch "$first" 0 &
launch "$second" 1
wait $!
