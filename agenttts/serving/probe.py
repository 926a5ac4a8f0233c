"""Ask whether a model's server answers."""

from __future__ import annotations

_PROBE_S = 5.0


def answers(base_url: str, key: str) -> bool:
    """Return whether the server is up and accepts the key.

    The server of another run, at a port that was used again, does not accept it.
    """
    import httpx

    headers = {"Authorization": f"Bearer {key}"}
    try:
        # The URL is plain http. With `verify` each probe would load the CA bundle: 45 ms of a core.
        with httpx.Client(trust_env=False, verify=False, timeout=_PROBE_S) as client:
            return client.get(f"{base_url}/models", headers=headers).status_code == 200
    except httpx.HTTPError:
        return False


def base_url(host: str, port: int) -> str:
    """Return the URL of a server's API; an address of IPv6 gets brackets."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
