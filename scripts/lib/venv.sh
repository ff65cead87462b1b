# Sourced by the scripts: a venv in this clone with hotseat and the extras that are asked for. No root needed.

# ensure_venv EXTRA...: installs when pyproject.toml has changed since these extras were last installed, then activates.
ensure_venv() {
    local extras stamp python
    extras=$(IFS=,; echo "$*")
    stamp=".venv/.installed-${extras//,/-}"
    if [ ! -x .venv/bin/python ]; then
        python=$(find_python)
        "$python" -m venv .venv || {
            echo "cannot make a venv; on Debian: apt-get install python3-venv" >&2
            exit 1
        }
    fi
    . .venv/bin/activate
    if [ ! -f "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
        echo "installing hotseat[$extras] into .venv …" >&2
        python -m pip install --quiet --disable-pip-version-check --editable ".[$extras]" || exit 1
        touch "$stamp"
    fi
}

# ensure_clients: a venv for clients whose dependencies are not those of hotseat, which HOTSEAT_TEST_CLIENTS names then. Call it after
# ensure_venv.
ensure_clients() {
    local wanted=tests/clients/requirements.txt stamp=.venv-clients/.installed
    export HOTSEAT_TEST_CLIENTS=$PWD/.venv-clients/bin/python
    if [ ! -f "$stamp" ] || [ "$wanted" -nt "$stamp" ]; then
        echo "installing $wanted into .venv-clients …" >&2
        python -m venv .venv-clients
        "$HOTSEAT_TEST_CLIENTS" -m pip install --quiet --disable-pip-version-check --requirement "$wanted" || exit 1
        touch "$stamp"
    fi
}

find_python() {
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "Python 3.11 or newer is needed; on Debian: apt-get install python3 python3-venv" >&2
    exit 1
}
