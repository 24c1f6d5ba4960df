"""Commands reduced to what may be kept: the program and its sub-command, nothing else.

A sub-command is only ever a word of the table below, so no argument, path, URL or secret can
pass through. The standard library's `re` and `shlex` are not used, to keep the import cheap.
"""

from __future__ import annotations

from collections.abc import Sequence

#: The git operations that are told apart.
GIT_OPERATIONS = ("commit", "push", "pull", "branch")

UNKNOWN = "unknown"  # there is no program, or only the shell can tell which one
REDACTED = "redacted"  # a program's name that looks like a secret
NAME_LENGTH_MAX = 40  # characters
LINE_LENGTH_MAX = 4096  # characters; a program is named at the beginning

_JS_PACKAGES = (
    "add audit build cache ci config create dedupe deploy dlx exec info init install install-test "
    "link list login logout ls outdated pack prune publish rebuild remove run run-script search "
    "start stop store test uninstall unlink up update upgrade version view why workspace workspaces"
)
_CONTAINERS = (
    "attach build buildx commit compose container context cp create diff down events exec export "
    "history image images import info inspect kill load login logout logs manifest network pause "
    "port ps pull push rename restart rm rmi run save search start stats stop system tag top "
    "unpause up update version volume wait"
)
_PYTHON_MODULES = (
    "black build compileall coverage flake8 isort json mypy pip pipx pre_commit pylint pyright "
    "pytest ruff timeit tox twine unittest uvicorn venv virtualenv"
)

#: Programs known to have sub-commands, and the sub-commands that are told apart.
_SUBCOMMANDS = {
    "apt": "autoremove clean install list purge remove search show update upgrade",
    "apt-get": "autoremove clean download install purge remove source update upgrade",
    "aws": "cloudformation configure dynamodb ec2 ecr ecs eks iam lambda logs rds s3 s3api sts",
    "brew": "cleanup doctor info install link list outdated search tap uninstall update upgrade",
    "bun": _JS_PACKAGES,
    "bundle": "add check clean exec info init install list lock outdated remove show update",
    "cargo": (
        "add audit bench build check clean clippy doc fetch fix fmt init install locked metadata "
        "new nextest package publish remove run rustc search test tree uninstall update vendor"
    ),
    "claude": "config doctor install mcp plugin setup-token update",
    "codex": "apply exec login logout mcp resume",
    "composer": "dump-autoload install outdated remove require run-script update validate",
    "conda": "activate clean config create env info install list remove run search update",
    "coverage": "annotate combine erase html json lcov report run xml",
    "deno": "add bench bundle cache check compile doc fmt info init install lint run task test",
    "docker": _CONTAINERS,
    "docker-compose": _CONTAINERS,
    "dotnet": "add build clean format new nuget pack publish restore run sln test tool watch",
    "gh": (
        "alias api auth browse cache codespace config extension gist issue label org pr project "
        "release repo ruleset run search secret ssh-key status variable workflow"
    ),
    "git": (
        "add am apply archive bisect blame branch bundle cat-file check-ignore checkout "
        "cherry-pick clean clone commit config describe diff diff-tree difftool fetch "
        "for-each-ref format-patch fsck gc grep hash-object help init lfs log ls-files ls-remote "
        "ls-tree maintenance merge merge-base mergetool mv notes pull push range-diff rebase "
        "reflog remote reset restore rev-list rev-parse revert rm shortlog show show-ref "
        "sparse-checkout stash status submodule switch symbolic-ref tag update-index update-ref "
        "version worktree"
    ),
    "go": "build clean doc env fix fmt generate get install list mod run test tool version vet "
    "work",
    "helm": "create dependency get history install lint list package pull repo rollback search "
    "show status template test uninstall upgrade",
    "journalctl": "",
    "kubectl": (
        "annotate api-resources apply attach auth config cordon cp create debug delete describe "
        "diff drain edit exec explain expose get label logs patch port-forward replace rollout run "
        "scale set taint top uncordon version wait"
    ),
    "mvn": "clean compile deploy install package site test validate verify",
    "npm": _JS_PACKAGES,
    "nix": "build develop eval flake fmt profile repl run search shell store",
    "pip": "cache check config debug download freeze hash index inspect install list show "
    "uninstall wheel",
    "pipx": "ensurepath inject install list run uninstall upgrade",
    "pnpm": _JS_PACKAGES,
    "podman": _CONTAINERS,
    "poetry": "add build cache check config env export init install lock new publish remove run "
    "search self shell show sync update version",
    "pre-commit": "autoupdate clean gc install install-hooks run uninstall",
    "ruff": "check clean config format linter rule server version",
    "rustup": "component default doc override run self show target toolchain update which",
    "squad-otel": "config daemon demo down exec install report sessions status uninstall up",
    "systemctl": "cat daemon-reload disable enable is-active list-units mask reload restart show "
    "start status stop unmask",
    "terraform": "apply console destroy fmt get graph import init output plan providers refresh "
    "show state taint test validate version workspace",
    "tmux": (
        "attach attach-session capture-pane detach display display-message has-session "
        "kill-server kill-session list-clients list-panes list-sessions list-windows ls new "
        "new-session new-window pipe-pane resize-window respawn-pane send-keys set-option "
        "show-options source-file split-window wait-for"
    ),
    "uv": "add build cache export init lock pip publish python remove run self sync tool tree "
    "venv version",
    "yarn": _JS_PACKAGES,
}

