from pathlib import Path

import pytest
from pydantic import ValidationError

from shoal_agent.config import ENVIRONMENT, ApiSection, api_key_hashes, load_config, load_operator_config
from shoal_agent.core.budgets import NO_TERMS, PowerModel, Terms
from shoal_agent.core.service_classes import RequestClass
from shoal_agent.errors import ConfigError, ExitCode

DEPLOY = Path(__file__).parents[2] / "deploy"
ROOT_KEY, HASH = "a" * 64, "b" * 64

AGENT = f"""
[node]
state_dir = "state"
key_file = "node.key"
[cluster]
roster_file = "roster.bin"
root_keys = ["{ROOT_KEY}"]
[[brokers]]
url = "mqtt://127.0.0.1:1883"
[data]
host = "127.0.0.1"
certificate_file = "data.crt"
key_file = "data.key"
[api]
key_hashes = ["{HASH}"]
[models]
store_dir = "models"
"""


@pytest.fixture
def folder(tmp_path):
    for name in ("roster.bin", "data.crt", "node.key", "data.key"):
        (tmp_path / name).touch(mode=0o600)
    return tmp_path


def load(folder, text=AGENT, environment=None, **rest):
    file = folder / "agent.toml"
    file.write_text(text)
    return load_config(file, environment=environment or {}, **rest)


def faults(folder, text):
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    first, *lines = caught.value.message.splitlines()
    count = "1 fault" if len(lines) == 1 else f"{len(lines)} faults"
    assert first == f"{folder / 'agent.toml'} has {count}:"
    return [line.strip() for line in lines]


def test_the_smallest_agent(folder):
    config = load(folder)
    assert config.node.key_file == folder / "node.key"
    assert config.node.state_dir == folder / "state"
    assert (config.node.name, config.node.zone) == ("node", "default")
    assert config.cluster.root_keys == (ROOT_KEY,)
    assert config.cluster.root_threshold == 1
    assert [(broker.host, broker.port) for broker in config.brokers] == [("127.0.0.1", 1883)]
    assert (config.data.port, config.data.advertise_host) == (7600, "127.0.0.1")
    assert (config.api.enabled, config.api.host, config.api.port) == (True, "127.0.0.1", 8600)
    assert (config.engine.threads, config.engine.lanes, config.engine.memory_bytes_max) == (0, 1, None)
    assert (config.log.level, config.log.format) == ("info", "json")


def test_the_examples_parse():
    credentials = {"CREDENTIALS_DIRECTORY": "/run/credentials/shoal"}
    config = load_config(DEPLOY / "agent.example.toml", environment=credentials, check_files=False)
    assert len(config.brokers) == 2
    operator = load_operator_config(DEPLOY / "operator.example.toml", environment={}, check_files=False)
    assert operator.operator.key_file == DEPLOY / "operator.key"


def test_the_example_shows_every_setting_and_its_true_default(tmp_path):
    lines = (DEPLOY / "agent.example.toml").read_text().splitlines()
    shown = "\n".join(line.removeprefix("# ") if line.startswith("# ") and " = " in line else line for line in lines)
    credentials = {"CREDENTIALS_DIRECTORY": "/run/credentials/shoal"}
    (tmp_path / "agent.toml").write_text(shown)
    config = load_config(tmp_path / "agent.toml", environment=credentials, check_files=False)
    for section in (
        config,
        config.node,
        config.cluster,
        *config.brokers,
        config.data,
        config.api,
        config.models,
        config.content,
        config.budget,
        *config.classes,
        config.pipelines,
        config.log,
    ):
        assert section.model_fields_set == set(type(section).model_fields)
    (tmp_path / "agent.toml").write_text("\n".join(lines))
    plain = load_config(tmp_path / "agent.toml", environment=credentials, check_files=False)
    bounds = {"memory_bytes_max": 2 * 2**30, "kv_bytes_max": 512 * 2**20}
    engine, node = plain.engine.model_copy(update=bounds), {"flight_bytes_max": 256 * 2**20}
    limits = {"power_w": 8.0, "idle_w": 4.0, "busy_w": 10.0, "heat_limit_c": 80.0, "moved_bytes_per_s": 10**6}
    budget = plain.budget.model_copy(update={**limits, "price_per_hour": 0.2, "money_per_hour": 0.05})
    pipelines = plain.pipelines.model_copy(update={"folder": tmp_path / "pipelines"})
    changed = {"engine": engine, "node": plain.node.model_copy(update=node), "budget": budget, "pipelines": pipelines}
    assert config == plain.model_copy(update=changed)


def test_nothing_can_be_changed_afterwards(folder):
    config = load(folder)
    with pytest.raises(ValidationError, match="frozen"):
        config.api.port = 1


