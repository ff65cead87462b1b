"""What is written in a configuration stays what it is: Windows' paths, YAML 1.2's words, and settings that nobody knows."""

import pytest
import yaml

from hotseat.importing import convert
from hotseat.importing.commands import is_windows, spelled, windows_words, words
from hotseat.manifests import ManifestErrors
from hotseat.manifests.nodes import Tree, parse


def models_of(config: str) -> list[dict]:
    documents = yaml.safe_load_all(convert(config, "config.yaml", {}).text)
    return [each["spec"] for each in documents if each and each["kind"] == "Model"]


WINDOWS = r"""
macros:
  bin: D:\llm\bin\llama-server.exe
  models: 'E:\My Models'
models:
  drive:
    cmd: D:\llm\bin\llama-server.exe --port ${PORT} --model "D:\My Models\tiny q4.gguf"
  folded:
    cmd: >
      D:\llm\bin\llama-server.exe
      --port ${PORT}
      -m D:\llm\models\other.gguf
  lines:
    cmd: |
      ${bin} \
        --port ${PORT}
        --mmproj "${models}\mmproj.gguf"
      # the small one
        --chat-template-kwargs "{\"enable_thinking\": false}"
  share:
    cmd: 'llama-server -m \\nas\models\new\x.gguf --port ${PORT}'
  relative:
    cmd: llama-server --port ${PORT} -m models\new.gguf
"""


def test_paths_of_windows_keep_their_backslashes() -> None:
    drive, folded, lines, share, relative = (spec["command"] for spec in models_of(WINDOWS))
    assert drive == [r"D:\llm\bin\llama-server.exe", "--port", "{port}", "--model", r"D:\My Models\tiny q4.gguf"]
    assert folded == [r"D:\llm\bin\llama-server.exe", "--port", "{port}", "-m", r"D:\llm\models\other.gguf"]
    assert lines == [
        r"D:\llm\bin\llama-server.exe", "--port", "{port}", "--mmproj", r"E:\My Models\mmproj.gguf",
        "--chat-template-kwargs", '{{"enable_thinking": false}}',
    ]  # fmt: skip
    assert share[2] == r"\\nas\models\new\x.gguf"
    assert relative[-1] == r"models\new.gguf"
    assert convert(WINDOWS, "config.yaml", {}).text.count("paths of Windows") == 5


@pytest.mark.parametrize(
    ("command", "found"),
    [
        (r"serve --x 'a \n b'", ["serve", "--x", r"a \n b"]),
        (r'serve --grammar "a\"b" /m/my\ model.gguf', ["serve", "--grammar", 'a"b', "/m/my model.gguf"]),
        (r"""serve --json '{"a": "b\n"}'""", ["serve", "--json", r'{"a": "b\n"}']),
        ("serve \\\n  --port 1", ["serve", "--port", "1"]),
    ],
)
def test_commands_of_linux_are_split_as_a_shell_does(command: str, found: list[str]) -> None:
    assert not is_windows(command)
    assert words(command) == found


@pytest.mark.parametrize(
    ("command", "found"),
    [
        (r"a\b c", [r"a\b", "c"]),
        (r'"a b\\" c', ["a b\\", "c"]),
        (r"a\"b", ['a"b']),
        (r'"" x', ["", "x"]),
        ("C:\\a\\ b", ["C:\\a\\", "b"]),
        ("", []),
    ],
)
def test_backslashes_are_read_as_programs_of_windows_read_them(command: str, found: list[str]) -> None:
    assert windows_words(command) == found


def test_a_quote_that_is_not_closed_is_an_error_on_windows_too() -> None:
    with pytest.raises(ManifestErrors, match="No closing quotation"):
        convert('models:\n  m:\n    cmd: D:\\x.exe ${PORT} "a\n', "config.yaml", {})


def test_a_backslash_in_double_quotes_of_yaml_is_told_with_what_to_do() -> None:
    with pytest.raises(ManifestErrors, match="use single quotes, or none, for a path with backslashes"):
        convert('models:\n  m:\n    cmd: "D:\\llm\\x.exe --port ${PORT}"\n', "config.yaml", {})


