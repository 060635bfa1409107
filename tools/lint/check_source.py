#!/usr/bin/env python3
"""Checks what a compiler does not: who may include whom, banned functions, form.

    tools/lint/check_source.py            the whole tree
    tools/lint/check_source.py --self     that every rule can fail (on made-up sources)

Rules are data at the top of this file. A finding is printed as file:line: text
and makes the exit code 1.
"""
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# What a folder of the project may include besides itself: the longest prefix
# of the including file that stands here decides. Everything else is refused.
MAY_INCLUDE = {
    "shared/base": [],
    "shared": ["shared"],
    "preprocessd/codec": ["shared"],
    "preprocessd/dataset": ["shared"],
    "preprocessd/store": ["shared"],
    "preprocessd/pipeline": ["shared", "preprocessd/codec", "preprocessd/dataset", "preprocessd/store"],
    "preprocessd/serve": ["shared", "preprocessd/codec", "preprocessd/dataset", "preprocessd/store", "preprocessd/pipeline"],
    "preprocessd/main.c": ["shared", "preprocessd"],
    "trainer/kernels": ["shared"],
    "trainer/io": ["shared", "trainer/kernels", "trainer/nn"],
    "trainer/client": ["shared"],
    "trainer/nn": ["shared", "trainer/kernels"],
    "trainer/model": ["shared", "trainer/kernels", "trainer/nn", "trainer/io"],
    "trainer/reg": ["shared", "trainer/kernels", "trainer/nn", "trainer/model"],
    "trainer/train": ["shared", "trainer/kernels", "trainer/nn", "trainer/model", "trainer/reg", "trainer/io", "trainer/client"],
    "trainer/study": ["shared", "trainer/kernels", "trainer/nn", "trainer/model", "trainer/reg", "trainer/train", "trainer/io", "trainer/client"],
    "trainer/probe": ["shared", "trainer/kernels", "trainer/nn", "trainer/model", "trainer/reg", "trainer/train", "trainer/io"],
    "trainer/cli": ["shared", "trainer"],
    "trainer/main.c": ["shared", "trainer"],
    # prepctl's inspect prepares without a daemon, with the daemon's own codec.
    "tools/prepctl": ["shared", "preprocessd"],
    "tools/demo": ["shared"],
    "tools/vocab": ["shared", "preprocessd/codec"],
    "tools/bench": ["shared", "preprocessd", "trainer"],
    "tests": ["shared", "preprocessd", "trainer", "tests"],
}

# A foreign header: the only places that may see it.
FOREIGN = {
    r"jpeglib\.h|jerror\.h|turbojpeg\.h": ["preprocessd/codec/jpeg.c", "preprocessd/codec/jpeg_scan.c",
                                              "preprocessd/codec/jpeg_scan.h", "tools/demo/", "tools/bench/", "tests/"],
    r"jpegint\.h": ["preprocessd/codec/jpeg_scan.c"],
    r"lmdb\.h": ["preprocessd/store/", "tests/"],
    r"uv\.h|uv/.*": ["preprocessd/serve/", "tests/"],
    r"cblas\.h|cblas-openblas\.h|openblas_config\.h|.*dnnl.*\.h(pp)?|mkldnn.*": ["trainer/kernels/", "tools/bench/"],
    r"omp\.h": ["trainer/kernels/", "tests/", "tools/bench/"],
    r"openssl/.*": ["shared/base/hash.c", "tests/"],
    r"xxhash\.h": ["shared/base/hash.c", "tests/"],
}

# Functions that lose bounds, errors or thread safety, and what to use.
BANNED = {
    "strcpy": "buf_add or snprintf", "strcat": "buf_add", "strncpy": "memcpy with a known size", "strncat": "buf_add",
    "sprintf": "snprintf", "vsprintf": "vsnprintf", "gets": "getline", "atoi": "args_parse_int", "atol": "args_parse_int",
    "atof": "args_parse_real", "strtok": "strchr", "system": "posix_spawn", "popen": "posix_spawn", "tmpnam": "mkstemp",
    "mktemp": "mkstemp", "tempnam": "mkstemp", "alloca": "a named maximum", "setjmp": None, "rand": "shared/base/rng.h",
    "srand": "shared/base/rng.h", "random": "shared/base/rng.h", "drand48": "shared/base/rng.h", "localtime": "localtime_r",
    "gmtime": "gmtime_r", "ctime": "strftime", "asctime": "strftime", "fork": "posix_spawn",
    "vfork": "posix_spawn", "scanf": "args_parse_int", "fscanf": "getline",
}
# Where one of them is right, and why.
BANNED_ALLOWED = {
    ("preprocessd/codec/jpeg.c", "setjmp"),  # the way out of libjpeg's error handler
    ("tools/demo/jpeg_out.c", "setjmp"),
    ("preprocessd/store/env.c", "setjmp"),  # the way out of LMDB's assertions when a cache is damaged
    ("preprocessd/serve/socket.c", "atoi"),  # garbage in a lock file is process 0: unknown
}
TESTS_ALLOWED = {"atoi", "atof", "atol", "fork", "system", "popen", "strcpy", "strcat", "setjmp", "rand", "sprintf", "strerror", "random", "strtok"}

