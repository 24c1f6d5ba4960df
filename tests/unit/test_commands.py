from __future__ import annotations

import string
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from squad_otel import commands
from squad_otel.commands import (
    NAME_LENGTH_MAX,
    agent_name,
    git_operation,
    looks_secret,
    reduce_command,
    reduce_command_line,
)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("git push origin main", "git push"),
        ("git -C /secret/path -c user.name=x --no-pager log", "git log"),
        ("git --git-dir=/x/.git --work-tree /y status", "git status"),
        ("/usr/bin/git commit -m message", "git commit"),
        ("git", "git"),
        ("git --version", "git"),
        ("git hunter2", "git"),  # an alias, or anything
        ("npm run build", "npm run"),
        ("npm --prefix web run build", "npm run"),
        ("cargo test --all", "cargo test"),
        ("cargo +nightly test", "cargo test"),
        ("docker compose up -d", "docker compose"),
        ("docker --context prod ps", "docker ps"),
        ("kubectl -n secret-namespace get pods", "kubectl get"),
        ("kubectl secret-thing", "kubectl"),
        ("pip3 install package", "pip3 install"),
        ("uv run pytest", "uv run"),
        ("python -m pytest tests", "python pytest"),
        ("python3.11 -m pytest tests", "python3.11 pytest"),
        ("python -m my_private_module", "python"),
        ("python -c print(1)", "python"),
        ("python manage.py migrate", "python"),
        ("make deploy", "make"),
        ("pytest -x tests/unit", "pytest"),
        ("ls -la /home/me", "ls"),
        ("bash -c whatever", "bash"),
        ("bash deploy.sh production", "bash"),
        ("./run_tests.sh --all", "run_tests.sh"),
        ("curl https://user:pass@example.com/", "curl"),
        ("ssh me@host rm -rf x", "ssh"),
        ("mysql -psecret", "mysql"),
        ("x86_64-linux-gnu-gcc-12 -c a.c", "x86_64-linux-gnu-gcc-12"),
        ("[ -f x ]", "["),
    ],
)
def test_reduce_command(line: str, expected: str) -> None:
    assert reduce_command(line.split()) == expected


