"""MQTT on a real broker (mosquitto): events, what Home Assistant needs, a broker that comes late, goes, or refuses."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge_stt.errors import EdgeSttError
from edge_stt.events import EventStream, FinalEvent, ListeningEvent, PartialEvent, SpeechEvent, StoppedEvent
from edge_stt.mqtt import MqttConfig, MqttSink, discovery
from edge_stt.recogniser import Word
from edge_stt.settings import ConfigError

from .daemon import MODERN, MODERN_TEXT, WAIT, Daemon

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
pytestmark = pytest.mark.skipif(MOSQUITTO is None, reason="needs a broker: apt-get install mosquitto")
paho = pytest.importorskip("paho.mqtt.client", reason="needs the mqtt extra")

FINAL = FinalEvent(
    utterance=1,
    text="turn on the kitchen light",
    start=1.0,
    end=2.5,
    confidence=0.9,
    words=(Word("turn", 1.0, 1.2, 0.9),),
    score=0.95,
    slots={"room": "kitchen"},
)


class Broker:
    """mosquitto on a port of its own, and all that was published there."""

    def __init__(self, folder: Path, settings: str = "allow_anonymous true\n") -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._config = folder / "mosquitto.conf"
        self._config.write_text(f"listener {self.port} 127.0.0.1\n{settings}")
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: Any = None
        self.messages: list[tuple[str, str, bool]] = []
        self._changed = threading.Condition()

    def start(self, watch: bool = True) -> None:
        command = [str(MOSQUITTO), "-c", self._config]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + WAIT
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                break
            except OSError:
                assert time.monotonic() < end and self._process.poll() is None, "mosquitto does not start"
                time.sleep(0.05)
        if watch:
            self._watch()

    def _watch(self) -> None:
        from paho.mqtt.enums import CallbackAPIVersion

        def took(_client: Any, _data: Any, message: Any) -> None:
            with self._changed:
                self.messages.append((message.topic, message.payload.decode(), bool(message.retain)))
                self._changed.notify_all()

        subscribed = threading.Event()
        client = self._reader = paho.Client(CallbackAPIVersion.VERSION2)
        client.on_message = took
        client.on_subscribe = lambda *_: subscribed.set()
        client.connect("127.0.0.1", self.port)
        client.subscribe("#")
        client.loop_start()
        assert subscribed.wait(WAIT)

    def watch_anew(self) -> None:
        """Forget what was read; what the broker has retained comes again."""
        self._reader.disconnect()
        self._reader.loop_stop()
        self.messages.clear()
        self._watch()

    def wait_for(self, topic: str, has: str = "", timeout: float = WAIT) -> str:
        """Payload of a message to the topic that contains a text; fails when none comes."""
        end = time.monotonic() + timeout
        with self._changed:
            while True:
                for at, payload, _ in self.messages:
                    if at == topic and has in payload:
                        return payload
                left = end - time.monotonic()
                assert left > 0, f"no {topic} with {has!r}: {self.messages}"
                self._changed.wait(left)

    def stop(self) -> None:
        if self._reader is not None:
            self._reader.disconnect()
            self._reader.loop_stop()
            self._reader = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    server = Broker(tmp_path)
    yield server
    server.stop()


def config(broker: Broker, **settings: Any) -> MqttConfig:
    return MqttConfig(**{"host": "127.0.0.1", "port": broker.port, "topic": "edge-stt/test", **settings})


def wait_until(condition: Any, timeout: float = WAIT) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_events_state_and_availability(broker: Broker) -> None:
    broker.start()
    sink = MqttSink(config(broker, partials=False))
    sink.open()
    broker.wait_for("edge-stt/test/availability", "online")
    for event in (
        ListeningEvent(device="mic", rate=48_000, channels=2),
        SpeechEvent(utterance=1, start=0.5),
        PartialEvent(utterance=1, text="turn", stable="", start=0.5),
        FINAL,
        StoppedEvent(reason="SIGTERM"),
    ):
        sink.accept(event)
    assert broker.wait_for("edge-stt/test/final") == FINAL.to_json()
    sink.close(5.0)
    broker.wait_for("edge-stt/test/availability", "offline")
    states = [json.loads(payload) for topic, payload, _ in broker.messages if topic == "edge-stt/test/state"]
    assert [(s["status"], s["speaking"]) for s in states] == [
        ("starting", False),
        ("listening", False),
        ("listening", True),
        ("listening", False),
        ("stopped", False),
    ]
    assert not [topic for topic, *_ in broker.messages if topic.endswith("/partial")]
    assert sink.lost == 0


def test_the_broker_tells_of_a_daemon_that_was_killed(broker: Broker) -> None:
    broker.start()
    code = (
        "import os, time\nfrom edge_stt.mqtt import *\n"
        f"sink = MqttSink({config(broker)!r})\nsink.open()\n"
        "while not sink.connected: time.sleep(0.01)\n"
        "time.sleep(0.2); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    broker.wait_for("edge-stt/test/availability", "offline")


def test_what_waited_too_long_is_never_said(
    broker: Broker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a broker nothing waits; once it is there, fresh utterances come and stale ones do not."""
    monkeypatch.setattr("edge_stt.mqtt.LONGEST_RETRY", 1)
    sink = MqttSink(config(broker, keep=WAIT))
    stream = EventStream()
    began = time.monotonic()
    stream.add(sink)
    stream.publish(FINAL)
    assert time.monotonic() - began < 10.0
    wait_until(lambda: sink._held)
    sink._held[0] = (sink._held[0][0] - 2 * WAIT, FINAL)  # so long ago
    wait_until(lambda: "trying again" in caplog.text)
    stream.publish(dataclasses.replace(FINAL, text="fresh"))
    broker.start()
    assert json.loads(broker.wait_for("edge-stt/test/final"))["text"] == "fresh"
    stream.close(5.0)
    assert sink.lost == 1
    assert len([topic for topic, *_ in broker.messages if topic == "edge-stt/test/final"]) == 1
    troubles = [record.getMessage() for record in caplog.records if "trying again" in record.getMessage()]
    assert len(troubles) == 1
    assert "Connection refused" in troubles[0]


