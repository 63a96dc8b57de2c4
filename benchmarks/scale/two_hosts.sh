#!/bin/bash
# A compress run of the bundled teacher on two "hosts": network namespaces of this machine, joined by a cable, with two
# processes each under `accelerate launch` and FSDP2. Then the same, with the second host killed in the distillation
# and one process, unsharded, that goes on. Both must end with the losses of a run by one process.
# Needs Linux, root and iproute2. `benchmarks/scale/two_hosts.sh [FOLDER]`, from the root of the repository, in the
# environment of `make test`; a few minutes on two cores.
set -euo pipefail
root=$(pwd)
folder=${1:-$(mktemp -d)}
trap 'ip netns del niwaki-a; ip netns del niwaki-b' EXIT
ip netns add niwaki-a
ip netns add niwaki-b
ip link add cable-a netns niwaki-a type veth peer name cable-b netns niwaki-b
for host in a b; do
    ip -n niwaki-$host addr add 10.9.0.$([ $host = a ] && echo 1 || echo 2)/24 dev cable-$host
    ip -n niwaki-$host link set lo up
    ip -n niwaki-$host link set cable-$host up
done

cat > "$folder/recipe.yaml" <<'RECIPE'
kind: compress
teacher: sapling
data: {source: stdlib, sequence_length_tokens: 128}
score: {num_samples: 16}
choose: {to: 50%, rank: loss, max_candidates: 2}
depth: {num_samples: 8}
distill: {tokens: 16k, batch_tokens: 1024, micro_rows: 1, precision: float32, save_every_steps: 4}
evaluate: {num_tokens: 4k, tasks: [], speed: false}
RECIPE

on_host() { # host, number, run directory
    ip netns exec niwaki-$1 env GLOO_SOCKET_IFNAME=cable-$1 OMP_NUM_THREADS=1 \
        accelerate launch --config_file "$root/recipes/launch/fsdp2-nodes.yaml" --num_machines 2 --num_processes 4 \
        --machine_rank $2 --main_process_ip 10.9.0.1 -m niwaki run "$folder/recipe.yaml" --out "$folder/$3"
}
losses() {
    python -c "import json, sys; print(sys.argv[2], [round(r['loss'], 5) for r in map(json.loads, open(sys.argv[1])) if 'loss' in r])" \
        "$folder/$1/4-distill/metrics.jsonl" "$1"
}

niwaki run "$folder/recipe.yaml" --out "$folder/alone" > /dev/null 2>&1
on_host b 1 two-hosts > /dev/null 2>&1 &
on_host a 0 two-hosts > /dev/null 2>&1
wait

on_host b 1 killed > /dev/null 2>&1 &
on_host a 0 killed > "$folder/killed.log" 2>&1 &
until ls -d "$folder"/killed/4-distill/checkpoints/step-* > /dev/null 2>&1; do sleep 1; done
ip netns pids niwaki-b | xargs kill -9
wait || true
grep -m 1 "Another process of the run ended" "$folder/killed.log"
niwaki run "$folder/recipe.yaml" --out "$folder/killed" > /dev/null 2>&1

for run in alone two-hosts killed; do losses $run; done
