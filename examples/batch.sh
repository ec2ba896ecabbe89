#!/bin/sh
# Every photo of a folder in the style of every painting of another: batch.sh PHOTOS PAINTINGS RESULTS [OPTION...]
set -u; trap 'exit 130' INT
photos=$1 paintings=$2 results=$3 failed=0
shift 3
for painting in "$paintings"/*; do
    name=$(basename "${painting%.*}")
    hicast stylize-image "$photos" --style "$painting" --output "$results/$name" --skip-existing "$@" || failed=1
done
exit $failed
