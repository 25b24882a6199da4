#!/usr/bin/env bash
# Conformance of the server, against the included model: tools/conformance.sh ENVIRONMENT [NPM_FOLDER]
# ENVIRONMENT is made where it is not there; the Python that runs ggq is $PYTHON. Stops at the first thing that is wrong.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
environment=$1 npm=${2:-} python=${PYTHON:-python} port=8099
packages=(llm-comply openai anthropic langchain-openai instructor schemathesis lm-eval transformers selenium)
if [ ! -d "$environment" ]; then
    python3 -m venv "$environment"
    "$environment/bin/pip" install --quiet "${packages[@]}" .
fi
work=$(mktemp -d)
export PYTHONPATH="$PWD:$PWD/kernels"
"$python" tools/conformance_server.py "$work" $port 2> "$work/log" &
server=$!
trap 'kill $server; rm -rf "$work"' EXIT
url=http://127.0.0.1:$port
for _ in $(seq 100); do if "$python" -c "import urllib.request as r; r.urlopen('$url/health')" 2> /dev/null; then break; fi; sleep 0.2; done

for format in openai-chat open-responses anthropic; do
    "$environment/bin/llm-comply" run -u "$url/v1" -k none -m demo --format "$format"
done
"$environment/bin/python" tools/client_examples.py "$url"
"$environment/bin/python" tools/lm_eval_scores.py "$url" "$work/demo.ggq"
checks=not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance
(cd "$work" && "$environment/bin/schemathesis" run "$url/openapi.json" -c $checks --phases coverage,fuzzing -n 60 \
    --no-shrink --continue-on-failure --generation-deterministic --request-timeout 60 --warnings off)
if [ -n "$npm" ] && command -v node > /dev/null; then
    node "$npm/node_modules/compatcanary/src/cli.js" scan --base-url "$url/v1" --model demo
fi
if command -v chromium > /dev/null; then
    "$environment/bin/python" tools/browser_test.py "$url" "$work/pictures" ${npm:+"$npm/node_modules/axe-core/axe.min.js"}
fi
"$python" tools/hostile_clients.py "$url" --pid $server
