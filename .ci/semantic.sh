#!/usr/bin/env bash
# Make an environment in DIR that holds the project, its test dependencies and a sentence model: .ci/semantic.sh DIR
# An environment that is there already is brought up to date.
set -euo pipefail
dir=$(realpath -m "${1:?usage: .ci/semantic.sh DIR}")
cd "$(dirname "$0")/.."

[ -x "$dir/bin/python" ] || python3 -m venv "$dir"
"$dir/bin/pip" install -q -c constraints.txt -e '.[test]'
"$dir/bin/pip" install -q --no-deps -r .ci/semantic-requirements.txt
"$dir/bin/python" -c 'import torch, sentence_transformers as s; print("sentence-transformers", s.__version__, "on torch", torch.__version__)' 2>/dev/null