WORDS = """
macros: {fa: on, mode: off, n: 1e3, t: 0.7}
models:
  m:
    cmd: serve --port ${PORT} -fa ${fa} --mode ${mode} -n ${n} --temp ${t} --flag ${own}
    macros: {own: true}
    metadata: {tools: yes, no: n, at: 1:30, build: 010, ratio: 1e3, hex: 0x10, big: 1_000, on: ~, real: true}
    unlisted: yes
    sendLoadingState: off
"""


def test_words_of_yaml_1_2_stay_words() -> None:
    (spec,) = models_of(WORDS)
    assert spec["command"][3:] == ["-fa", "on", "--mode", "off", "-n", "1000", "--temp", "0.7", "--flag", "true"]
    assert spec["metadata"] == {
        "tools": "yes", "no": "n", "at": "1:30", "build": 8, "ratio": 1000.0, "hex": 16, "big": 1000, "real": True,
    }  # fmt: skip
    assert spec["unlisted"] is True  # a field that is true or false takes these words
    assert "loading" not in spec


@pytest.mark.parametrize("tab", ["", "\t"])  # with a tab, PyYAML reads it instead of libyaml
def test_our_own_documents_are_read_as_kubernetes_does(tab: str) -> None:
    (ours,) = parse(f"a: on\nb: 1:30 # {tab}\n", "f")
    (theirs,) = parse(f"a: on\nb: 1:30 # {tab}\n", "f", yaml_1_2=True)
    assert isinstance(ours, Tree)
    assert isinstance(theirs, Tree)
    assert (ours.data, theirs.data) == ({"a": True, "b": 90}, {"a": "on", "b": "1:30"})


def test_a_number_is_spelled_as_go_does() -> None:
    assert [spelled(value) for value in (1000.0, 0.7, 1e22, True, 3, "x")] == ["1000", "0.7", "1e+22", "true", "3", "x"]


UNKNOWN = """models:
  m:
    cmd: serve --port ${PORT}
    tll: 5
    filters: {stripParam: x}
groups: {g: {members: [m], exclusif: true}}
hooks: {on_start: {}}
routing: {shedule: {}}
grups: {}
"""


def test_a_setting_that_nobody_knows_is_told_by_its_line() -> None:
    notes = {note.field: note.text for _, note in convert(UNKNOWN, "config.yaml", {}).notes}
    unknown = "not known to this importer; did you mean"
    assert notes["tll"] == f"line 4: {unknown} ttl?"
    assert "line 5: not known to this importer" in notes["filters.stripParam"]
    assert notes["groups.g.exclusif"] == f"line 6: {unknown} exclusive?"
    assert notes["hooks.on_start"] == f"line 7: {unknown} on_startup?"
    assert notes["routing.shedule"].startswith("line 8: not known to this importer")
    assert notes["grups"] == f"line 9: {unknown} groups?"


ELSEWHERE = """healthCheckTimeout: 60
models:
  "Org/Big":
    cmd: ssh gpu2 start-llama
    cmdStop: ssh gpu2 stop-llama
    proxy: http://gpu2:8080/
    checkEndpoint: /ready
    ttl: 300
    concurrencyLimit: 2
    aliases: [big]
  secret:
    cmd: serve ${PORT}
    proxy: http://me:pw@gpu2:8080
  both:
    cmd: ssh gpu2 serve --port ${PORT}
    proxy: http://gpu2:${PORT}
groups: {g: {members: ["Org/Big", both], swap: true}}
"""


def test_a_proxy_to_another_host_becomes_an_external_model() -> None:
    made = convert(ELSEWHERE, "config.yaml", {})
    big, secret, both = models_of(ELSEWHERE)
    assert big == {
        "engine": "external", "url": "http://gpu2:8080", "names": ["Org/Big", "big"], "engineModelName": "Org/Big",
        "health": {"path": "/ready"}, "lifecycle": {"connectTimeout": "60s"}, "concurrency": 2,
    }  # fmt: skip
    assert "cmd: it is not run: start the server at proxy yourself" in made.text
    assert "cmdStop, ttl: left out" in made.text
    assert (secret["engine"], both["engine"]) == (
        "custom",
        "custom",
    )  # what cannot be reached is told, and run as before
    assert "pw@" not in made.text
    lost = [note.text for _, note in made.notes if note.field == "proxy" and note.kind == "no equivalent"]
    assert len(lost) == 2
