"""What an operator may set, read once and never changed afterwards.

A configuration is a TOML file. Everything wrong with it is reported at once, each fault with its path
(``brokers[1].url: ...``), because an operator who mends a file over ssh should have to do so once. Nothing is
guessed: an unknown key is a fault, not a typo that silently does nothing. Paths are relative to the file that names
them; files are checked only when the caller is about to use them (``check_files``), so that an example parses on a
machine without keys.

Two kinds of files share their sections: an agent's (:class:`Config`, see ``deploy/agent.example.toml``) and an
operator's (:class:`OperatorConfig`, for ``shoal deploy``).
"""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, Field, ValidationError, ValidationInfo, field_validator

from shoal_agent.config_control import BudgetSection, RequestClasses
from shoal_agent.config_values import (
    HASH,
    Bytes,
    Count,
    Directory,
    Hash,
    Name,
    Place,
    Port,
    PrivateFile,
    ReadableFile,
    Room,
    Seconds,
    Section,
    Whole,
    is_loopback,
    is_wildcard,
)
from shoal_agent.errors import ConfigError
from shoal_protocol.limits import API_KEYS_MAX, FLIGHT_BYTES_MAX

BROKERS_MAX: Final = 3
"""Every agent connects to all brokers of its cluster; a fourth would add load and no safety."""
CONFIG_BYTES_MAX: Final = 1024 * 1024
"""A configuration is a page; whatever is longer is not one."""
CONTENT_BYTES_PER_S_MIN: Final = 64 * 1024
"""A piece takes four seconds then; whoever waits for it gives up after twenty."""
MQTT_PORTS: Final = {"mqtt": 1883, "mqtts": 8883}

ENVIRONMENT: Final[Mapping[str, str]] = {
    "SHOAL_STATE_DIR": "node.state_dir",
    "SHOAL_STORE_DIR": "models.store_dir",
    "SHOAL_DATA_PORT": "data.port",
    "SHOAL_DATA_ADVERTISE_HOST": "data.advertise_host",
    "SHOAL_API_HOST": "api.host",
    "SHOAL_API_PORT": "api.port",
    "SHOAL_LOG_LEVEL": "log.level",
    "SHOAL_LOG_FORMAT": "log.format",
}
"""Environment variables that win over the file: what differs between machines that share one."""


class NodeSection(Section):
    """Who this node is. The key file holds the 32-byte Ed25519 seed that ``shoal keygen`` wrote."""

    state_dir: Directory
    key_file: PrivateFile = Path("credential:node.key")
    name: Name = "node"
    zone: Name = "default"
    flight_bytes_max: Annotated[Bytes, Field(le=FLIGHT_BYTES_MAX)] | None = None
    """Record this node's life for ``shoal sim replay``, up to so many bytes; what clients say is in it."""
    leave_s_max: Seconds = 10.0
    """How long others get to take over this node's blocks, and its clients to read to the end, when it is asked to
    stop; until then it serves on, and refuses new requests."""


class OperatorSection(Section):
    """Who the operator is; ``state_dir`` keeps the counter that fences off replays of earlier announcements."""

    state_dir: Directory
    key_file: PrivateFile


class ClusterSection(Section):
    """Whom it belongs to: the roster, and the root keys (hexadecimal) of which so many must have signed it."""

    roster_file: ReadableFile
    root_keys: Annotated[tuple[Hash, ...], Field(min_length=1, max_length=16)]
    root_threshold: Count = 1

    @field_validator("root_threshold")
    @classmethod
    def _reachable(cls, value: int, info: ValidationInfo) -> int:
        keys = info.data.get("root_keys")
        if keys is not None and value > len(set(keys)):
            raise ValueError(f"{value} signatures can never come from {len(set(keys))} root keys")
        return value


