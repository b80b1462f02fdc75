#!/usr/bin/env bash
# From raw phantom mammograms to a table of privacy against utility and an HTML report, in a few minutes on a laptop.
# Run it again and it does nothing: everything is finished.
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
make_environment test

"$PY" -m mammo_dp -m build_inputs=true stage=train_classifier dataset=toy public=toy \
    privacy.epsilon=1,6,60,inf seed=0,1,2
"$PY" -m mammo_dp stage=report
