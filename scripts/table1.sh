#!/usr/bin/env bash
# Table 1 in one command, from raw data (or the authors' patches) to the report: 18 rows, 3 seeds, 54 classifiers.
#   scripts/table1.sh toy                                    about ten minutes on two cores, nothing to download
#   scripts/table1.sh release dataset.root=FOLDER            the authors' patches and synthetic images
#   scripts/table1.sh cbis_bcdr dataset.root=FOLDER          raw CBIS-DDSM and BCDR, with a GAN of your own
# Further words go to every run: recipe=dp_gd, classifier=mobilenetv2, launcher=slurm, outputs=FOLDER, ...
# Stop it whenever you like: the same command does what is left, and says how much that is.
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
make_environment test

dataset="${1:-toy}"
[ "$#" -gt 0 ] && shift
words=("dataset=$dataset")
[ "$dataset" = release ] && words+=(synthetic=release)
[[ " $* " == *" launcher="* ]] || words+=(launcher=laptop)

failed=0
"$PY" -m mammo_dp sweep=table1 stage=train_classifier build_inputs=true "${words[@]}" "$@" || failed=$?
[ "$failed" = 2 ] && exit 2
report=()
for word in "$@"; do [[ "$word" == outputs=* ]] && report+=("$word"); done
"$PY" -m mammo_dp stage=report "${report[@]}" || failed=$?
exit "$failed"
