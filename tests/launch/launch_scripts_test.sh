#!/usr/bin/env bash
# The scripts of launch/: their help, what they say to mistakes, and what they share. Builds nothing.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../launch/common.sh"

scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT

# expect_error WORDS COMMAND...: fails, and says WORDS on standard error.
expect_error() {
  local words="$1"
  shift
  if "$@" >/dev/null 2>"$scratch/error"; then die "'$*' does not fail"; fi
  grep -qF -- "$words" "$scratch/error" ||
    die "'$*' says '$(cat "$scratch/error")', not '$words'"
}

for script in bundle fuzz gpu_check install kill_study long_sequence quickstart recall_study test; do
  help="$(cd "$scratch" && "$root/launch/$script.sh" --help)"
  [[ "$help" == *"launch/$script.sh ["* ]] || die "the help of $script.sh has no usage: $help"
  [[ "$help" != *"set -euo"* ]] || die "the help of $script.sh has code in it"
  expect_error "$script: error: unknown option --nonsense" "$root/launch/$script.sh" --nonsense x
done
for script in local mpirun; do
  help="$("$root/launch/$script.sh" --help)"
  [[ "$help" == *"launch/$script.sh CONFIG"* ]] || die "the help of $script.sh has no usage: $help"
done
config="$root/configs/tiny_lmm.textproto"
expect_error "how many ranks? name them with -n N" "$root/launch/local.sh" "$config"
expect_error "-n needs the number of ranks" "$root/launch/local.sh" "$config" -n many
expect_error "which configuration?" env MNEMO=true "$root/launch/local.sh" -n 2
expect_error "there is no configuration $scratch/none" "$root/launch/local.sh" "$scratch/none" -n 2
expect_error "one configuration only" "$root/launch/local.sh" "$config" "$config"
expect_error "--shards needs a value" "$root/launch/local.sh" "$config" -n 2 --shards
expect_error "no $scratch/mnemo; build first" \
  env MNEMO="$scratch/mnemo" "$root/launch/local.sh" "$config" -n 2
expect_error "which hosts? name a file with --hostfile" "$root/launch/mpirun.sh" "$config"
expect_error "there is no hostfile $scratch/none" \
  "$root/launch/mpirun.sh" "$config" --hostfile "$scratch/none"
printf '# none\n\n' >"$scratch/hosts"
expect_error "names no host" "$root/launch/mpirun.sh" "$config" --hostfile "$scratch/hosts"
printf 'a slots=2 # two\nb slots = 3 max_slots=4\nc\n' >"$scratch/hosts"
expect_error "-n 7, but $scratch/hosts has 6 slots" \
  "$root/launch/mpirun.sh" "$config" --hostfile "$scratch/hosts" -n 7
expect_error "there is no file or directory $scratch/none" \
  "$root/launch/quickstart.sh" "$scratch/none"
expect_error "there is no build folder $scratch/none" "$root/launch/bundle.sh" --build "$scratch/none"
expect_error "$scratch is no build folder" "$root/launch/bundle.sh" --build "$scratch"
expect_error "--out needs a value" "$root/launch/gpu_check.sh" --out
expect_error "no stage nonsense; there are: scan ops" "$root/launch/gpu_check.sh" --only ops,nonsense
expect_error "--n needs a number from 1 on" "$root/launch/kill_study.sh" --n none
expect_error "--set needs PATH=VALUE" "$root/launch/kill_study.sh" --set execution.device
expect_error "there is no target nonsense" "$root/launch/fuzz.sh" nonsense
expect_error "--with needs a package" "$root/launch/install.sh" --with
expect_error "-L needs a label" "$root/launch/test.sh" -L
expect_error "give either --all or -L" "$root/launch/test.sh" --all -L quick
expect_error "no test has the label quik; there are: " "$root/launch/test.sh" -L quik
labels="$(sed -n 's/.*the label quik; there are: //p' "$scratch/error")"
(($(wc -w <<<"$labels") > 8)) || die "test.sh knows few labels: $labels"
for label in $labels; do
  "$root/launch/test.sh" --help | grep -qE "[ ,]$label(,|\$)" || die "test.sh --help lacks $label"
  grep -qF "| \`$label\` |" "$root/docs/contributing.md" || die "contributing.md lacks $label"
done
expect_error "install the package sentencepiece" \
  env PATH="$scratch" "$BASH" "$root/tests/bench/data/prepare_benchmark.sh" mnemo

