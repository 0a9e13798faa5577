"""The vault of several processes, and of one that is killed at any step."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from service.contract.release import Release
from service.signing.vault import Vault
from tests.service.signing.samples import node_view, release

# Does one thing with copies of a vault, killed at its first change of a file, then at its second, and so on to the end.
KILLED_AT_EACH_STEP = """
import os, shutil, signal, sys
from pathlib import Path
from service.signing.vault import Vault

action, template, scratch = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.chmod", "os.link"}
for step in range(1, 1000):
    folder = scratch / str(step)
    if template.exists():
        shutil.copytree(template, folder)
    child = os.fork()
    if child == 0:
        left = step

        def watch(event, arguments):
            global left
            writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if event in CHANGES or writes:
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        if action == "create":
            Vault.open(folder)
        else:
            vault = Vault.open(folder)
            old = vault.keyring().keys[0].key_id
            getattr(vault, action)(*([] if action == "rotate" else [old]))
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if status == 0:
        print(step)
        sys.exit(0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
"""


@pytest.mark.parametrize("action", ["create", "rotate", "revoke", "retire"])
def test_a_vault_recovers_from_a_kill_at_any_step(tmp_path: Path, action: str) -> None:
    template, scratch = tmp_path / "template", tmp_path / "scratch"
    scratch.mkdir()
    before: Vault | None = None
    if action != "create":
        before = Vault.open(template)
        if action == "retire":
            before.rotate()
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT_EACH_STEP, action, str(template), str(scratch)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    n_steps = int(done.stdout)
    assert n_steps > 3
    versions = []
    for step in range(1, n_steps + 1):
        vault = Vault.open(scratch / str(step))
        root = vault.root if before is None else before.root
        keyring = node_view(vault, root)
        versions.append(keyring.version)
        assert Release.open(vault.sign(release().to_signed()), keyring) == release()
        vault.rotate()
        assert node_view(vault, root).version > keyring.version
        names = {path.name for path in vault.folder.iterdir()}
        assert names == {"root.pem", "signing", "keyring.json", "lock"}
        kept = {path.stem for path in (vault.folder / "signing").iterdir()}
        assert kept <= set(vault.keyring().trusted)
    if before is not None:
        assert versions == sorted(versions)  # the old state up to some step, the new one from there on
        assert versions[0] == before.keyring().version


ROTATING = """
import sys
from pathlib import Path
from service.signing.vault import Vault
vault = Vault.open(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for _ in range(8):
    vault.rotate()
    vault.keyring_document()
"""


def test_processes_that_rotate_at_once_lose_nothing(vault: Vault) -> None:
    processes: list[subprocess.Popen[Any]] = [
        subprocess.Popen(
            [sys.executable, "-c", ROTATING, str(vault.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    while any(process.poll() is None for process in processes):
        # Meanwhile a reader always finds a whole keyring and its key.
        assert Release.open(vault.sign(release().to_signed()), node_view(vault, vault.root)) == release()
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    keyring = node_view(vault, vault.root)
    assert sorted(entry.state for entry in keyring.keys) == ["active"] + ["retiring"] * 16


def test_two_processes_that_open_a_new_vault_at_once_agree(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from service.signing.vault import Vault; "
    code += "print(Vault.open(Path(sys.argv[1])).root.text)"
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "keys")], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    roots = {process.communicate()[0] for process in processes}
    assert len(roots) == 1
    assert len(Vault.open(tmp_path / "keys").keyring().keys) == 1