def test_a_broker_that_goes_and_comes_back(broker: Broker) -> None:
    broker.start()
    sink = MqttSink(config(broker))
    sink.open()
    broker.wait_for("edge-stt/test/availability", "online")
    broker.stop()
    wait_until(lambda: not sink.connected)
    sink.accept(ListeningEvent(device="mic", rate=16_000, channels=1))
    broker.messages.clear()
    broker.start()
    wait_until(lambda: sink.connected)
    assert "listening" in broker.wait_for("edge-stt/test/state")  # told anew, though it changed while nobody was there
    sink.accept(FINAL)
    broker.wait_for("edge-stt/test/final")
    sink.close(5.0)


def test_a_frozen_broker_delays_neither_events_nor_the_end(broker: Broker) -> None:
    broker.start()
    sink = MqttSink(config(broker))
    sink.open()
    wait_until(lambda: sink.connected)
    assert broker._process is not None
    broker._process.send_signal(19)  # SIGSTOP
    began = time.monotonic()
    for _ in range(2_000):
        sink.accept(FINAL)
    sink.close(1.0)
    assert time.monotonic() - began < 20.0  # to wait for the broker would be to wait for ever
    broker._process.send_signal(18)


def test_home_assistant_finds_what_is_there(broker: Broker) -> None:
    """The retained discovery message; its templates, as Jinja renders them, on real events."""
    broker.start()
    sink = MqttSink(config(broker, topic="edge-stt/kitchen pi"))
    sink.open()
    wait_until(lambda: sink.connected)
    sink.accept(ListeningEvent(device="mic", rate=16_000, channels=1))
    broker.wait_for("edge-stt/kitchen pi/state", "listening")
    broker.watch_anew()  # as Home Assistant, started later
    payload = json.loads(broker.wait_for(discovery(sink.config)[0]))
    assert (topic := next(t for t, _, retained in broker.messages if t.endswith("/config") and retained))
    assert topic.split("/")[2].replace("_", "").isalnum()
    assert broker.wait_for(payload["availability_topic"]) == "online"
    state = json.loads(broker.wait_for("edge-stt/kitchen pi/state", "listening"))
    sink.close(5.0)
    assert payload["origin"]["name"] and payload["device"]["identifiers"]
    components = payload["components"]
    assert len({c["unique_id"] for c in components.values()}) == len(components) == 4
    assert {c["platform"] for c in components.values()} == {"sensor", "event", "binary_sensor"}
    jinja = pytest.importorskip("jinja2", reason="needs the dev extra")

    def shown(component: str, template: str, value: dict[str, Any]) -> str:
        return jinja.Environment().from_string(components[component][template]).render(value_json=value)

    final = json.loads(FINAL.to_json())
    assert shown("utterance", "value_template", final) == FINAL.text
    assert len(shown("utterance", "value_template", {"text": "word " * 100})) <= 255
    event = json.loads(shown("said", "value_template", final))
    assert event == {
        "event_type": "final",
        "text": FINAL.text,
        "confidence": 0.9,
        "score": 0.95,
        "slots": {"room": "kitchen"},
    }
    assert event["event_type"] in components["said"]["event_types"]
    assert shown("speaking", "value_template", state) == "OFF"
    assert shown("microphone", "value_template", state) == "ON"


def test_what_was_announced_is_taken_back(broker: Broker) -> None:
    broker.start()
    topic = "homeassistant/device/edge_stt_edge_stt_test/config"
    announcing = MqttSink(config(broker))
    announcing.open()
    broker.wait_for(topic, "identifiers")
    announcing.close(WAIT)
    silent = MqttSink(config(broker, discovery=False))
    silent.open()
    wait_until(lambda: (topic, "", False) in broker.messages)  # at which Home Assistant forgets the device
    broker.watch_anew()
    silent.accept(FINAL)
    broker.wait_for("edge-stt/test/final")  # after all that is retained
    silent.close(WAIT)
    assert [retained for at, _, retained in broker.messages if at.startswith("edge-stt/test/") and retained]
    assert topic not in [at for at, *_ in broker.messages]


