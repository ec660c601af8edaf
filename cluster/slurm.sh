#!/bin/bash
# One Ray cluster on the nodes of a Slurm job, and one command on it. Submit it from the repository's root:
#
#   sbatch --nodes=2 --cpus-per-task=16 --time=12:00:00 cluster/slurm.sh \
#       python jobs/embed.py --manifest manifest.jsonl --store /shared/store
#
# Submit the same job again to resume after a failure or at the end of its time. Manifest, recordings, store and run
# folder must be on a file system that all nodes share.
#SBATCH --job-name=hilbert-ray
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
set -euo pipefail

if [ $# -eq 0 ]; then
    echo "usage: sbatch cluster/slurm.sh COMMAND..." >&2
    exit 2
fi

nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes%%$'\n'*}
port=$((20000 + SLURM_JOB_ID % 20000)) # another for each job, as jobs may follow each other on a node
# Sockets of Ray are below it, whose paths must be short: TMPDIR of Slurm often is too long.
export RAY_TMPDIR=${RAY_TMPDIR:-/tmp}
# Nodes and command share one token, which the environment of the job's steps hands on.
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN
export RAY_ADDRESS=$head:$port

# On every node: it starts Ray there, runs the command on the first one when all have joined, and ends with it.
exec srun --export=ALL --kill-on-bad-exit=1 ray symmetric-run --address "$RAY_ADDRESS" \
    --min-nodes "$SLURM_JOB_NUM_NODES" --num-cpus "${SLURM_CPUS_PER_TASK:-$(nproc)}" -- "$@"
