#!/usr/bin/env bash
# Sets up everything and passes all tests: bash tests/run.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/.."

able() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }
for python in python3 python3.12 python3.13 python3.11; do able "$python" && break; done
able "$python" || { echo "slugdemo needs Python 3.11, 3.12 or 3.13." >&2; exit 1; }

browser() { command -v "${CHROMIUM:-chromium}" chromium-browser google-chrome google-chrome-stable | head -n 1; }
if [ -z "$(browser)" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null
fi
CHROMIUM=$(browser) || true
[ -n "$CHROMIUM" ] || { echo "No browser found: install Chromium or Chrome, or set CHROMIUM to one." >&2; exit 1; }
export CHROMIUM

[ -x .venv/bin/python ] || "$python" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r tests/requirements.txt
.venv/bin/python -m ruff check .
.venv/bin/python -m mypy
export OMP_NUM_THREADS=1  # two processes share the cores
exec .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --cov=slugdemo --cov-report=term:skip-covered "$@"
