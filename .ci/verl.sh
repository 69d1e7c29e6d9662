#!/usr/bin/env bash
# Make an environment in DIR that holds the project, its test dependencies and verl, on torch for the CPU: .ci/verl.sh DIR
# An environment that is there already is brought up to date.
set -euo pipefail
dir=$(realpath -m "${1:?usage: .ci/verl.sh DIR}")
cd "$(dirname "$0")/.."

[ -x "$dir/bin/python" ] || python3 -m venv "$dir"
"$dir/bin/pip" install -q -c constraints.txt -e '.[test]'
"$dir/bin/pip" install -q --no-deps -r .ci/verl-requirements.txt
# verl and TransferQueue install a top-level package `tests`, which would hide ours.
rm -rf "$("$dir/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/tests"
"$dir/bin/python" -c 'import torch, verl; print("verl", verl.__version__, "on torch", torch.__version__)' 2>/dev/null
