#!/usr/bin/env bash
# Times `mnemo data prepare` (bytes and SentencePiece) beside spm_encode alone, on the same text with
# the same model. Prints JSON.
#
#   tests/bench/data/prepare_benchmark.sh MNEMO [DIRECTORY_OF_TEXT] [REPEATS]
#
# The text is every *.h below the directory (default /usr/include), made valid UTF-8, as one file for
# spm_encode and as the same files for mnemo. Each figure is the best of REPEATS (default 3) after one
# run that warms the page cache; output goes to a memory disk where there is one. spm_encode has one
# thread, so for all cores one process a core runs on an equal part of the text.
set -euo pipefail

command -v spm_encode >/dev/null || {
  echo "prepare_benchmark: error: there is no spm_encode: install the package sentencepiece" >&2
  exit 1
}
mnemo=$(realpath "$1")
text=${2:-/usr/include}
repeats=${3:-3}
cores=$(nproc)
work=$(mktemp -d -p "$([ -w /dev/shm ] && echo /dev/shm || echo /tmp)" mnemo_bench_XXXXXX)
trap 'rm -rf "$work"' EXIT

# The same files for both, in valid UTF-8.
mkdir "$work/text"
(cd "$text" && find . -type f -name '*.h' -print0) >"$work/list"
tar -C "$text" --null -T "$work/list" -cf - | tar -C "$work/text" -xf -
find "$work/text" -type f -print0 | while IFS= read -r -d '' file; do
  iconv -f utf-8 -t utf-8 "$file" >/dev/null 2>&1 || iconv -c -f utf-8 -t utf-8 "$file" -o "$file.u" ||
    true
  if [ -f "$file.u" ]; then mv "$file.u" "$file"; fi
done
find "$work/text" -type f -print0 | LC_ALL=C sort -z | xargs -0 cat >"$work/all.txt"
split -n "l/$cores" "$work/all.txt" "$work/part."
bytes=$(stat -c %s "$work/all.txt")
files=$(find "$work/text" -type f | wc -l)

now() { date +%s.%N; }
# quietly COMMAND...: without its output, unless it fails.
quietly() {
  "$@" >"$work/output" 2>&1 && return
  echo "prepare_benchmark: error: '$*' failed:" >&2
  cat "$work/output" >&2
  return 1
}
# best COMMAND...: MB/s of the fastest of the repeats.
best() {
  quietly "$@" || return
  local fastest=1e9 begin end
  for _ in $(seq "$repeats"); do
    begin=$(now)
    quietly "$@" || return
    end=$(now)
    fastest=$(awk -v a="$begin" -v b="$end" -v f="$fastest" 'BEGIN{t=b-a; print t<f ? t : f}')
  done
  awk -v n="$bytes" -v t="$fastest" 'BEGIN{printf "%.1f", n / 1e6 / t}'
}
prepare() {
  rm -rf "$work/out" || return
  "$mnemo" data prepare --quiet --out "$work/out" "$@"
}
spm_one() { spm_encode --model="$work/model" --output_format=id --input="$work/all.txt" --output=/dev/null; }
spm_all() {
  local part pid pids=()
  for part in "$work"/part.*; do
    spm_encode --model="$work/model" --output_format=id --input="$part" --output=/dev/null &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid" || return; done
}

"$mnemo" data prepare --quiet --tokenizer sentencepiece --vocabulary 8192 --out "$work/trained" \
  "$work/text" >/dev/null
cp "$work/trained/tokenizer.model" "$work/model"
given=(--tokenizer sentencepiece --tokenizer-model "$work/model")

prepare_bytes_1_thread=$(best prepare "$work/text" --threads 1)
prepare_bytes_all_cores=$(best prepare "$work/text")
prepare_sentencepiece_1_thread=$(best prepare "$work/text" "${given[@]}" --threads 1)
prepare_sentencepiece_all_cores=$(best prepare "$work/text" "${given[@]}")
spm_encode_1_process=$(best spm_one)
spm_encode_one_process_a_core=$(best spm_all)

cat <<JSON
{
  "benchmark": "data_prepare",
  "date": "$(date -u +%F)",
  "version": "$("$mnemo" --version)",
  "command": "tests/bench/data/prepare_benchmark.sh MNEMO $text $repeats",
  "machine": "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1), $cores cores",
  "sentencepiece": "$(spm_encode --version 2>&1 | head -1)",
  "text_bytes": $bytes,
  "files": $files,
  "vocabulary": 8192,
  "unit": "MB of text per second",
  "results": {
    "prepare_bytes_1_thread": $prepare_bytes_1_thread,
    "prepare_bytes_all_cores": $prepare_bytes_all_cores,
    "prepare_sentencepiece_1_thread": $prepare_sentencepiece_1_thread,
    "prepare_sentencepiece_all_cores": $prepare_sentencepiece_all_cores,
    "spm_encode_1_process": $spm_encode_1_process,
    "spm_encode_one_process_a_core": $spm_encode_one_process_a_core
  }
}
JSON