class BrokerSection(Section):
    """One MQTT broker: ``mqtts://host[:8883]`` with certificates, or ``mqtt://`` on loopback without."""

    url: str
    ca_file: ReadableFile | None = None
    certificate_file: ReadableFile | None = None
    key_file: PrivateFile | None = None

    @field_validator("url")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            port = parts.port
        except ValueError as fault:
            raise ValueError(f"not a URL: {fault}") from fault
        if parts.scheme not in MQTT_PORTS or not parts.hostname or port == 0:
            raise ValueError("must be mqtts://host[:port], or mqtt://127.0.0.1[:port]")
        if parts.path or parts.query or parts.fragment or parts.username is not None:
            raise ValueError("must end after host and port; agents are known by their certificates")
        if parts.scheme == "mqtt" and not is_loopback(parts.hostname):
            raise ValueError("plain MQTT is for loopback only; use mqtts:// with certificates")
        return value

    @field_validator("ca_file", "certificate_file", "key_file")
    @classmethod
    def _with_tls(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        url = info.data.get("url")
        if url is not None and url.startswith("mqtts:") and value is None:
            raise ValueError("required for mqtts://")
        if url is not None and url.startswith("mqtt:") and value is not None:
            raise ValueError("has no use with mqtt://")
        return value

    @property
    def host(self) -> str:
        """Name or address, without brackets."""
        host = urlsplit(self.url).hostname
        assert host is not None, "the validator saw it"
        return host

    @property
    def port(self) -> int:
        """The port named, or the scheme's own."""
        parts = urlsplit(self.url)
        return parts.port or MQTT_PORTS[parts.scheme]


class DataSection(Section):
    """Where peers reach this node. Port 0 takes a free one; ``advertise_host`` is what is told to the others."""

    certificate_file: ReadableFile
    key_file: PrivateFile
    host: str = "0.0.0.0"  # noqa: S104  (peers come from outside; every connection is mutually authenticated)
    port: Port = 7600
    advertise_host: str = ""
    relay: bool = True
    """Reach peers through the brokers, sealed, where no direct connection can be made; and let them reach us."""

    @field_validator("advertise_host")
    @classmethod
    def _somewhere(cls, value: str, info: ValidationInfo) -> str:
        host = info.data.get("host", "")
        if not value and is_wildcard(host):
            raise ValueError(f"required while data.host is {host}: peers need an address to connect to")
        return value or host


class ApiSection(Section):
    """The HTTP API for applications. Keys are kept as hashes (``shoal api-key`` prints both)."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: Port = 8600
    key_hash_file: ReadableFile | None = None
    key_hashes: Annotated[tuple[Hash, ...], Field(max_length=API_KEYS_MAX)] = ()

    @field_validator("key_hashes")
    @classmethod
    def _some(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if info.data.get("enabled") and not value and info.data.get("key_hash_file", value) is None:
            raise ValueError("an API needs at least one key; run: shoal api-key")
        return value


class ModelsSection(Section):
    """Where packages live, and how much of the disk they may take (0: no budget)."""

    store_dir: Directory
    disk_bytes_max: Room = 0


class ContentSection(Section):
    """Packages between nodes. ``bytes_per_s_max`` bounds each direction (0: no bound)."""

    bytes_per_s_max: Room = 32_000_000
    catalog: bool = True
    """Import a package from the catalog when no node has it."""

    @field_validator("bytes_per_s_max")
    @classmethod
    def _enough(cls, value: int) -> int:
        if 0 < value < CONTENT_BYTES_PER_S_MIN:
            raise ValueError(f"0 for no bound, or at least {CONTENT_BYTES_PER_S_MIN} bytes per second")
        return value


class EngineSection(Section):
    """What the node gives. ``threads`` 0: one less than there are cores; a bound that is not set is measured."""

    threads: Annotated[Whole, Field(ge=0, le=1024)] = 0
    lanes: Count = 1
    """Stage runs at the same time: more than one shares the threads and helps only many-core nodes."""
    memory_bytes_max: Bytes | None = None
    kv_bytes_max: Bytes | None = None


class PipelinesSection(Section):
    """Where the manifests of pipelines lie: every ``*.toml`` of the folder is one."""

    folder: Directory | None = None


class LogSection(Section):
    """What is written to stderr."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console"] = "json"


def _few_and_distinct(brokers: tuple[BrokerSection, ...]) -> tuple[BrokerSection, ...]:
    if not 1 <= len(brokers) <= BROKERS_MAX:
        raise ValueError(f"a cluster has 1 to {BROKERS_MAX} brokers, not {len(brokers)}")
    if len({(broker.host, broker.port) for broker in brokers}) < len(brokers):
        raise ValueError("the same broker is named twice")
    return brokers


Brokers = Annotated[tuple[BrokerSection, ...], AfterValidator(_few_and_distinct)]


class Config(Section):
    """Everything an agent is told."""

    node: NodeSection
    cluster: ClusterSection
    brokers: Brokers
    data: DataSection
    api: ApiSection
    models: ModelsSection
    content: ContentSection = ContentSection()
    engine: EngineSection = EngineSection()
    budget: BudgetSection = BudgetSection()
    classes: RequestClasses = ()
    pipelines: PipelinesSection = PipelinesSection()
    log: LogSection = LogSection()


class OperatorConfig(Section):
    """Everything ``shoal deploy`` is told."""

    operator: OperatorSection
    cluster: ClusterSection
    brokers: Brokers
    models: ModelsSection