@pytest.mark.parametrize(
    "prefix",
    [
        "A=b",
        "TOKEN=sk-abc OTHER=1",
        "PATH+=:/x",
        "env",
        "env A=b C=d",
        "env -i -u HOME --chdir /tmp A=b",
        "/usr/bin/env --",
        "sudo",
        "sudo -u bob -E",
        "sudo -n A=b",
        "doas -u bob",
        "nice",
        "nice -n 10",
        "nice -10",
        "time -p",
        "timeout 5",
        "timeout -k 5 --signal=KILL 10m",
        "nohup",
        "setsid -w",
        "stdbuf -oL",
        "ionice -c 2 -n 7",
        "exec -a other",
        "command",
        "taskset 0x3",
        "A=b sudo -u bob env C=d nice -n 5 timeout 3",
    ],
)
def test_what_only_starts_another_program_is_stepped_over(prefix: str) -> None:
    words = [*prefix.split(), "git", "push", "origin"]
    assert reduce_command(words) == "git push"
    assert git_operation(words) == "push"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "unknown"),
        ([""], "unknown"),
        (["/"], "unknown"),
        (["A=b"], "unknown"),
        (["env"], "env"),
        (["sudo", "-u", "bob"], "sudo"),
        (["env", "-S", "git push --secret"], "env"),
        (["timeout", "5"], "timeout"),
        (["$(which git)", "push"], "unknown"),
        (["https://user:pass@example.com/x"], "unknown"),
        (["/opt/My Tools/run me"], "run_me"),
        (["C:\\tools\\git.exe", "push"], "git push"),
        (["a\x1b[31m\n\tb"], "a[31mb"),
        (["ghp_0123456789abcdefghijklmnopqrstuvwxyz"], "redacted"),
        (["git", "ghp_0123456789abcdefghijklmnopqrstuvwxyz"], "git"),
        (["git", ""], "git"),
        (["git", "-C"], "git"),
        (["python", "-m"], "python"),
    ],
)
def test_odd_command_lines(words: list[str], expected: str) -> None:
    assert reduce_command(words) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("git push", "git push"),
        ("cd /repo && git commit -m 'a && b; c'", "git commit"),
        ("cd /repo; FOO=1 npm test 2>&1 | tail -5", "npm test"),
        ("set -euo pipefail\nexport TOKEN=sk-abc\ncargo build", "cargo build"),
        ("git log --format='%H | %s' > out.txt", "git log"),
        (">out.txt 2>/dev/null git status", "git status"),
        ("git status &", "git status"),
        ("(cd x && make)", "make"),
        ("if git diff --quiet; then echo same; fi", "git diff"),
        ("! git diff", "git diff"),
        ("# what follows\ngit push # now", "git push"),
        ("echo a#b", "echo"),
        ("A=b", "unknown"),
        ("A=b; git push", "git push"),
        ("cd /somewhere", "cd"),
        ('"/opt/my tools/git" push', "git push"),
        ("git 'push", "git push"),  # the quote is not closed
        ("git \\\n  push", "git push"),
        ("bash -c 'git push https://u:p@host'", "bash"),
        ("cat <<'EOF'\nghp_secret\nEOF", "cat"),
        ("$CMD --now", "unknown"),
        ("", "unknown"),
        ("   \n", "unknown"),
        (";;&&||", "unknown"),
    ],
)
def test_reduce_command_line(line: str, expected: str) -> None:
    assert reduce_command_line(line) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("git commit -m x", "commit"),
        ("git -C dir -c user.email=a@b commit --amend", "commit"),
        ("git --git-dir x --work-tree y push --force", "push"),
        ("git pull --rebase", "pull"),
        ("git branch name", "branch"),
        ("git branch name HEAD~1", "branch"),
        ("git branch -f name sha", "branch"),
        ("git branch --track name origin/name", "branch"),
        ("git branch -c old new", "branch"),
        ("git checkout -b name", "branch"),
        ("git checkout -qb name origin/main", "branch"),
        ("git checkout -B name", "branch"),
        ("git checkout --orphan name", "branch"),
        ("git switch -c name", "branch"),
        ("git switch --create=name", "branch"),
        ("git switch --orphan name", "branch"),
        ("git worktree add -b name ../path", "branch"),
        ("git worktree add -q -B name ../path main", "branch"),
        ("git", None),
        ("git -C", None),
        ("git status", None),
        ("git branch", None),
        ("git branch -a", None),
        ("git branch -d name", None),
        ("git branch -D name", None),
        ("git branch -m old new", None),
        ("git branch --list pattern", None),
        ("git branch --contains sha", None),
        ("git branch -u origin/main name", None),
        ("git branch --merged main", None),
        ("git checkout main", None),
        ("git checkout -- -b", None),
        ("git switch main", None),
        ("git worktree list", None),
        ("git worktree remove -f x", None),
        ("git commit --help", None),
        ("git commit --dry-run", None),
        ("git push -n", None),
        ("git merge x", None),
        ("npm commit", None),
        ("bash -c git", None),
        ("", None),
    ],
)
def test_git_operation(line: str, expected: str | None) -> None:
    assert git_operation(line.split()) == expected


ALNUM = string.ascii_letters + string.digits
HEX = string.digits + "abcdef"


def texts(alphabet: str, least: int, most: int) -> st.SearchStrategy[str]:
    return st.text(st.sampled_from(alphabet), min_size=least, max_size=most)


#: Made as their issuers make them.
SECRETS = st.one_of(
    texts(ALNUM, 20, 48).map("sk-ant-api03-".__add__),
    texts(ALNUM, 36, 36).map("ghp_".__add__),
    texts(ALNUM + "_", 60, 82).map("github_pat_".__add__),
    texts(string.ascii_uppercase + "234567", 16, 16).map("AKIA".__add__),
    texts(ALNUM + "-", 20, 20).map("glpat-".__add__),
    texts(ALNUM + "-", 24, 40).map("xoxb-".__add__),
    st.tuples(texts(ALNUM, 20, 40), texts(ALNUM, 20, 40)).map(lambda p: f"eyJ{p[0]}.eyJ{p[1]}.x"),
    texts(HEX, 32, 64),
    st.tuples(texts(ALNUM, 3, 9), texts(ALNUM, 3, 9)).map(lambda p: f"{p[0]}:{p[1]}@host"),
    texts(ALNUM + "+/", 39, 39).map(lambda text: f"a1B{text}=="),
)

