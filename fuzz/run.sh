#!/usr/bin/env bash
# Runs every fuzz target that was built: fuzz/run.sh FOLDER_OF_TARGETS SECONDS_EACH. Fails at the first crash, leak,
# undefined behaviour, or input that takes 10 s or 2 GiB; the input is then left in the folder of targets.
set -euo pipefail
folder=$(realpath "$1")
corpus=$(realpath "$(dirname "$0")/corpus")
cd "$folder"
for target in fuzz_*; do
    [[ -f $target && -x $target ]] || continue
    mkdir -p "found/$target"
    log=$target.log
    if ! "./$target" -max_total_time="$2" -timeout=10 -rss_limit_mb=2048 -seed=1 -print_final_stats=1 \
        "found/$target" "$corpus/${target#fuzz_}" >"$log" 2>&1; then
        tail -n 60 "$log"
        echo "$target failed; its log is $folder/$log"
        exit 1
    fi
    echo "$target: $(grep -oE 'Done [0-9]+ runs' "$log")"
done