# A machine that lacks two packages, and notes what is asked of its package manager.
mkdir "$scratch/bin"
cat >"$scratch/bin/dpkg-query" <<'END'
#!/usr/bin/env bash
[[ "${*: -1}" != ninja-build && "${*: -1}" != libhdf5-dev ]] && printf 'install ok installed'
END
printf '#!/usr/bin/env bash\nprintf "%%s\\n" "$*" >>"%s"\n' "$scratch/apt" >"$scratch/bin/apt-get"
printf '#!/usr/bin/env bash\nexec "$@"\n' >"$scratch/bin/sudo"
chmod +x "$scratch"/bin/*
expect_error "apt-get install --no-install-recommends ninja-build libhdf5-dev" \
  env PATH="$scratch/bin:$PATH" "$root/launch/install.sh" --no-install
[[ ! -e "$scratch/apt" ]] || die "--no-install installs"
PATH="$scratch/bin:$PATH" "$root/launch/install.sh" >"$scratch/said"
[[ "$(head -n 1 "$scratch/said")" == "install: installing: ninja-build libhdf5-dev" ]] ||
  die "install.sh does not say first what it installs: $(cat "$scratch/said")"
want="install -q -y --no-install-recommends ninja-build libhdf5-dev"
[[ "$(tail -n 1 "$scratch/apt")" == "$want" ]] || die "install.sh asks for: $(cat "$scratch/apt")"

# The recall study with a program that trains nothing: it writes a result with the report of two
# steps, and notes how it was called.
cat >"$scratch/mnemo" <<'END'
#!/usr/bin/env bash
printf '%s\n' "$*" >>"$(dirname "$0")/calls"
while [[ "$1" != --json ]]; do shift; done
printf '%s\n' '{"limit_seconds": 7, "reports": [' '{"accuracy": 0.25, "seconds": 1.5, "step": 100},' \
  '{"accuracy": 0.5, "seconds": 2.5, "step": 200}' ']}' >"$2"
[[ ! -e "$(dirname "$0")/fail" ]]
END
chmod +x "$scratch/mnemo"
study() { MNEMO="$scratch/mnemo" "$root/launch/recall_study.sh" --out "$scratch/study" "$@"; }
cell=lmm_chunk16_momentum-true_t256_seed
study --cells 2 --steps 200 --set model.layers=1 >"$scratch/table"
grep -qE "^${cell}1 +200 +0\.500 +2\.5\$" "$scratch/table" ||
  die "the study's table: $(cat "$scratch/table")"
(($(grep -cE "^${cell}[0-9] " "$scratch/table") == 2)) || die "not two cells: $(cat "$scratch/table")"
for words in --length\ 256 --steps\ 200 train.seed=2 model.memory.chunk=16 model.layers=1; do
  tail -n 1 "$scratch/calls" | grep -qF -- "$words" || die "a cell is trained without $words"
done
# What is there stays; a cell that fails, even with half a result, is not there.
touch "$scratch/fail"
if study >"$scratch/table"; then die "a cell that fails goes unnoticed"; fi
[[ ! -e "$scratch/study/${cell}3.json" ]] || die "a cell that failed counts as done"
rm "$scratch/fail"
study >"$scratch/table"
(($(wc -l <"$scratch/calls") == 4)) || die "cells are made again: $(cat "$scratch/calls")"
tail -n 1 "$scratch/calls" | grep -qF train.seed=3 || die "the study does not go on"
(($(grep -cE "^${cell}[0-9] " "$scratch/table") == 3)) || die "not three: $(cat "$scratch/table")"
study --cells 0 >"$scratch/table"
(($(wc -l <"$scratch/calls") == 4)) || die "a table alone trains"
# Several at once, with limits; the last line says how many are there.
expect_error "--budget needs --seconds" study --budget 100
expect_error "--jobs needs a whole number, not 'x'" study --jobs x
study --cells 7 --jobs 3 --gpus 2 --seconds 30 >"$scratch/table"
[[ "$(tail -n 1 "$scratch/table")" == "recall_study: 10 of 48 cells" ]] ||
  die "not ten cells: $(cat "$scratch/table")"
tail -n 1 "$scratch/calls" | grep -qF -- "--seconds 30" || die "a cell has no limit"
tail -n 1 "$scratch/calls" | grep -qF execution.threads= || die "cells share no cores"
study --cells all --seconds 30 --budget 40 >"$scratch/table" 2>&1
(($(wc -l <"$scratch/calls") == 11)) || die "a cell begins that may not end in time"
study --cells all --jobs 2 >"$scratch/table"
[[ "$(tail -n 1 "$scratch/table")" == "recall_study: 48 of 48 cells" ]] ||
  die "not all cells: $(tail -n 1 "$scratch/table")"
# All of it in one file and a table, and back; cells of other names in the file stay.
tabulate() { python3 "$root/tests/bench/recall/table.py" "$@"; }
printf '{"cells": [{"name": "other", "reports": []}]}' >"$scratch/recall.json"
tabulate "$scratch/study" --json "$scratch/recall.json" --expect 48 >"$scratch/table"
grep -qF '| 1,024 | MAG | 64 | no | 0.500 (200) | 0.500 (200) | 0.500 (200) |' "$scratch/table" ||
  die "the study's Markdown: $(cat "$scratch/table")"
tabulate "$scratch/again" --restore "$scratch/recall.json" >"$scratch/table"
diff <(cd "$scratch/study" && ls -- *.json) <(cd "$scratch/again" && ls) ||
  die "cells are lost between the study and one file"
grep -qF '"other"' "$scratch/recall.json" || die "other cells are lost"
rm "$scratch/again/${cell}1.json"
expect_error "47 of 48 cells" tabulate "$scratch/again" --expect 48

# Lines enough to fill any pipe: who reads only the first must not fail for it.
awk 'BEGIN {
  print "{\"step\":0,\"loss\":null}"
  for (i = 1; i <= 300000; ++i) printf "{\"step\":%d,\"loss\":%d.25}\n", i, i
}' >"$scratch/many"
loss="$(number_after '"loss":' "$scratch/many")"
[[ "$loss" == 1.25 ]] || die "the first loss is '$loss', not 1.25"
[[ -z "$(number_after absent "$scratch/many")" ]] || die "a number without its words"
say ok
