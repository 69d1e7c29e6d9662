#!/bin/sh
# Puts Chromium on the machine for the tests that open pages. Where that can't be done, those tests say so and are
# skipped, except in CI, where they fail.
set -u
if command -v chromium >/dev/null && command -v chromedriver >/dev/null; then
    exit 0
fi
if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y chromium chromium-driver >/dev/null
else
    echo "tests/browser.sh: install Chromium and ChromeDriver (Debian: chromium chromium-driver) to run the page tests"
fi
exit 0