#: Options between a program and its sub-command whose value is the next word.
_VALUE_OPTIONS = {
    "aws": "--profile --region --output --endpoint-url",
    "cargo": "-C -Z --config --color --manifest-path",
    "docker": "-c -H -l --config --context --host --log-level --tlscacert --tlscert --tlskey",
    "docker-compose": "-f -p --file --profile --project-name --project-directory --env-file",
    "git": "-C -c --git-dir --work-tree --namespace --exec-path --super-prefix --config-env "
    "--attr-source",
    "go": "-C",
    "helm": "-n --namespace --kube-context --kubeconfig",
    "kubectl": "-n -s --namespace --context --cluster --user --kubeconfig --server --token --as",
    "npm": "--prefix --workspace -w --loglevel --registry --userconfig",
    "pip": "--cache-dir --cert --index-url --log --proxy --python --timeout --trusted-host",
    "pnpm": "-C --dir --filter -F --loglevel",
    "podman": "-c --connection --log-level --root --url",
    "poetry": "-C -P --directory --project",
    "systemctl": "-H -M --host --machine",
    "tmux": "-c -f -L -S -T",
    "uv": "--cache-dir --config-file --directory --project",
    "yarn": "--cwd",
}

#: Programs that only start another one: options whose value is the next word, and how many
#: operands stand before the command.
_WRAPPERS = {
    "builtin": ("", 0),
    "caffeinate": ("-t -w", 0),
    "chrt": ("-T -P -D", 1),
    "command": ("", 0),
    "doas": ("-C -u", 0),
    "env": ("-u --unset -C --chdir", 0),
    "exec": ("-a", 0),
    "ionice": ("-c -n -p --class --classdata", 0),
    "nice": ("-n --adjustment", 0),
    "nohup": ("", 0),
    "setsid": ("", 0),
    "stdbuf": ("-i -o -e --input --output --error", 0),
    "sudo": ("-C -D -g -h -p -r -R -t -T -u -U --chdir --group --host --prompt --user", 0),
    "taskset": ("", 1),
    "time": ("-f -o --format --output", 0),
    "timeout": ("-k -s --kill-after --signal", 1),
    "unbuffer": ("", 0),
}

#: Programs that fetch a package and start what is in it: their options that take a value.
_RUNNERS = {
    "bunx": "-p --package",
    "npx": "-p --package -c --call -w --workspace",
    "pnpx": "-p --package",
    "uvx": "-p -c -w --from --with --python --index --constraints --env-file",
}

#: Packages whose agent has another name.
_AGENT_PACKAGES = {"claude-code": "claude", "gemini-cli": "gemini", "aider-chat": "aider"}

#: What a shell line often does before its real command.
_PREPARATIONS = frozenset(
    (
        "cd",
        "export",
        "pushd",
        "set",
        "shopt",
        "source",
        ".",
        "true",
        "ulimit",
        "umask",
        "unset",
        ":",
    )
)
_KEYWORDS = frozenset(("if", "then", "elif", "else", "while", "until", "do", "!", "{", "("))

#: How tokens of well-known services begin.
# fmt: off
_SECRET_PREFIXES = (
    "sk-", "sk_", "pk_", "rk_", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-",
    "gldt-", "xoxa-", "xoxb-", "xoxp-", "xoxr-", "xoxs-", "xapp-", "AKIA", "ASIA", "AIza", "eyJ",
    "ya29.", "npm_", "pypi-", "hf_", "dop_v1_", "SG.", "whsec_", "shpat_", "AGE-SECRET-",
    "-----BEGIN",
)
# fmt: on
_HEX = frozenset("0123456789abcdefABCDEF")


