"""Events to an MQTT broker, with what Home Assistant needs to find them by itself.

Below a topic of the daemon's own (``edge-stt/HOSTNAME`` by default) each event is published as JSON under its kind:
``…/final``, ``…/partial`` and so on. Two topics are retained: ``…/state`` (whether the microphone is heard, whether
somebody speaks) and ``…/availability`` (``online``; ``offline`` once the daemon ended, and as the broker's last will,
when it vanished).

Events go out once, at QoS 0: a command that is carried out twice, or an hour late because the broker was away, does
harm, so none is ever sent again. What was said while the broker is away waits for ``keep`` seconds and is then lost.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import socket
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import __version__
from .errors import EdgeSttError, RuntimeMissingError, reason
from .events import (
    DeviceLostEvent,
    Event,
    FinalEvent,
    ListeningEvent,
    NothingEvent,
    PartialEvent,
    SpeechEvent,
    StoppedEvent,
    WaitingEvent,
)
from .settings import ConfigError, setting
from .sinks import QueuedSink

logger = logging.getLogger(__name__)

KEEPALIVE = 20  # seconds; a broker that vanished is noticed after one and a half times as many
FIRST_RETRY, LONGEST_RETRY = 1, 30  # seconds between tries to connect, doubled each time
MAX_HELD = 100  # finals that may wait for the broker
MAX_STATE = 255  # characters of a state in Home Assistant


@dataclass(frozen=True)
class MqttConfig:
    """The broker, and how events are published there."""

    host: str = setting("", "MQTT broker; without it nothing is published.", "--mqtt-host")
    port: int = setting(0, "Its port; 0 is 1883, or 8883 with TLS.", "--mqtt-port", low=0, high=65_535)
    username: str = setting("", "User name at the broker.", "--mqtt-username")
    password_file: str = setting("", "File whose first line is the password.", "--mqtt-password-file")
    tls: bool = setting(False, "Encrypt, and check the broker's certificate.", "--mqtt-tls")
    ca_file: str = setting("", "Certificates to trust; without it, the system's.", "--mqtt-ca-file")
    topic: str = setting("", "Topic below which all is published; else edge-stt/HOSTNAME.", "--mqtt-topic")
    partials: bool = setting(True, "Publish partial results too.", "--mqtt-partials")
    discovery: bool = setting(True, "Tell Home Assistant about this device.", "--mqtt-discovery")
    discovery_prefix: str = setting("homeassistant", "Home Assistant's discovery topic.", "--mqtt-discovery-prefix")
    keep: float = setting(10.0, "Seconds that a final may wait for the broker.", "--mqtt-keep", low=0.0, high=3600.0)

    @property
    def base(self) -> str:
        """The topic of this daemon."""
        return self.topic or "edge-stt/" + re.sub(r"[^\w.-]", "-", socket.gethostname() or "daemon")

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        return self.host, self.port or (8883 if self.tls else 1883)

    def check(self) -> None:
        """Raise `ConfigError` for topics that cannot be published to, and settings that lack another."""
        for name in ("topic", "discovery_prefix"):
            topic = getattr(self, name)
            if re.search(r"[+#\0]|^/|/$|//|^\$", topic) or len(topic.encode()) > 200:
                raise ConfigError(f"mqtt.{name} {topic!r} is no topic: leave out + # $ and empty levels")
        if self.password_file and not self.username:
            raise ConfigError("mqtt.password_file needs mqtt.username")
        if self.ca_file and not self.tls:
            raise ConfigError("mqtt.ca_file needs mqtt.tls")


class MqttSink(QueuedSink):
    """Publishes events. Whatever the broker does, `accept` neither waits nor fails.

    paho-mqtt connects, and connects again, in a thread of its own; `deliver` hands it what is to go out.
    """

    name = "mqtt"

    def __init__(self, config: MqttConfig) -> None:
        super().__init__()
        self.config = config
        self._client: Any = None
        self._connected = threading.Event()
        self._telling = threading.Lock()  # the state, and whether its changes are published
        self._held: deque[tuple[float, Event]] = deque()  # and when, by time.monotonic
        self._state: dict[str, Any] = {"status": "starting", "speaking": False}
        self._trouble = ""

    def open(self) -> None:
        """Begin to connect; raises `EdgeSttError` as `prepare` does."""
        self.prepare()
        self._client.connect_async(*self.config.address, keepalive=KEEPALIVE)
        super().open()

    def prepare(self) -> None:
        """All but connecting; raises `EdgeSttError` without paho-mqtt, the password or the certificates asked for."""
        try:
            from paho.mqtt.client import Client
            from paho.mqtt.enums import CallbackAPIVersion
        except ImportError as error:
            raise RuntimeMissingError("MQTT needs paho-mqtt 2: pip install 'edge-stt[mqtt]'") from error
        client = self._client = Client(CallbackAPIVersion.VERSION2, client_id=f"edge-stt-{os.urandom(4).hex()}")
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_connect_fail = self._on_connect_fail
        client.reconnect_delay_set(FIRST_RETRY, LONGEST_RETRY)
        client.will_set(self._topic("availability"), "offline", qos=1, retain=True)
        if self.config.username:
            client.username_pw_set(self.config.username, _password(self.config.password_file))
        if self.config.tls:
            client.tls_set_context(_tls_context(self.config.ca_file))

    @property
    def connected(self) -> bool:
        """Whether the broker takes events now."""
        return self._connected.is_set()

    def accept(self, event: Event) -> None:
        """Queue an event, partial results only where they are wanted."""
        if self.config.partials or not isinstance(event, PartialEvent):
            super().accept(event)

    def setup(self) -> None:
        """Start to connect."""
        self._client.loop_start()

    def deliver(self, event: Event) -> None:
        """Publish an event; while the broker is away finals wait, and all else is lost."""
        self.idle()
        self._follow(event)
        if isinstance(event, FinalEvent) and (self._held or not self.connected):
            self._held.append((time.monotonic(), event))
        elif not self._publish(event) and not isinstance(event, PartialEvent):
            self.lost += 1
        if len(self._held) > MAX_HELD:
            self._held.popleft()
            self.lost += 1

    def idle(self) -> None:
        """Publish what waited, if it did not wait too long."""
        while self._held:
            at, event = self._held[0]
            if time.monotonic() - at > self.config.keep:
                self.lost += 1
                logger.warning("mqtt: the broker was away too long; an utterance was not published")
            elif not self._publish(event):
                return
            self._held.popleft()

    def teardown(self) -> None:
        """Say goodbye; a broker that is away is not waited for."""
        client = self._client
        self.lost += len(self._held)
        if self.connected:
            goodbye = client.publish(self._topic("availability"), "offline", qos=1, retain=True)
            goodbye.wait_for_publish(1.0)
        client.disconnect()
        client.loop_stop()

    def _topic(self, name: str) -> str:
        return f"{self.config.base}/{name}"

    def _publish(self, event: Event) -> bool:
        """Whether the event is on its way."""
        return self.connected and self._client.publish(self._topic(event.kind), event.to_json()).rc == 0

    def _follow(self, event: Event) -> None:
        """Keep the retained state."""
        state = dict(self._state)
        if isinstance(event, ListeningEvent):
            state = {"status": "listening", "device": event.device, "speaking": False}
        elif isinstance(event, WaitingEvent | DeviceLostEvent):
            state = {"status": "waiting", "device": event.device, "reason": event.reason, "speaking": False}
        elif isinstance(event, StoppedEvent):
            state = {"status": "stopped", "reason": event.reason, "speaking": False}
        elif isinstance(event, SpeechEvent):
            state["speaking"] = True
        elif isinstance(event, FinalEvent | NothingEvent):
            state["speaking"] = False
        with self._telling:
            if state != self._state:
                self._state = state
                if self.connected:
                    self._publish_state()

    def _publish_state(self) -> None:
        self._client.publish(self._topic("state"), json.dumps(self._state, ensure_ascii=False), retain=True)

    # --- called by paho-mqtt, in its thread ---

    def _on_connect(self, client: Any, _userdata: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._complain(f"the broker refuses: {reason}")
            return
        topic, payload = discovery(self.config)
        # nothing, retained, takes back what an earlier run announced
        client.publish(topic, json.dumps(payload) if self.config.discovery else "", retain=True)
        with self._telling:  # a change in between would be told by nobody; publishing does not wait, nor does this
            self._publish_state()
            client.publish(self._topic("availability"), "online", retain=True)
            self._connected.set()
        self._trouble = ""
        logger.info("mqtt: connected to %s, topic %s", self.config.host, self.config.base)

    def _on_disconnect(self, _client: Any, _userdata: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if self._connected.is_set():
            self._connected.clear()
            if not self.stopping:
                self._complain(f"connection lost ({reason})")

    def _on_connect_fail(self, _client: Any, _userdata: Any) -> None:
        error = sys.exc_info()[1]  # paho-mqtt calls this while it handles the exception, but does not pass it on
        self._complain(str(getattr(error, "strerror", None) or error or "no connection"))

    def _complain(self, trouble: str) -> None:
        """Once for each trouble, not at every try."""
        if trouble != self._trouble:
            self._trouble = trouble
            logger.warning("mqtt: %s:%d: %s; trying again", *self.config.address, trouble)


def discovery(config: MqttConfig) -> tuple[str, dict[str, Any]]:
    """Topic and payload of Home Assistant's device discovery (since 2024.11).

    Four entities: the last utterance as a sensor, each utterance as an event, whether somebody speaks, and whether the
    microphone is heard.
    """
    base, final, state = config.base, f"{config.base}/final", f"{config.base}/state"
    own = _identifier(base)
    said = ", ".join(f"'{name}': value_json.{name}" for name in ("text", "confidence", "score", "slots"))
    entities: dict[str, dict[str, Any]] = {
        "utterance": {
            "platform": "sensor",
            "name": "Last utterance",
            "icon": "mdi:text-recognition",
            "state_topic": final,
            "value_template": f"{{{{ value_json.text[:{MAX_STATE}] }}}}",
            "json_attributes_topic": final,
            "json_attributes_template": f"{{{{ {{{said}}} | tojson }}}}",
            "force_update": True,  # the same words said again are an utterance too
        },
        "said": {
            "platform": "event",
            "name": "Utterance",
            "icon": "mdi:account-voice",
            "state_topic": final,
            "event_types": ["final"],
            "value_template": f"{{{{ {{'event_type': 'final', {said}}} | tojson }}}}",
        },
        "speaking": {
            "platform": "binary_sensor",
            "name": "Speech",
            "device_class": "sound",
            "state_topic": state,
            "value_template": "{{ 'ON' if value_json.speaking else 'OFF' }}",
        },
        "microphone": {
            "platform": "binary_sensor",
            "name": "Microphone",
            "device_class": "connectivity",
            "entity_category": "diagnostic",
            "state_topic": state,
            "value_template": "{{ 'ON' if value_json.status == 'listening' else 'OFF' }}",
            "json_attributes_topic": state,
        },
    }
    payload = {
        "device": {
            "identifiers": [own],
            "name": f"Speech to text ({base.removeprefix('edge-stt/')})",
            "manufacturer": "edge-stt",
            "model": "edge-stt listen",
            "sw_version": __version__,
        },
        "origin": {"name": "edge-stt", "sw_version": __version__},
        "availability_topic": f"{base}/availability",
        "components": {name: {**entity, "unique_id": f"{own}_{name}"} for name, entity in entities.items()},
    }
    return f"{config.discovery_prefix}/device/{own}/config", payload


def _identifier(base: str) -> str:
    """What Home Assistant knows this daemon by, of letters, digits and underscores.

    A hash keeps apart topics that differ in other characters only, such as those of no Latin letter. Plain topics have
    none: devices would be found anew.
    """
    own = "edge_stt_" + re.sub(r"[^a-zA-Z0-9]+", "_", base).strip("_").lower()
    if re.fullmatch(r"[a-zA-Z0-9/_-]*", base):
        return own
    return f"{own.rstrip('_')}_{hashlib.sha256(base.encode()).hexdigest()[:8]}"


def _password(path: str) -> str | None:
    if not path:
        return None
    try:
        with Path(path).open(encoding="utf-8") as file:
            return file.readline(4096).rstrip("\r\n")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise EdgeSttError(f"mqtt: cannot read the password from {path}: {reason(error)}") from error


def _tls_context(ca_file: str) -> Any:
    import ssl

    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise EdgeSttError(f"mqtt: cannot use the certificates in {ca_file}: {error}") from error
