"""Python code in processes that know torch and timm and nothing of growtool, born of one that imported the two once.

Importing them takes seconds; a process that is forked from one that has done nothing else begins with both.
"""

import atexit
import json
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

_SERVER = """
import gc, json, os, sys, traceback
gc.disable()
import timm, torch
gc.enable()

def become(told):
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(told[name], os.O_WRONLY), number)
    os.chdir(told["folder"])
    sys.argv, code = ["-c", *told["arguments"]], 1
    try:
        exec(compile(told["code"], "<code>", "exec"), {"__name__": "__main__"})
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        become(json.loads(line))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@cache
def _server() -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", "-c", _SERVER]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(server.communicate)  # it ends where its input does
    return server


def in_plain_timm(code: str, *arguments: object, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """What `python -c code *arguments` in `folder` gives, torch and timm being imported already."""
    server = _server()
    assert server.stdin is not None and server.stdout is not None
    with tempfile.TemporaryDirectory() as place:
        out, err = (Path(place, name) for name in ("out", "err"))
        told = {"code": code, "arguments": [*map(str, arguments)], "folder": str(folder or Path.cwd())}
        for name, path in (("out", out), ("err", err)):
            path.touch()
            told[name] = str(path)
        print(json.dumps(told), file=server.stdin, flush=True)
        answer = server.stdout.readline()
        return subprocess.CompletedProcess(code, int(answer), out.read_text(), err.read_text())