def test_all_faults_come_together_each_with_its_path(folder):
    (folder / "data.key").chmod(0o644)
    text = AGENT.replace('host = "127.0.0.1"', 'host = "0.0.0.0"\nport = 70000').replace("[models]", "[model]")
    text = text.replace("mqtt://127.0.0.1:1883", "mqtt://broker.example.net").replace(HASH, "secret")
    text = text.replace("roster.bin", "absent.bin").replace(f'["{ROOT_KEY}"]', f'["{ROOT_KEY}"]\nroot_threshold = 2')
    assert faults(folder, text) == [
        f"cluster.roster_file: {folder}/absent.bin is not there",
        "cluster.root_threshold: 2 signatures can never come from 1 root keys",
        "brokers[0].url: plain MQTT is for loopback only; use mqtts:// with certificates",
        f"data.key_file: {folder}/data.key holds a private key and has mode 0644; run: chmod 600 {folder}/data.key",
        "data.port: Input should be less than or equal to 65535",
        "data.advertise_host: required while data.host is 0.0.0.0: peers need an address to connect to",
        "api.key_hashes[0]: must be 64 hexadecimal characters, lower case",
        "models: required",
        "model: there is no such setting",
    ]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("mqtt://10.0.0.1", "plain MQTT is for loopback only"),
        ("http://127.0.0.1", "must be mqtts://host[:port]"),
        ("mqtt://", "must be mqtts://host[:port]"),
        ("mqtt://127.0.0.1:0", "must be mqtts://host[:port]"),
        ("mqtt://127.0.0.1:99999", "not a URL"),
        ("mqtt://user:secret@127.0.0.1", "must end after host and port"),
        ("mqtt://127.0.0.1/path", "must end after host and port"),
    ],
)
def test_what_is_no_broker(folder, url, reason):
    (line,) = faults(folder, AGENT.replace("mqtt://127.0.0.1:1883", url))
    assert line.startswith("brokers[0].url: ")
    assert reason in line
    assert "secret" not in line


def test_tls_needs_certificates_and_plain_takes_none(folder):
    tls = AGENT.replace("mqtt://127.0.0.1:1883", "mqtts://broker.example.net")
    needed = ["ca_file", "certificate_file", "key_file"]
    assert faults(folder, tls) == [f"brokers[0].{name}: required for mqtts://" for name in needed]
    files = 'ca_file = "data.crt"\ncertificate_file = "data.crt"\nkey_file = "data.key"\n[data]'
    broker = load(folder, tls.replace("[data]", files)).brokers[0]
    assert (broker.host, broker.port, broker.key_file) == ("broker.example.net", 8883, folder / "data.key")
    assert len(faults(folder, AGENT.replace("[data]", files))) == 3


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ('[[brokers]]\nurl = "mqtt://127.0.0.1:1883"\n', "the same broker is named twice"),
        ("".join(f'[[brokers]]\nurl = "mqtt://127.0.0.1:{p}"\n' for p in (1, 2, 3)), "1 to 3 brokers, not 4"),
    ],
)
def test_brokers_are_few_and_distinct(folder, extra, reason):
    (line,) = faults(folder, AGENT + extra)
    assert line.startswith("brokers: ")
    assert reason in line


def test_an_api_needs_a_key_unless_it_is_off(folder):
    assert faults(folder, AGENT.replace(f'["{HASH}"]', "[]")) == [
        "api.key_hashes: an API needs at least one key; run: shoal api-key"
    ]
    assert not load(folder, AGENT.replace(f'key_hashes = ["{HASH}"]', "enabled = false")).api.enabled


def test_environment_wins_over_file_and_flags_over_both(folder):
    environment = {"SHOAL_API_PORT": "9000", "SHOAL_LOG_LEVEL": "debug", "SHOAL_STATE_DIR": "", "HOME": "/"}
    config = load(folder, environment=environment, overrides={"log.level": "error"})
    assert (config.api.port, config.log.level, config.node.state_dir) == (9000, "error", folder / "state")


def test_every_variable_names_a_setting(folder):
    values = {"SHOAL_LOG_LEVEL": "debug", "SHOAL_LOG_FORMAT": "console"}
    config = load(folder, environment={name: values.get(name, "1") for name in ENVIRONMENT})
    for path in ENVIRONMENT.values():
        section, key = path.split(".")
        assert key in getattr(config, section).model_fields_set


def test_the_node_key_comes_from_systemd_if_no_file_is_named(folder):
    text = AGENT.replace('key_file = "node.key"\n', "")
    assert load(folder, text, {"CREDENTIALS_DIRECTORY": str(folder)}).node.key_file == folder / "node.key"
    assert "LoadCredential=" in faults(folder, text)[0]


@pytest.mark.parametrize(
    ("raw", "reason"), [(b"[node", "not TOML"), (b"\xff", "not UTF-8"), (b"#" * (1024 * 1024 + 1), "longer than")]
)
def test_what_is_no_configuration(folder, raw, reason):
    file = folder / "agent.toml"
    file.write_bytes(raw)
    with pytest.raises(ConfigError, match=reason) as caught:
        load_config(file, environment={})
    assert caught.value.exit_code is ExitCode.CONFIG


