"""The sandbox: what its process cannot do, and what its answers cannot do to this one."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from dti_engine.errors import InvalidBundleError
from dti_engine.images.bundles import confinement, sandbox_process
from dti_engine.images.bundles import sandbox as sandbox_module
from dti_engine.images.bundles.archives import OpenArchive, members
from dti_engine.images.bundles.bundle import check_bundle
from dti_engine.images.bundles.members import DEFAULT_LIMITS, MAX_TEXT, BundleFinding
from dti_engine.images.bundles.sandbox import Sandbox

Pack = Callable[..., Path]

LIMITS = replace(DEFAULT_LIMITS, unpacking_timeout_s=5)
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

# What bytes that have taken over the process could try; each line is an attempt.
ATTEMPTS = {
    "open a file": "open('/etc/passwd')",
    "open its program": "open(sys.executable, 'rb')",
    "write a file": "open('/tmp/dti-escaped', 'w')",
    "create a folder": "os.mkdir('/tmp/dti-escaped')",
    "remove a file": "os.unlink('/tmp/dti-escaped')",
    "list a folder": "os.listdir('/')",
    "start a process": "os.fork()",
    "become a program": "os.execv('/bin/true', ['true'])",
    "reach the network": "socket.socket()",
    "reach this machine": "socket.socket(socket.AF_UNIX)",
    "signal the parent": "os.kill(os.getppid(), 0)",
    "follow the parent": "open(f'/proc/{parent}/environ')",
    "raise a limit": "resource.setrlimit(resource.RLIMIT_NOFILE, (9, 9))",
    "copy a descriptor": "os.dup(1)",
    "take the memory": "bytes(2**31)",
}


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(LIMITS, memory_bytes=2**30, timeout_s=5, processor_s=5) as started:
        started.start()
        yield started


@linux
def test_a_confined_process_can_only_compute() -> None:
    code = f"""
import json, os, resource, socket, sys
from dti_engine.images.bundles.confinement import confine
parent = os.getppid()
missing = confine(2**30, 60)
done = []
for name, attempt in {ATTEMPTS!r}.items():
    try:
        eval(attempt)
    except (OSError, MemoryError, ValueError):
        continue
    done.append(name)
print(json.dumps([missing, done]))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    missing, done = json.loads(ran.stdout)
    if confinement.SYSTEM_CALLS in missing:
        pytest.skip("this kernel refuses filters of system calls")
    assert done == []
    assert set(missing) <= {confinement.OWN_USER}


@linux
def test_a_confined_process_may_have_threads() -> None:
    """The decoder of HEIC cannot do without one."""
    code = """
import threading
from dti_engine.images.bundles.confinement import confine
confine(2**30, 60)
done = []
thread = threading.Thread(target=done.append, args=(1,))
thread.start()
thread.join()
print(done)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.stdout == "[1]\n", ran.stderr


@linux
def test_the_process_inherits_neither_the_environment_nor_descriptors(
    monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox
) -> None:
    sandbox.stop()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    process = Path("/proc") / str(sandbox.start().pid)
    assert (process / "environ").read_bytes() == b""
    assert len(os.listdir(process / "fd")) == 3
    limits = {
        line[:25].strip(): line[25:].split()[:2]
        for line in (process / "limits").read_text().splitlines()
    }
    for name, limit in {
        "Max address space": str(2**30),
        "Max cpu time": "6",
        "Max file size": "0",
        "Max open files": "0",
        "Max core file size": "0",
    }.items():
        assert limits[name] == [limit, limit]
    if os.geteuid() == 0:
        assert limits["Max processes"] == ["64", "64"]
        assert process.stat().st_uid == confinement.NOBODY


def test_a_system_without_limits_says_what_is_missing_and_decodes_all_the_same() -> None:
    # As on Windows: neither module exists there, nor the functions of users and timers.
    code = """
import os, signal, sys
sys.modules["resource"] = sys.modules["fcntl"] = None
import dti_engine.cli.run_log, services.logs
from dti_engine.images.bundles import confinement, sandbox_process
sys.platform = "win32"
del os.geteuid, signal.setitimer
assert confinement.confine(2**30, 60) == list(confinement.PROTECTIONS)
sandbox_process._set_alarm(1)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_what_it_says_is_short_and_printable(
    tmp_path: Path, pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that was taken over answers with a long text, and with control characters."""
    for size, text in ((MAX_TEXT, "\x1b[2J" * 75), (10**9, "x")):
        start = b"D" + bytes(16)
        reply = sandbox_process.REPLY.pack(b"E", 0, 0, size) + text.encode()
        # It stays until it has the request: one that ends before is not even read.
        code = f"import sys; o = sys.stdout.buffer; o.write({start + reply!r}); o.flush()"
        code += "; sys.stdin.buffer.read(9)"
        package = tmp_path / str(size) / "dti_engine" / "images" / "bundles"
        package.mkdir(parents=True)
        for parent in (package, package.parent, package.parent.parent):
            (parent / "__init__.py").touch()
        (package / "sandbox_process.py").write_text(code)
        monkeypatch.setattr(sandbox_module, "_ROOT", tmp_path / str(size))
        path = pack("zip", {"a.png": b""})
        with path.open("rb") as file, pytest.raises(InvalidBundleError) as error:
            list(members(OpenArchive(file, "zip"), LIMITS))
        assert len(str(error.value)) <= MAX_TEXT
        assert str(error.value).isprintable()


def test_a_finding_is_short_whatever_it_quotes() -> None:
    for name, reason in (("a" * 10**6, "b" * 10**6), ("", "b" * 10**6), ("\\" * 255, "b")):
        finding = BundleFinding(name, reason)
        assert max(len(finding.name), len(finding.reason), len(str(finding))) <= MAX_TEXT


def test_an_archive_that_takes_too_long_is_rejected(pack: Pack) -> None:
    limits = replace(DEFAULT_LIMITS, unpacking_timeout_s=0)
    (finding,) = check_bundle(pack("zip", {"a.png": bytes(10**7)}), limits=limits).errors
    assert "takes longer to unpack than 0 s; pack fewer" in finding.reason


def test_a_bundle_may_be_given_as_the_content_of_its_files() -> None:
    bundle = check_bundle({"b.png": b"no image", ".hidden": b"", "../a.png": b""})
    assert [finding.name for finding in bundle.errors] == ["../a.png", "b.png"]
    assert bundle.path is None


@linux
def test_the_process_ends_with_a_parent_that_is_killed() -> None:
    code = """
import time
from dti_engine.images.bundles.members import DEFAULT_LIMITS
from dti_engine.images.bundles.sandbox import Sandbox
sandbox = Sandbox(DEFAULT_LIMITS, memory_bytes=2**30, timeout_s=5, processor_s=5)
print(sandbox.start().pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        process = Path("/proc") / parent.stdout.readline().decode().strip()
        assert process.exists()
        parent.kill()
    deadline = time.monotonic() + 30
    with suppress(OSError):  # gone between two looks
        while "zombie" not in (process / "status").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)