# Only main.c ends the process.
ENDERS = {"exit", "_exit", "abort", "quick_exit", "_Exit"}
# server.c, signals.c: a second signal means at once.
ENDERS_ALLOWED = ("shared/base/check.c", "preprocessd/serve/server.c", "preprocessd/store/env.c", "trainer/cli/signals.c", "tools/", "tests/")

LINE_COLUMNS_MAX = 160
FILE_LINES_MAX = 900


def blank_comments_and_strings(text):
    """The same text with comments and the insides of literals as spaces, so that lines keep their numbers."""
    out = []
    at = 0
    pattern = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)
    for match in pattern.finditer(text):
        out.append(text[at:match.start()])
        piece = match.group()
        if piece[0] in "\"'":
            out.append(piece[0] + " " * (len(piece) - 2) + piece[0])
        else:
            out.append(re.sub(r"[^\n]", " ", piece))
        at = match.end()
    out.append(text[at:])
    return "".join(out)


def longest_prefix(path, table):
    best = None
    for prefix in table:
        if (path == prefix or path.startswith(prefix + "/")) and (best is None or len(prefix) > len(best)):
            best = prefix
    return best


def check_includes(path, text, find):
    folder = longest_prefix(path, MAY_INCLUDE)
    for number, line in enumerate(text.split("\n"), 1):
        match = re.match(r'\s*#\s*include\s*(["<])([^">]+)[">]', line)
        if not match:
            continue
        quote, name = match.groups()
        for pattern, places in FOREIGN.items():
            if re.fullmatch(pattern, name) and not any(path == p or (p.endswith("/") and path.startswith(p)) for p in places):
                find(path, number, f"{name} may be included only by {', '.join(places)}")
        if quote == "<" or name.endswith(".pb-c.h"):
            continue
        if "/" not in name:
            find(path, number, f'"{name}": include paths start at the root of the project')
            continue
        if folder is None:
            find(path, number, "this folder has no rule in tools/lint/check_source.py")
            continue
        allowed = [folder] + MAY_INCLUDE[folder]
        if not any(name.startswith(prefix + "/") for prefix in allowed):
            find(path, number, f'"{name}": {folder} may include only {", ".join(allowed)}')


def check_functions(path, code, find):
    in_tests = path.startswith(("tests/", "tools/bench/"))
    for match in re.finditer(r"(?<![\w.>])(\w+)\s*\(", code):
        name = match.group(1)
        number = code.count("\n", 0, match.start()) + 1
        if name in BANNED and (path, name) not in BANNED_ALLOWED and not (in_tests and name in TESTS_ALLOWED):
            instead = BANNED[name]
            find(path, number, f"{name}() is banned" + (f": use {instead}" if instead else ""))
        if name in ENDERS and not path.endswith("/main.c") and not path.startswith(ENDERS_ALLOWED):
            find(path, number, f"{name}(): only main.c ends the process")


def check_form(path, text, code, find):
    lines = text.split("\n")
    if not text.endswith("\n"):
        find(path, len(lines), "no newline at the end")
    if len(lines) > FILE_LINES_MAX and "_table" not in path and not path.startswith("tests/"):
        find(path, len(lines), f"more than {FILE_LINES_MAX} lines: split it by meaning")
    for number, line in enumerate(lines, 1):
        if line != line.rstrip():
            find(path, number, "white space at the end of the line")
        if re.match(r" {4,}\S", line) and not line.lstrip().startswith("*"):
            find(path, number, "indented with spaces: use tabs")
        if len(line.expandtabs(8)) > LINE_COLUMNS_MAX:
            find(path, number, f"longer than {LINE_COLUMNS_MAX} columns")
    if not path.endswith(".h"):
        return
    # Included once for each variant of its loops.
    if path.endswith("_body.h"):
        return
    if not re.match(r"/\*(\n \*)? " + re.escape(os.path.basename(path)) + " - ", text):
        find(path, 1, "a header opens with /* name.h - what it is")
    guard = re.sub(r"[^A-Z0-9]", "_", path.upper())
    if f"#ifndef {guard}\n#define {guard}\n" not in text:
        find(path, 1, f"include guard must be {guard}")