def test_devices_are_told_apart() -> None:
    def identifier(topic: str) -> str:
        (found,) = discovery(MqttConfig(topic=topic))[1]["device"]["identifiers"]
        return str(found)

    assert identifier("edge-stt/kitchen") == "edge_stt_edge_stt_kitchen"  # as ever
    assert identifier("Home/edge_stt-2") == "edge_stt_home_edge_stt_2"
    topics = ["кухня", "спальня", "台所", "edge-stt/küche", "edge-stt/k.che", "edge-stt/k che", "edge-stt/k_che", "_"]
    found = [identifier(topic) for topic in topics]
    assert len(set(found)) == len(topics)
    assert all(re.fullmatch(r"\w+", name, re.ASCII) for name in found)


def test_a_change_while_it_connects_is_published() -> None:
    """However the two threads run, the state that is retained is the last one."""
    states: list[str] = []
    listening = ListeningEvent(device="mic", rate=16_000, channels=1)
    sink = MqttSink(MqttConfig(topic="edge-stt/test"))
    changing = threading.Thread(target=sink.deliver, args=(listening,))

    def publish(topic: str, payload: str = "", **_: Any) -> SimpleNamespace:
        if topic == "edge-stt/test/state":
            if changing.ident is None:  # the first, by paho-mqtt's thread: the sink's comes in between, if it can
                changing.start()
                changing.join(2.0)
            states.append(json.loads(payload)["status"])
        return SimpleNamespace(rc=0)

    client = sink._client = SimpleNamespace(publish=publish)
    sink._on_connect(client, None, None, SimpleNamespace(is_failure=False), None)
    changing.join(WAIT)
    assert not changing.is_alive()
    assert sink.connected
    assert states == ["starting", "listening"]


def test_passwords_and_tls(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    openssl, passwd = shutil.which("openssl"), shutil.which("mosquitto_passwd")
    if openssl is None or passwd is None:
        pytest.skip("needs openssl and mosquitto_passwd")
    key, certificate, users, secret = (tmp_path / n for n in ("key.pem", "ca.pem", "users", "secret"))
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = [
        openssl,
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-keyout",
        key,
        "-out",
        certificate,
    ]
    subprocess.run([*command, *subject], check=True, capture_output=True)
    subprocess.run([passwd, "-b", "-c", users, "pi", "a secret"], check=True, capture_output=True)
    for path in (tmp_path, key, users):  # mosquitto, started by root, becomes a user of its own
        path.chmod(0o755)
    for folder in tmp_path.parents:
        if folder.owner() != "root" or os.getuid() == 0:
            folder.chmod(folder.stat().st_mode | 0o011)
    server = Broker(tmp_path, f"password_file {users}\ncertfile {certificate}\nkeyfile {key}\n")
    server.start(watch=False)
    try:
        with pytest.raises(EdgeSttError, match="cannot read the password"):
            MqttSink(config(server, username="pi", password_file=str(secret))).open()
        secret.write_text("wrong\n")
        settings: dict[str, Any] = {"username": "pi", "password_file": str(secret), "tls": True}
        refused = MqttSink(config(server, ca_file=str(certificate), **settings))
        refused.open()
        wait_until(lambda: "Not authorized" in caplog.text)
        refused.close(5.0)
        secret.write_text("a secret\n")
        stranger = MqttSink(config(server, **settings))  # whose certificate nobody vouches for
        stranger.open()
        wait_until(lambda: "CERTIFICATE_VERIFY_FAILED" in caplog.text)
        stranger.close(5.0)
        sink = MqttSink(config(server, ca_file=str(certificate), **settings))
        sink.open()
        wait_until(lambda: sink.connected)
        sink.close(5.0)
    finally:
        server.stop()


@pytest.mark.parametrize("topic", ["a/+/b", "#", "/a", "a/", "a//b", "$SYS/a", "x" * 300])
def test_topics_that_cannot_be(topic: str) -> None:
    with pytest.raises(ConfigError, match=r"mqtt\.topic"):
        MqttConfig(topic=topic).check()


def test_topics_have_a_name_of_this_machine() -> None:
    assert discovery(MqttConfig())[1]["availability_topic"] == f"edge-stt/{socket.gethostname()}/availability"


def test_the_daemon_publishes(broker: Broker, tmp_path: Path) -> None:
    """A sentence through the whole daemon, set up by its file."""
    broker.start()
    settings = tmp_path / "config.toml"
    settings.write_text(f'[mqtt]\nhost = "127.0.0.1"\nport = {broker.port}\ntopic = "edge-stt/daemon"\n')
    with Daemon("--config", settings, "--input", MODERN) as daemon:
        assert daemon.end() == 0
    assert MODERN_TEXT in broker.wait_for("edge-stt/daemon/final")
    broker.wait_for("edge-stt/daemon/partial")
    broker.wait_for("edge-stt/daemon/stopped")
    broker.wait_for("edge-stt/daemon/availability", "offline")
