#!/usr/bin/env bash
# Adds the extra `radiomics` (frd-score and pyradiomics) to .venv, for the Frechet radiomics distance. Needs a C compiler.
# pyradiomics 3.0.1 builds only beside numpy and setuptools, and frd-score asks for an OpenCV package that would overwrite
# the files of the one that is here: both provide `cv2`, so frd-score goes in without what it asks for.
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
make_environment "${1:-test}"

install() { "$PY" -m uv pip install --quiet --python "$PY" -c constraints.txt "$@" 2>/dev/null || "$PY" -m pip install --quiet -c constraints.txt "$@"; }
install setuptools wheel simpleitk
install --no-build-isolation pyradiomics==3.0.1
install --no-deps frd-score
"$PY" -c 'from mammo_dp.metrics import radiomics; print("installed:", radiomics.installed())'