def looks_secret(word: str) -> bool:
    """Whether `word` may be a token, key, password or something that carries one."""
    if word.startswith(_SECRET_PREFIXES) or any(mark in word for mark in ":@=?&%"):
        return True
    run = 0  # hexadecimal digits in a row
    for character in word:
        run = run + 1 if character in _HEX else 0
        if run >= 16:
            return True
    pieces = "".join(c if c.isalnum() else " " for c in word).split()
    return _mixed(word, 20) or any(len(p) >= 32 or _mixed(p, 12) for p in pieces)


def _mixed(word: str, length: int) -> bool:
    """Whether `word` has at least `length` characters, of upper and lower case and digits."""
    return len(word) >= length and (
        any(c.isdigit() for c in word)
        and any(c.islower() for c in word)
        and any(c.isupper() for c in word)
    )


def reduce_command(argv: Sequence[str]) -> str:
    """The program's base name and its sub-command: `["git", "-C", "x", "push"]` is `git push`.

    Assignments and programs that only start another one (`env`, `sudo`, `timeout 5`) are stepped
    over. `python -m pytest` is `python pytest`, for modules of the table. `bash -c …` is `bash`:
    what it runs is an argument. At most two words and 81 characters; never raises.
    """
    words = _unwrapped(argv)
    name = _program(words[0]) if words else UNKNOWN
    subcommand = _subcommand(words)
    return f"{name} {subcommand}" if subcommand else name


def reduce_command_line(text: str) -> str:
    """`reduce_command` for a line of shell: its first command that is more than preparation.

    `cd /repo && FOO=1 git push | tail` is `git push`. A line that cannot be taken apart without
    a shell is `unknown`.
    """
    first = ""
    for words in _split_commands(text):
        while words and words[0] in _KEYWORDS:
            words = words[1:]
        if not words:
            continue
        reduced = reduce_command(words)
        first = first or reduced
        if words[0] not in _PREPARATIONS and not _is_assignment(words[-1:]):
            return reduced
    return first or UNKNOWN


def agent_name(line: str) -> str:
    """The agent's short name in a shell command: `env A=b /opt/claude --resume` is `claude`.

    What starts it (`nice -n 10`, `npx -y`, `python -m`) is stepped over, and a package has the
    name of its agent: `npx @anthropic-ai/claude-code@latest` is `claude` too.
    """
    commands = _split_commands(line)
    words = _unwrapped(commands[0]) if commands else ()
    name = _program(words[0]) if words else UNKNOWN
    if name in _RUNNERS:
        package = _inner(words, _RUNNERS[name], 0)[:1]
        name = _program(package[0].removeprefix("@").partition("@")[0]) if package else name
    elif name.startswith("python") and words[1:2] == ["-m"] and len(words) > 2:
        name = _program(words[2])
    return _AGENT_PACKAGES.get(name, name)


def git_operation(argv: Sequence[str]) -> str | None:
    """The operation that a git command line is: commit, push, pull or branch (creating one).

    None for everything else, and for what only asks (`--dry-run`, `--help`, `git branch --list`).
    """
    words = _unwrapped(argv)
    if not words or _base_name(words[0]) != "git":
        return None
    rest = _after_options(words, "git")
    if not rest:
        return None
    subcommand, arguments = rest[0], list(rest[1:])
    if "--" in arguments and subcommand != "branch":
        arguments = arguments[: arguments.index("--")]
    if "--help" in arguments or "-h" in arguments or "--dry-run" in arguments:
        return None
    if subcommand == "push":
        return None if "-n" in arguments else "push"
    if subcommand in ("commit", "pull"):
        return subcommand
    return "branch" if _creates_branch(subcommand, arguments) else None


def _creates_branch(subcommand: str, arguments: list[str]) -> bool:
    options = [a.partition("=")[0] for a in arguments if a.startswith("-")]
    long_options = {o for o in options if o.startswith("--")}
    letters = {c for o in options if not o.startswith("--") for c in o[1:]}
    if subcommand == "branch":
        creating = {"--copy", "--create-reflog", "--force", "--no-track", "--quiet", "--track"}
        creating |= {"--", "--recurse-submodules"}
        operands = [a for a in arguments if not a.startswith("-")]
        return bool(operands) and letters <= set("cCfqt") and long_options <= creating
    if subcommand == "checkout":
        return bool(letters & {"b", "B"}) or "--orphan" in long_options
    if subcommand == "switch":
        creating = {"--create", "--force-create", "--orphan"}
        return bool(letters & {"c", "C"} or long_options & creating)
    # Without -b, `worktree add` creates a branch or not, as the repository stands.
    return subcommand == "worktree" and arguments[:1] == ["add"] and bool(letters & {"b", "B"})


