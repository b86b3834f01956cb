#!/usr/bin/env bash
# Takes containerd, Podman and Docker through runc and through lighter-runtime, and prints the results
# side by side (also in target/oci/table.md). With an argument, through that runtime alone.
#
# usage: tests/oci.sh [RUNTIME]
set -euo pipefail
cd "$(dirname "$0")/.."

report=$PWD/target/oci
rm -rf "$report"
mkdir -p "$report"
failed=0
through() {
    echo "== through ${1:-lighter-runtime}"
    if [ -n "$1" ]; then export RUNTIME=$1; else unset RUNTIME; fi
    LIGHTER_OCI_REPORT=$report cargo nextest run --locked -p tests -E 'test(/^oci::/)' || failed=1
}
if [ $# -gt 0 ]; then
    through "$1"
else
    through runc
    through ""
fi

cd "$report"
awk -F'\t' '
    FNR == 1 {
        file = FILENAME
        sub(/[.]tsv$/, "", file)
        files[++columns] = file
        title = file
        sub(/[.]/, ", ", title)
        head = head " " title " |"
        line = line "---|"
    }
    !($1 in seen) { seen[$1] = 1; names[++rows] = $1 }
    { cell[$1, file] = $2 }
    END {
        print "| Case |" head
        print "|---|" line
        for (row = 1; row <= rows; row++) {
            text = "| " names[row] " |"
            for (column = 1; column <= columns; column++) {
                value = cell[names[row], files[column]]
                text = text " " (value == "" ? "–" : value) " |"
            }
            print text
        }
    }' containerd.*.tsv podman.*.tsv docker.*.tsv docker-userns.*.tsv | tee table.md
exit "$failed"