WORDS = st.one_of(
    st.sampled_from(
        ["git", "npm", "env", "sudo", "-u", "timeout", "5", "push", "-C", "python", "-m", "--", "-"]
    ),
    st.text(max_size=12),
)


@given(secret=SECRETS)
def test_secrets_are_known_by_their_looks(secret: str) -> None:
    assert looks_secret(secret)


@given(before=st.lists(WORDS, max_size=4), secret=SECRETS, after=st.lists(WORDS, max_size=3))
@example(before=[], secret="AKIA" + "A" * 16, after=[])
def test_no_secret_survives_anywhere(before: list[str], secret: str, after: list[str]) -> None:
    carried = (secret, f"TOKEN={secret}", f"--token={secret}", f"https://{secret}", f"/x/{secret}")
    for word in carried:
        words = [*before, word, *after]
        # Base64 may hold slashes: then no part of it may survive either.
        pieces = [piece for piece in secret.replace("/", " ").split() if len(piece) >= 8]
        line = " ".join(f"'{w}'" for w in words if "'" not in w)
        for reduced in (reduce_command(words), reduce_command_line(line)):
            kept = reduced.split()
            assert secret not in reduced
            assert not [piece for piece in pieces if piece in kept and looks_secret(piece)]


@given(st.lists(WORDS, max_size=6))
def test_what_is_kept_is_short_and_printable_and_of_the_table(words: list[str]) -> None:
    reduced = reduce_command(words)
    name, _, subcommand = reduced.partition(" ")
    assert 0 < len(name) <= NAME_LENGTH_MAX
    assert reduced.isprintable()
    assert not set(name) & set("/\\:@?&=%'\"`$")
    known = {*" ".join(commands._SUBCOMMANDS.values()).split(), *commands._PYTHON_MODULES.split()}
    assert not subcommand or subcommand in known
    git_operation(words)


@given(st.text(max_size=80))
def test_any_line_of_shell_is_reduced(line: str) -> None:
    reduced = reduce_command_line(line)
    assert reduced
    assert reduced.isprintable()


def test_every_subcommand_of_the_table_is_a_plain_word() -> None:
    for program, words in commands._SUBCOMMANDS.items():
        for word in words.split():
            assert word[0].isalpha(), (program, word)
            assert set(word) <= set(string.ascii_lowercase + string.digits + "-"), (program, word)


def test_of_a_long_line_the_beginning_is_read_and_no_cut_word() -> None:
    room = commands.LINE_LENGTH_MAX
    assert reduce_command_line("git push " + "x" * room) == "git push"
    assert reduce_command_line("A=" + "x" * (room - 8) + " program") == "unknown"


def test_the_import_is_cheap() -> None:
    # By itself, without the package, which shows the track API.
    done = subprocess.run(
        [sys.executable, "-S", "-c", "import sys, commands; print(*sys.modules)"],
        cwd=Path(commands.__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stdout.split())
    assert "commands" in loaded
    assert not loaded & {"re", "shlex", "dataclasses", "enum", "typing", "msgspec"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("claude", "claude"),
        ("claude --dangerously-skip-permissions", "claude"),
        ("/opt/bin/claude --resume", "claude"),
        ("env -i A=b claude", "claude"),
        ("env -u FOO claude", "claude"),
        ("FOO=1 codex --full-auto", "codex"),
        ("nice -n 10 claude", "claude"),
        ("sudo -u dev claude", "claude"),
        ("timeout 5h claude", "claude"),
        ("npx -y @anthropic-ai/claude-code", "claude"),
        ("npx @anthropic-ai/claude-code@2.1 --resume", "claude"),
        ("bunx @openai/codex", "codex"),
        ("npx @google/gemini-cli@latest", "gemini"),
        ("uvx --from aider-chat aider", "aider"),
        ("python -m aider --model x", "aider"),
        ("aider --model 'ollama_chat/gemma3:1b'", "aider"),
        ("/path with 'an open quote", "path"),
        ("", "unknown"),
        ("npx", "npx"),
    ],
)
def test_the_agent_of_a_shell_command(line: str, expected: str) -> None:
    assert agent_name(line) == expected
