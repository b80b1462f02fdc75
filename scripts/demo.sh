#!/usr/bin/env bash
# From raw phantom mammograms to a table of privacy against utility and an HTML report, in a few minutes on a laptop.
# Run it again and it does nothing: everything is finished.
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
make_environment test

toy=(dataset=toy classifier=swin_micro)
"$PY" -m mammo_dp -m build_inputs=true stage=train_classifier "${toy[@]}" experiment=real recipe=dp_gd \
    privacy.epsilon=1,6,60,inf seed=0,1,2
"$PY" -m mammo_dp stage=report
