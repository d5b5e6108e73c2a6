#!/usr/bin/env bash
# Builds real servers for the tests into .servers/, from package registries alone: one folder of
# recipes/ a server, with its pinned versions. What is there already is not built again.
# One line a server says what happened. The exit status is that of the collector: it is the one
# that every machine with Go can have; tests of the others are skipped where they are missing.
set -euo pipefail
cd "$(dirname "$0")/recipes"
into=$(cd ../../.. && pwd)/.servers
mkdir -p "$into"

# The line of a log that says why: the first that names an error, or else the last.
reason() {
    { grep -m 1 -iE 'error|forbidden|not installed|cannot' "$1" || tail -n 1 "$1"; } | cut -c 1-300
}

# install NAME: runs recipes/NAME/build.sh in a copy of its folder; the server is what it leaves in out/.
install() {
    local name=$1 recipe work=$into/$1.building log=$into/$1.log
    recipe=$(cat "$name"/* | sha256sum)
    if [ "$(cat "$into/$name/recipe" 2> /dev/null)" = "$recipe" ]; then
        echo "$name: installed"
        return
    fi
    rm -rf "$work" "${into:?}/$name"
    cp -r "$name" "$work"
    mkdir "$work/out"
    SECONDS=0
    if (cd "$work" && timeout 1200 bash build.sh) > "$log" 2>&1 < /dev/null; then
        echo "$recipe" > "$work/out/recipe"
        mv "$work/out" "$into/$name"
        echo "$name: built in $SECONDS s, $(du -sh "$into/$name" | cut -f 1)"
    else
        echo "$name: not installed: $(reason "$log") (all of it: $log)"
    fi
    rm -rf "$work"
}

for name in collector victoria_logs versitygw minio s3proxy opensearch loki; do
    install "$name"
done
test -e "$into/collector/recipe"