def test_a_section_that_is_none_is_a_fault(folder):
    rest = AGENT.replace(f'[api]\nkey_hashes = ["{HASH}"]\n', "")
    with pytest.raises(ConfigError, match="api: Input should be a valid dictionary"):
        load(folder, "api = 5\n" + rest, {"SHOAL_API_PORT": "1"})


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.toml: No such file"):
        load_config(tmp_path / "absent.toml", environment={})


def test_key_hashes_come_from_file_and_list(tmp_path):
    file = tmp_path / "keys.txt"
    file.write_text(f"# phones\n{HASH}  # ours\n\n")
    api = ApiSection.model_construct(key_hash_file=file, key_hashes=(ROOT_KEY,))
    assert api_key_hashes(api) == (HASH, ROOT_KEY)
    assert api_key_hashes(ApiSection.model_construct(key_hashes=(ROOT_KEY,))) == (ROOT_KEY,)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no key hash in it"),
        ("\nsk-secret-key-itself", "line 2: not 64 hexadecimal"),
        (f"{HASH}\n" * 65, "65 keys, at most 64"),
    ],
)
def test_a_bad_key_hash_file_is_refused(tmp_path, text, reason):
    file = tmp_path / "keys.txt"
    file.write_text(text)
    with pytest.raises(ConfigError, match=reason) as caught:
        api_key_hashes(ApiSection.model_construct(key_hash_file=file, key_hashes=()))
    assert "secret" not in caught.value.message


def test_packages_between_nodes(folder):
    plain = load(folder)
    assert (plain.content.bytes_per_s_max, plain.content.catalog, plain.models.disk_bytes_max) == (32_000_000, True, 0)
    text = AGENT.replace("[models]", "[models]\ndisk_bytes_max = '2 GiB'") + "\n[content]\nbytes_per_s_max = 0\n"
    config = load(folder, text)
    assert (config.content.bytes_per_s_max, config.models.disk_bytes_max) == (0, 2 * 2**30)
    (fault,) = faults(folder, AGENT + "\n[content]\nbytes_per_s_max = 1000\n")
    assert fault.startswith("content.bytes_per_s_max: 0 for no bound, or at least 65536")


def test_budgets_become_the_terms_of_the_core(folder):
    assert load(folder).budget.terms() == NO_TERMS
    lines = "power_w = 8", "idle_w = 4", "busy_w = 10.5", "price_per_hour = 0.2", "money_per_hour = 0.1"
    text = "\n".join(["[budget]", *lines, "heat_limit_c = 80"])
    terms = Terms(8.0, 0.2, 0.1, None, 80.0, PowerModel(4.0, 10.5))
    assert load(folder, AGENT + text).budget.terms() == terms


def test_classes_become_promises_of_the_core(folder):
    text = '[[classes]]\nname = "chat"\ndeadline_ms = 20000\nepsilon = 0.05\n'
    (chat,) = load(folder, AGENT + text).classes
    assert chat.promise() == RequestClass("chat", 20_000.0, 0.05)
    assert load(folder).classes == ()
    assert faults(folder, AGENT + text + text) == ["classes: request class 'chat' is defined twice"]


@pytest.mark.parametrize(
    ("deadline_ms", "epsilon", "path"),
    [
        ("0", "0.1", "deadline_ms"),
        ("nan", "0.1", "deadline_ms"),
        ("1e9", "0.1", "deadline_ms"),
        ("9", "1.0", "epsilon"),
    ],
)
def test_promises_that_are_none_are_faults(folder, deadline_ms, epsilon, path):
    text = f'[[classes]]\nname = "chat"\ndeadline_ms = {deadline_ms}\nepsilon = {epsilon}\n'
    (fault,) = faults(folder, AGENT + text)
    assert fault.startswith(f"classes[0].{path}: Input should be")


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("price_per_hour = -1", "budget.price_per_hour: Input should be greater than or equal to 0"),
        ("money_per_hour = 0", "budget.money_per_hour: Input should be greater than 0"),
        ("power_w = nan", "budget.power_w: Input should be a finite number"),
        ("heat_limit_c = inf", "budget.heat_limit_c: Input should be a finite number"),
        ("idle_w = 4", "budget: idle_w and busy_w make a power model only together"),
        ("idle_w = 4\nbusy_w = 3", "budget: busy_w must be at least idle_w: 3.0 W is less than 4.0 W"),
        (
            "idle_w = 4\nbusy_w = 9\npower_w = 3",
            "budget: a budget of 3.0 W cannot be kept: idle the node draws 4.0 W",
        ),
        ("money_per_hour = 1", "budget: a budget of 1.0 an hour means nothing: the node's hours have no price"),
        ("watts = 3", "budget.watts: there is no such setting"),
    ],
)
def test_budgets_that_nobody_can_keep_are_faults(folder, lines, reason):
    assert faults(folder, f"{AGENT}[budget]\n{lines}\n") == [reason]
