#!/bin/sh
# Installs the tokenizer that the token tests and tools/unicode/bert-table.cjs
# compare with: Hugging Face's Rust implementation as an npm package, into
# tests/node_modules (which git ignores). Needs node and npm; nothing that is
# shipped depends on it.
set -eu
cd "$(dirname "$0")/.."
version=0.23.2
if [ -f node_modules/tokenizers/package.json ] && grep -q "\"version\": \"$version\"" node_modules/tokenizers/package.json; then
	echo "tokenizers $version is already in tests/node_modules"
	exit 0
fi
command -v npm >/dev/null || { echo "npm is missing: install the packages nodejs and npm" >&2; exit 1; }
npm install --no-save --no-package-lock --no-audit --no-fund --prefix . "tokenizers@$version"