def check_text(path, text, find):
    code = blank_comments_and_strings(text)
    check_includes(path, text, find)
    check_functions(path, code, find)
    check_form(path, text, code, find)


def sources():
    listed = subprocess.run(["git", "-C", ROOT, "ls-files", "-co", "--exclude-standard", "*.c", "*.h"],
                            capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        names = listed.stdout.split("\n")
    else:
        # Not a git checkout: an unpacked archive.
        names = [os.path.relpath(os.path.join(folder, name), ROOT)
                 for top in ("shared", "preprocessd", "trainer", "tools", "tests")
                 for folder, _, files in os.walk(os.path.join(ROOT, top)) for name in files]
    return sorted(name for name in names if name.endswith((".c", ".h")) and os.path.exists(os.path.join(ROOT, name)))


def check_scripts(find):
    """Shell scripts parse, Python files compile."""
    listed = subprocess.run(["git", "-C", ROOT, "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True, check=False)
    for name in listed.stdout.split("\n"):
        path = os.path.join(ROOT, name)
        if not name or not os.path.isfile(path):
            continue
        with open(path, "rb") as file:
            start = file.read(64)
        if name.endswith(".py") or start.startswith((b"#!/usr/bin/env python3", b"#!/usr/bin/python3")):
            with open(path, encoding="utf-8") as file:
                try:
                    compile(file.read(), name, "exec")
                except SyntaxError as error:
                    find(name, error.lineno or 1, error.msg)
        elif name.endswith(".sh") or re.match(rb"#!\s*/bin/(ba)?sh|#!/usr/bin/env bash", start):
            shell = "bash" if b"bash" in start.split(b"\n")[0] else "sh"
            result = subprocess.run([shell, "-n", path], capture_output=True, text=True, check=False)
            if result.returncode != 0:
                find(name, 1, result.stderr.strip())


def self_check():
    """Each rule must fire on a source that breaks it, and none on one that does not."""
    good = '#include "shared/base/err.h"\nint f(void)\n{\n\treturn 0; /* strcpy(a, b) */\n}\n'
    bad = {
        "across": ("trainer/nn/a.c", '#include "preprocessd/store/cache.h"\n'),
        "upward": ("preprocessd/codec/a.c", '#include "preprocessd/serve/server.h"\n'),
        "shared down": ("shared/base/a.c", '#include "trainer/nn/params.h"\n'),
        "foreign": ("trainer/nn/a.c", "#include <cblas.h>\n"),
        "foreign jpeg": ("preprocessd/codec/resize.c", "#include <jpeglib.h>\n"),
        "foreign lmdb": ("preprocessd/pipeline/a.c", "#include <lmdb.h>\n"),
        "foreign uv": ("shared/client/a.c", "#include <uv.h>\n"),
        "relative": ("trainer/nn/a.c", '#include "params.h"\n'),
        "unknown folder": ("other/a.c", '#include "shared/base/err.h"\n'),
        "banned": ("shared/base/a.c", "void f(char *a)\n{\n\tstrcpy(a, \"x\");\n}\n"),
        "system": ("trainer/train/a.c", "void f(void)\n{\n\tsystem(\"x\");\n}\n"),
        "exit": ("trainer/train/a.c", "void f(void)\n{\n\texit(1);\n}\n"),
        "spaces": ("shared/base/a.c", "void f(void)\n{\n    return;\n}\n"),
        "trailing": ("shared/base/a.c", "int a; \n"),
        "newline": ("shared/base/a.c", "int a;"),
        "long": ("shared/base/a.c", "int " + "a" * 170 + ";\n"),
        "head": ("shared/base/a.h", "#ifndef SHARED_BASE_A_H\n#define SHARED_BASE_A_H\n#endif\n"),
        "guard": ("shared/base/a.h", "/*\n * a.h - x\n */\n#ifndef A_H\n#define A_H\n#endif\n"),
    }
    failures = 0
    for name, (path, text) in bad.items():
        found = []
        check_text(path, text, lambda *finding: found.append(finding))
        if not found:
            print(f"rule not found to fail: {name}")
            failures += 1
    found = []
    check_text("trainer/nn/a.c", good, lambda *finding: found.append(finding))
    if found:
        print(f"finding on a good source: {found}")
        failures += 1
    print(f"{len(bad) + 1} rules checked, {failures} wrong")
    return 1 if failures else 0


def main():
    if sys.argv[1:] == ["--self"]:
        return self_check()
    findings = []

    def find(path, number, text):
        findings.append(f"{path}:{number}: {text}")

    names = sources()
    for name in names:
        with open(os.path.join(ROOT, name), encoding="utf-8") as file:
            check_text(name, file.read(), find)
    check_scripts(find)
    for finding in findings:
        print(finding)
    print(f"source rules: {len(names)} files, {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