_Any = TypeVar("_Any", Config, OperatorConfig)
_Sketch = TypeVar("_Sketch", bound=BaseModel)
EXPLAINED: Final = "mend the lines named; deploy/agent.example.toml explains each"
"""What to do about a fault in an agent's or an operator's configuration."""


def load_config(
    file: Path,
    *,
    environment: Mapping[str, str],
    overrides: Mapping[str, str | int] | None = None,
    check_files: bool = True,
) -> Config:
    """An agent's configuration from ``file``; ConfigError names every fault.

    ``environment`` (os.environ) and then ``overrides`` (flags; keys are dotted paths, ``log.level``) win over the file.
    """
    place = Place(file.absolute().parent, environment, check_files)
    settings = {path: environment[name] for name, path in ENVIRONMENT.items() if environment.get(name)}
    return _load(Config, file, place, {**settings, **(overrides or {})})


def load_operator_config(file: Path, *, environment: Mapping[str, str], check_files: bool = True) -> OperatorConfig:
    """An operator's configuration from ``file``; ConfigError names every fault."""
    return _load(OperatorConfig, file, Place(file.absolute().parent, environment, check_files), {})


def api_key_hashes(api: ApiSection) -> tuple[str, ...]:
    """The hashes of every key that may use the API: those in the file (one a line, ``#`` comments) and those listed."""
    if api.key_hash_file is None:
        return api.key_hashes
    lines = [line.split("#")[0].strip() for line in read_text(api.key_hash_file).splitlines()]
    hashes = tuple(line for line in lines if line)
    # Never quoted: the likeliest mistake is the key itself in place of its hash.
    faults = [
        f"line {number}: not 64 hexadecimal characters"
        for number, line in enumerate(lines, 1)
        if line and not HASH.fullmatch(line)
    ]
    if len(hashes) + len(api.key_hashes) > API_KEYS_MAX:
        faults.append(f"{len(hashes) + len(api.key_hashes)} keys, at most {API_KEYS_MAX}")
    if not hashes or faults:
        raise faults_in(api.key_hash_file, faults or ["no key hash in it"])
    return hashes + api.key_hashes


def _load(kind: type[_Any], file: Path, place: Place, settings: Mapping[str, str | int]) -> _Any:
    try:
        data = tomllib.loads(read_text(file))
    except tomllib.TOMLDecodeError as fault:
        raise faults_in(file, [f"not TOML: {fault}"]) from fault
    for path, value in settings.items():
        section, _, key = path.partition(".")
        inner = data.setdefault(section, {})
        if isinstance(inner, dict):
            inner[key] = value
    return _validated(kind, data, file, EXPLAINED, place)


def read_sketch(kind: type[_Sketch], file: Path, hint: str) -> _Sketch:
    """What ``file`` describes: TOML, or JSON if its name ends so; ConfigError names every fault."""
    text = read_text(file)
    try:
        data = json.loads(text) if file.suffix == ".json" else tomllib.loads(text)
    except (ValueError, RecursionError) as fault:
        raise faults_in(file, [f"not {'JSON' if file.suffix == '.json' else 'TOML'}: {fault}"], hint) from fault
    return _validated(kind, data, file, hint, None)


def _validated(kind: type[_Sketch], data: object, file: Path, hint: str, place: Place | None) -> _Sketch:
    try:
        return kind.model_validate(data, context=place)
    except ValidationError as fault:
        told = [_sentence(error["loc"], error["type"], error["msg"]) for error in fault.errors()]
        raise faults_in(file, told, hint) from None


def read_text(file: Path) -> str:
    """What ``file`` holds, bounded; ConfigError if it cannot be read."""
    try:
        with file.open("rb") as stream:
            raw = stream.read(CONFIG_BYTES_MAX + 1)
    except OSError as fault:
        reason = fault.strerror or str(fault)
        raise ConfigError(f"{file}: {reason}", "name a file that is there and that this user may read") from fault
    if len(raw) > CONFIG_BYTES_MAX:
        raise faults_in(file, [f"longer than {CONFIG_BYTES_MAX} bytes"])
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as fault:
        raise faults_in(file, [f"not UTF-8: {fault.reason} at byte {fault.start}"]) from fault


def _sentence(where: tuple[int | str, ...], kind: str, message: str) -> str:
    """``brokers[1].url: what is wrong``."""
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in where).lstrip(".")
    plain = {"missing": "required", "extra_forbidden": "there is no such setting"}
    return f"{path}: {plain.get(kind) or message.removeprefix('Value error, ')}"


def faults_in(file: Path, faults: list[str], hint: str = EXPLAINED) -> ConfigError:
    """All that is wrong with ``file``, at once."""
    count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    lines = "".join(f"\n  {fault}" for fault in faults)
    return ConfigError(f"{file} has {count}:{lines}", hint)
