#!/usr/bin/env python3
"""Runs tests of several kinds and counts them together.

    run_tests.py --results FILE unit PROGRAM...      cmocka programs
    run_tests.py --results FILE pytest PATH...       Python tests
    run_tests.py --results FILE fuzz PROGRAM...      libFuzzer programs, FUZZ_SECONDS each
    run_tests.py --results FILE success|failure NAME [REASON]   counts something that ran elsewhere
    run_tests.py --results FILE total                what failed and was skipped, then "N passed, N failed, N skipped"

Each run appends one JSON line to FILE; only `total` turns failures into an
exit code, so that one failing kind does not hide the others. Needs nothing
but Python's standard library (pytest for its kind).
"""
import argparse
import concurrent.futures
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree

UNIT_LIMIT_S = int(os.environ.get("TEST_LIMIT_S", "600"))
CMOCKA_LINE = re.compile(r"^\[\s*(RUN|OK|FAILED|SKIPPED|ERROR)\s*\] (\S+)")
SUMMARY_START = re.compile(r"^\[==========\] .*run\.$|^\[==========\] \d+ test\(s\) run")


def text_of_exit(code):
    if code < 0:
        try:
            return "killed by " + signal.Signals(-code).name
        except ValueError:
            return f"killed by signal {-code}"
    return f"exit code {code}"


def append(results, record):
    os.makedirs(os.path.dirname(results) or ".", exist_ok=True)
    with open(results, "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def record_of(kind, name, passed=(), failed=(), skipped=()):
    return {"kind": kind, "name": name, "passed": len(passed), "failed": list(failed), "skipped": list(skipped)}


def tee(command, limit_s, environment=None):
    """Runs a command, echoing its output as it comes. Returns (exit code or None when late, output)."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                               env=environment, start_new_session=True)
    lines = []
    late = False

    def stop(_signal, _frame):
        nonlocal late
        late = True
        os.killpg(process.pid, signal.SIGKILL)

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(limit_s)
    try:
        for raw in process.stdout:
            line = raw.decode("utf-8", "replace")
            lines.append(line)
            sys.stdout.write(line)
            sys.stdout.flush()
        code = process.wait()
    except KeyboardInterrupt:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return (None if late else code), "".join(lines)


def count_cmocka(output):
    """cmocka's standard output -> names that passed, failed, were skipped, and one that never ended."""
    passed, failed, skipped = [], [], []
    running = None
    for line in output.splitlines():
        if SUMMARY_START.match(line):
            running = None
            break
        match = CMOCKA_LINE.match(line)
        if not match:
            continue
        what, name = match.groups()
        if what == "RUN":
            if running:
                failed.append(running)
            running = name
        elif name == running:
            {"OK": passed, "SKIPPED": skipped}.get(what, failed).append(name)
            running = None
    return passed, failed, skipped, running


def run_unit(results, programs):
    for program in programs:
        name = os.path.basename(program)
        print(f"== {name}", flush=True)
        started = time.monotonic()
        code, output = tee([program], UNIT_LIMIT_S)
        passed, failed, skipped, running = count_cmocka(output)
        failed = [f"{name}: {test}" for test in failed]
        if running:
            failed.append(f"{name}: {running} ({'over ' + str(UNIT_LIMIT_S) + ' s' if code is None else text_of_exit(code)})")
        elif code is None:
            failed.append(f"{name}: over {UNIT_LIMIT_S} s")
        elif code != 0 and not failed:
            failed.append(f"{name}: {text_of_exit(code)}")
        elif not (passed or failed or skipped):
            failed.append(f"{name}: ran no test")
        print(f"   {name}: {len(passed)} passed, {len(failed)} failed, {len(skipped)} skipped "
              f"in {time.monotonic() - started:.1f} s", flush=True)
        append(results, record_of("unit", name, passed, failed, [f"{name}: {test}" for test in skipped]))


def run_pytest(results, paths):
    paths = [path for path in paths if os.path.exists(path)]
    if not paths:
        return
    # The tests' folders go with it: pytest by itself keeps those of three runs, gigabytes each.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        report = os.path.join(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "-q", "-rs", "--durations=8", "-p", "no:cacheprovider",
                   f"--basetemp={os.path.join(folder, 'tests')}", f"--junitxml={report}", *paths]
        limit_s = int(os.environ.get("PYTEST_LIMIT_S", "3600"))
        environment = dict(os.environ, PYTHONDONTWRITEBYTECODE="1")
        code, _ = tee(command, limit_s, environment)
        passed, failed, skipped = [], [], []
        try:
            root = ElementTree.parse(report).getroot()
        except (OSError, ElementTree.ParseError):
            root = None
        for case in root.iter("testcase") if root is not None else ():
            name = f"{case.get('classname', '')}::{case.get('name', '')}".lstrip(":")
            if case.find("failure") is not None or case.find("error") is not None:
                failed.append(name)
            elif case.find("skipped") is not None:
                skipped.append(f"{name}: {case.find('skipped').get('message', '')}")
            else:
                passed.append(name)
        if code is None:
            failed.append(f"pytest: over {limit_s} s")
        elif code not in (0, 5) and not failed:
            failed.append(f"pytest: {text_of_exit(code)}")
        append(results, record_of("pytest", " ".join(paths), passed, failed, skipped))


