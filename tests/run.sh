#!/bin/sh
# Run all tests: those with Ray in the foreground, the others beside them, whose output follows at the end.
# PYTEST: how to call pytest.
log=$(mktemp) || exit 1
trap 'kill "$others" 2>/dev/null; rm -f "$log"' EXIT
# Files are handed out to two processes in the order of tests/conftest.py; a low priority stretches their time limit.
nice -n 15 $PYTEST --durations 10 -n 2 --dist loadfile -m 'not ray and not soak' --timeout 900 > "$log" 2>&1 &
others=$!
echo "tests without Ray run in the background; their results follow"
$PYTEST --durations 25 -m 'ray and not soak' --timeout 900
with_ray=$?
wait "$others"
without_ray=$?
cat "$log"
[ "$with_ray" = 0 ] && [ "$without_ray" = 0 ]
