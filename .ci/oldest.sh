#!/usr/bin/env bash
# Make an environment in DIR that reads published versions with the oldest `datasets` they promise: .ci/oldest.sh DIR
# It holds nothing of the project. An environment that is there already is brought up to date.
set -euo pipefail
dir=$(realpath -m "${1:?usage: .ci/oldest.sh DIR}")
cd "$(dirname "$0")/.."

[ -x "$dir/bin/python" ] || python3 -m venv "$dir"
"$dir/bin/pip" install -q -r .ci/oldest-requirements.txt
"$dir/bin/python" -c 'import datasets, pyarrow; print("datasets", datasets.__version__, "on pyarrow", pyarrow.__version__)'
