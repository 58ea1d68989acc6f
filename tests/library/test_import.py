"""What `import vaecore` costs and offers, looked at in processes of their own."""

import ast
import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

import vaecore
from vaecore import toolkit

ROOT = Path(__file__).parents[2]


def run(script):
    """What a script prints last, as JSON, in a new process."""
    process = subprocess.run(  # noqa: S603  # our own script
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


@pytest.mark.parametrize("module", [vaecore, toolkit], ids=lambda module: module.__name__)
def test_the_stub_lists_all_names_under_their_own(module):
    stub = ast.parse(Path(module.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    names = [alias for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(alias.name for alias in names) == sorted(module.__all__) == sorted(dir(module))
    listed = [node.value for node in stub.body if isinstance(node, ast.Assign)]
    assert [sorted(ast.literal_eval(value)) for value in listed] in ([], [sorted(module.__all__)])
    for alias in names:
        assert alias.asname == alias.name  # without `as`, a type checker takes it for private
        getattr(module, alias.name)


def test_no_name_is_offered_twice():
    assert not set(vaecore.__all__) & set(toolkit.__all__)


def test_the_import_brings_no_torch_nor_anything_else_that_takes_time():
    slow = ("torch", "numpy", "scipy", "sklearn", "safetensors", "PIL", "matplotlib", "pytest", "torchvision")
    script = f"import json, sys, vaecore, vaecore.toolkit; print(json.dumps([n for n in {slow} if n in sys.modules]))"
    assert run(script) == []


NAMES = """
import json, sys
import torch
before = {*sys.modules}
import vaecore
from vaecore import toolkit
for module in (vaecore, toolkit):
    for name in module.__all__:
        getattr(module, name)
print(json.dumps(sorted({*sys.modules} - before)))
"""
# What the names bring beside torch: what takes longer to import is left to the functions that need it.
BROUGHT = {"filelock", "lazy_loader", "numpy", "PIL", "platformdirs", "safetensors", "vaecore"}


@pytest.mark.slow
def test_all_names_bring_little_beside_torch():
    brought = {name.partition(".")[0] for name in run(NAMES)} - sys.stdlib_module_names
    assert brought <= BROUGHT


# What a run of the claims does before it looks at what the cache has.
RUN = """
import json, sys, urllib.request
from vaecore import load_images
from vaecore.suite import *
from vaecore.suite.plugin import session
from vaecore.toolkit import probe

def refuse(*_, **__):
    raise OSError

urllib.request.urlopen = refuse
assert not probe("mnist")
load_images("digits")
print(json.dumps([*sys.modules]))
"""


def test_a_run_of_the_claims_brings_nothing_that_only_some_need():
    assert not {"scipy.stats", "sklearn", "matplotlib", "torchvision"} & set(run(RUN))


# Whether glibc maps a block of 30 MiB, and so gives it back to the system when it is freed, or takes it from what it
# keeps. It keeps what is below a threshold, which `keep_freed_memory` raises.
ALLOCATOR = """
import ctypes, json
import torch
import vaecore
from vaecore import toolkit

FIELDS = "arena ordblks smblks mapped hblkhd usmblks fsmblks uordblks fordblks keepcost"

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in FIELDS.split()]

library = ctypes.CDLL(None)
library.mallinfo.restype = Info
library.malloc.argtypes = [ctypes.c_size_t]

def mapped():
    before = library.mallinfo().mapped
    library.malloc(30 << 20)
    return library.mallinfo().mapped - before

for module in (vaecore, toolkit):
    for name in module.__all__:
        getattr(module, name)
imported = mapped()
vaecore.keep_freed_memory()
print(json.dumps([imported, mapped()]))
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator alone learns what to keep")
def test_the_import_leaves_the_allocator_alone_and_keep_freed_memory_does_not():
    assert run(ALLOCATOR) == [1, 0]
