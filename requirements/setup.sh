#!/bin/sh
# Picks a suitable Python, then lets bootstrap.py build the environment.
# PYTHON= names the interpreter, VENV= the folder, REQUIREMENTS= what goes into it.
set -eu
cd "$(dirname "$0")/.."

suitable='import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))'
candidates=${PYTHON:-python3.11 python3.12 python3.13 python3.10 python3}
seen=''
for python in $candidates; do
    # A name may exist and still not run (version managers leave such stubs).
    version=$("$python" -c 'import platform; print(platform.python_version())' \
        2>/dev/null) || continue
    if "$python" -c "$suitable"; then
        exec "$python" requirements/bootstrap.py \
            "${VENV:-.venv}" "${REQUIREMENTS:-requirements.txt}"
    fi
    seen="$seen, $python is $version"
done
echo "mmkd needs Python >= 3.10 and < 3.14, but of [$candidates]" \
    "none is suitable${seen:-, none runs}." \
    "Name another one: make setup PYTHON=/path/to/python" >&2
exit 1
