"""Redfish (DMTF DSP0266): HTTPS with basic authentication, which every service must know (section 13.3)."""

import json
import ssl
from pathlib import Path
from typing import Any

import aiohttp

from bootd.drivers.power.actions import Action, Answer, ControllerError
from bootd.netboot.power import Controller

MAX_ANSWER = 1 << 20
_RESETS = {  # in order of preference: not every system knows every one (ResetType of ComputerSystem)
    Action.ON: ("On", "ForceOn"),
    Action.OFF: ("ForceOff",),
    Action.SHUTDOWN: ("GracefulShutdown",),
    Action.CYCLE: ("PowerCycle", "ForceRestart"),
    Action.RESET: ("ForceRestart", "GracefulRestart"),
}
_STATES = {"On": "on", "PoweringOn": "on", "Off": "off", "PoweringOff": "off"}


def trust(authority: str, fingerprint: bytes) -> ssl.SSLContext | aiohttp.Fingerprint:
    """Whom to believe: an authority in a PEM file, the system's for "", or this certificate alone.

    `ControllerError` when the file cannot be used.
    """
    if fingerprint:
        return aiohttp.Fingerprint(fingerprint)
    try:
        return ssl.create_default_context(cafile=Path(authority) if authority else None)
    except (OSError, ssl.SSLError) as error:
        raise ControllerError(f"cannot use {authority} as an authority: {error}") from None


async def ask(
    controller: Controller,
    action: Action,
    password: str,
    trusted: ssl.SSLContext | aiohttp.Fingerprint,
    *,
    uefi: bool,
) -> Answer:
    """One action; `ControllerError` when it did not succeed. The caller bounds the time."""
    host = f"[{controller.host}]" if ":" in controller.host else controller.host
    base = f"https://{host}:{controller.port}"
    login = aiohttp.BasicAuth(controller.user, password, encoding="utf-8")
    connector = aiohttp.TCPConnector(ssl=trusted, limit=1)
    # No proxy of the environment, no cookies, no redirects: the password goes to this controller or nowhere.
    async with aiohttp.ClientSession(
        auth=login, connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
    ) as http:
        try:
            system, version = await _request(http, "GET", base + controller.path)
            if action is Action.STATUS:
                return _status(system)
            if action is Action.PXE:
                await _boot_once(http, base + controller.path, system, version, uefi=uefi)
                return Answer(_state(system), "boots from the network once, at its next start")
            return await _reset(http, base, system, action)
        except aiohttp.ServerFingerprintMismatch as error:
            raise ControllerError(
                f"its certificate has the fingerprint {error.got.hex()}, not the one that is trusted"
            ) from None
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError, ssl.SSLError) as error:
            raise ControllerError(
                f"its certificate is not trusted ({_line(error)}): set power.ca, or the node's power_fingerprint"
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            raise ControllerError(_line(error)) from None


async def _request(
    http: aiohttp.ClientSession, method: str, url: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[dict[str, Any], str]:
    """The decoded answer, and its ETag."""
    own = {"OData-Version": "4.0", "Accept": "application/json", **(headers or {})}
    async with http.request(method, url, json=body, headers=own, allow_redirects=False) as response:
        text = await response.content.read(MAX_ANSWER)
        try:
            value = json.loads(text) if text.strip() else {}
        except ValueError:
            value = None
        if response.status in (401, 403):
            raise ControllerError("it refuses the user or the password")
        if response.status >= 400 or response.status in range(300, 400):
            raise ControllerError(f"HTTP status {response.status}{_message(value)}")
        if not isinstance(value, dict):
            raise ControllerError("it answers with something that is no Redfish resource")
        return value, response.headers.get("ETag", "")


async def _reset(http: aiohttp.ClientSession, base: str, system: dict[str, Any], action: Action) -> Answer:
    offered = _at(system, "Actions", "#ComputerSystem.Reset")
    target = offered.get("target")
    if not isinstance(target, str) or not target.startswith("/") or target.startswith("//"):
        raise ControllerError("it offers no ComputerSystem.Reset")
    allowed = offered.get("ResetType@Redfish.AllowableValues")
    state = _state(system)
    wanted = _RESETS[action]
    if action is Action.CYCLE and state == "off":
        wanted = _RESETS[Action.ON]  # off is half of a cycle
    kind = next((word for word in wanted if not isinstance(allowed, list) or word in allowed), "")
    if not kind:
        raise ControllerError(f"it can do none of {', '.join(wanted)}, only {', '.join(map(str, allowed or []))}")
    if (action, state) in ((Action.ON, "on"), (Action.OFF, "off"), (Action.SHUTDOWN, "off")):
        return Answer(state, f"is {state} already")
    await _request(http, "POST", base + target, {"ResetType": kind})
    return Answer("", f"{kind} is accepted")


async def _boot_once(
    http: aiohttp.ClientSession, url: str, system: dict[str, Any], version: str, *, uefi: bool
) -> None:
    """BootSourceOverrideTarget; the mode is said only to controllers that have one, since others refuse it."""
    boot = _at(system, "Boot")
    targets = boot.get("BootSourceOverrideTarget@Redfish.AllowableValues")
    if isinstance(targets, list) and "Pxe" not in targets:
        raise ControllerError(f"it cannot boot from the network, only from {', '.join(map(str, targets))}")
    change = {"BootSourceOverrideEnabled": "Once", "BootSourceOverrideTarget": "Pxe"}
    if uefi and "BootSourceOverrideMode" in boot:
        change["BootSourceOverrideMode"] = "UEFI"
    await _request(http, "PATCH", url, {"Boot": change}, {"If-Match": version} if version else None)


def _status(system: dict[str, Any]) -> Answer:
    if "PowerState" not in system:
        raise ControllerError("it does not tell the power state")
    return Answer(_state(system), f"power is {system['PowerState']}"[:100])


def _state(system: dict[str, Any]) -> str:
    return _STATES.get(str(system.get("PowerState")), "")


def _at(value: dict[str, Any], *keys: str) -> dict[str, Any]:
    for key in keys:
        inner = value.get(key)
        value = inner if isinstance(inner, dict) else {}
    return value


def _message(value: Any) -> str:
    """What a Redfish error says, as text to append."""
    error = value.get("error") if isinstance(value, dict) else None
    text = error.get("message") if isinstance(error, dict) else None
    return f": {text}"[:200] if isinstance(text, str) and text.isprintable() else ""


def _line(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