def _unwrapped(argv: Sequence[str]) -> Sequence[str]:
    """`argv` from the program that does the work; a wrapper of nothing stands for itself."""
    words = argv
    while True:
        while words and _is_assignment(words):
            words = words[1:]
        wrapper = _WRAPPERS.get(_base_name(words[0])) if words else None
        if wrapper is None:
            return words
        inner = _inner(words, *wrapper)
        if not inner:
            return words[:1]
        words = inner


def _inner(words: Sequence[str], value_options: str, operands: int) -> Sequence[str]:
    """The command that a wrapper starts; empty where it cannot be told."""
    index = 1
    values = value_options.split()
    while index < len(words) and words[index].startswith("-") and len(words[index]) > 1:
        option = words[index]
        index += 1
        if option == "--":
            break
        if option.startswith(("-S", "--split-string")):  # env: a command inside one word
            return ()
        if option in values:
            index += 1
    if words[index : index + 1] == ["-"]:
        index += 1
    return words[index + operands :]


def _after_options(words: Sequence[str], name: str) -> Sequence[str]:
    """What follows a program's own options."""
    values = _VALUE_OPTIONS.get(name, "").split()
    index = 1
    while index < len(words) and words[index][:1] in ("-", "+"):
        index += 2 if words[index] in values else 1
    return words[index:]


def _subcommand(words: Sequence[str]) -> str:
    if len(words) < 2:
        return ""
    name = _base_name(words[0])
    stem = name.rstrip("0123456789.")  # pip3, python3.11
    if stem == "python":
        module = words[2] if words[1] == "-m" and len(words) > 2 else ""
        return module if module in _PYTHON_MODULES.split() else ""
    table = _SUBCOMMANDS.get(name) or _SUBCOMMANDS.get(stem, "")
    rest = _after_options(words, stem if stem in _VALUE_OPTIONS else name)
    return rest[0] if rest and rest[0] in table.split() else ""


def _is_assignment(words: Sequence[str]) -> bool:
    """Whether the first word is `NAME=value` or `NAME+=value`."""
    if not words:
        return False
    name, equals, _ = words[0].partition("=")
    return bool(equals) and name.removesuffix("+").isidentifier()


def _base_name(word: str) -> str:
    return word.replace("\\", "/").rstrip("/").rpartition("/")[2].removesuffix(".exe")


def _program(word: str) -> str:
    """The base name as it may be shown."""
    if "://" in word or any(mark in word for mark in "$`("):
        return UNKNOWN
    name = "".join(c for c in _base_name(word) if c.isprintable()).strip()
    if not name:
        return UNKNOWN
    if looks_secret(name):
        return REDACTED
    plain = "".join(c if c.isalnum() or c in "._+-[]" else "_" for c in name)
    return plain[:NAME_LENGTH_MAX]


def _split_commands(text: str) -> list[list[str]]:
    """The simple commands of a line of shell, as words; redirections are dropped.

    Quotes and escapes are honoured; substitutions are kept as they stand. What is not closed ends
    with the text. Of a long text only the beginning is read, and no word that is cut.
    """
    commands: list[list[str]] = [[]]
    word: str | None = None
    quote = ""
    drop_next = False
    escaped = False

    def end_word() -> None:
        nonlocal word, drop_next
        if word is not None:
            if not drop_next:
                commands[-1].append(word)
            drop_next = False
        word = None

    for character in text[:LINE_LENGTH_MAX]:
        if escaped:
            escaped = False
            if character != "\n":
                word = (word or "") + character
        elif character == "\\" and quote not in ("'", "\n"):
            escaped = True
        elif quote == "\n":
            if character == "\n":
                quote = ""
                commands.append([])
        elif quote:
            if character == quote:
                quote = ""
            else:
                word = (word or "") + character
        elif character in "'\"":
            quote = character
            word = word or ""
        elif character in "<>":
            if word is not None and word.isdigit():
                word = None  # the number of the redirected descriptor
            end_word()
            drop_next = True
        elif character == "&" and drop_next and word is None:
            word = "&"  # 2>&1
        elif character in ";|&\n":
            end_word()
            drop_next = False
            commands.append([])
        elif character == "(" and word is None:
            commands.append([])
        elif character == ")" and "(" not in (word or ""):
            end_word()
            commands.append([])
        elif character == "#" and word is None:
            quote, drop_next = "\n", False  # a comment, up to the end of the line
        elif character.isspace():
            end_word()
        else:
            word = (word or "") + character
    if len(text) <= LINE_LENGTH_MAX:
        end_word()
    return [words for words in commands if words]