def fuzz(program, seconds):
    """(name, folder for inputs that are at fault, exit code, output)"""
    name = os.path.basename(program)
    short = name[len("fuzz_"):] if name.startswith("fuzz_") else name
    build = os.path.dirname(os.path.dirname(os.path.abspath(program)))
    corpus = os.path.join(build, "corpus", short)
    crashes = os.path.join(build, "crash", short)
    os.makedirs(corpus, exist_ok=True)
    os.makedirs(crashes, exist_ok=True)
    seeds = os.path.join("tests", "fuzz", "corpus", short)
    dictionary = os.path.join("tests", "fuzz", short + ".dict")
    command = [program, f"-max_total_time={seconds}", "-timeout=20", "-rss_limit_mb=3072", "-print_final_stats=1",
               f"-artifact_prefix={crashes}/", corpus]
    if os.path.isdir(seeds):
        command.append(seeds)
    if os.path.exists(dictionary):
        command.insert(1, f"-dict={dictionary}")
    process = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                             check=False, timeout=seconds + 600)
    return name, crashes, process.returncode, process.stdout.decode("utf-8", "replace")


def run_fuzz(results, programs):
    """As many at a time as there are cores: each is one thread."""
    seconds = int(os.environ.get("FUZZ_SECONDS", "10"))
    print(f"== {len(programs)} fuzz targets for {seconds} s each", flush=True)
    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for name, crashes, code, output in pool.map(lambda program: fuzz(program, seconds), programs):
            executed = re.search(r"stat::number_of_executed_units: (\d+)", output)
            if code == 0:
                print(f"   {name}: {executed.group(1) if executed else '?'} inputs, no fault", flush=True)
                append(results, record_of("fuzz", name, passed=[name]))
            else:
                print(f"{name}:\n{output[-6000:]}", flush=True)
                append(results, record_of("fuzz", name, failed=[f"{name}: {text_of_exit(code)}, input in {crashes}"]))


def total(results):
    passed, failed, skipped = 0, [], []
    for path in results:
        if not os.path.exists(path):
            continue
        with open(path, encoding="utf-8") as file:
            for line in file:
                record = json.loads(line)
                passed += record["passed"]
                failed += record["failed"]
                skipped += record["skipped"]
    print()
    for name in skipped:
        print(f"skipped: {name}")
    for name in failed:
        print(f"FAILED:  {name}")
    if not passed and not failed:
        failed.append("no test ran")
    print(f"{passed} passed, {len(failed)} failed, {len(skipped)} skipped", flush=True)
    return 1 if failed else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", required=True, action="append")
    parser.add_argument("what", choices=["unit", "pytest", "fuzz", "success", "failure", "total"])
    parser.add_argument("rest", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    if arguments.what == "total":
        return total(arguments.results)
    if arguments.what in ("success", "failure"):
        name = ": ".join(arguments.rest)
        append(arguments.results[0], record_of("step", name, **{"passed" if arguments.what == "success" else "failed": [name]}))
        return 0
    {"unit": run_unit, "pytest": run_pytest, "fuzz": run_fuzz}[arguments.what](arguments.results[0], arguments.rest)
    return 0


if __name__ == "__main__":
    sys.exit(main())
