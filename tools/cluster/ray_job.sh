#!/usr/bin/env bash
# Extraction on a Ray cluster: the parts of a plan that are outstanding, then the merge. What follows is the plan's folder, from /,
# or its URL:
#
#   export RAY_API_SERVER_ADDRESS=http://HEAD:8265
#   tools/cluster/ray_job.sh /data/shards
#
# Needs: pip install 'ray[default]' here, infraredcity[extract,ray] with the same versions on all nodes, and a folder that all of them
# see, or a URL. Again does no harm: it goes on where it stopped. Ctrl-C here stops no job; ray job stop does.
#
# Packages: best in the image of the nodes. Else RUNTIME_ENV='{"pip": ["infraredcity[extract,ray,s3] @ URL_OF_THE_WHEEL", "av==VERSION"]}'
# has each node install them. Credentials of an object store belong into the environment of the nodes or their role: a runtime
# environment is shown to whoever sees the dashboard. TMPDIR of the nodes takes a shard for each task where FOLDER is a URL.
set -euo pipefail

folder=${1:?which plan? tools/cluster/ray_job.sh FOLDER}
RUNTIME_ENV=${RUNTIME_ENV:-"{}"}

submit() {
    ray job submit --runtime-env-json "$RUNTIME_ENV" -- "$@"
}

submit infraredcity extract --plan "${folder%/}/plan.jsonl" --executor ray
submit infraredcity finalize "$folder"
