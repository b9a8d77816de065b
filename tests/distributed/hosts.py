"""Two hosts on this machine: network namespaces joined by a virtual cable, which can be cut."""

import os
import subprocess

INTERFACE = "cable"
ADDRESSES = "10.77.0.1", "10.77.0.2"


class NotPermittedError(Exception):
    """The kernel or its configuration does not allow namespaces."""


class Hosts:
    """Two unnamed namespaces: they disappear with the last process in them."""

    def __init__(self) -> None:
        # An unprivileged user becomes root in a new user namespace.
        self._user = [] if os.geteuid() == 0 else ["--user"]
        self._keepers: list[subprocess.Popen] = []
        try:
            self._connect()
        except BaseException:
            self.close()
            raise

    def _connect(self) -> None:
        self._keep(["unshare", "--net", *(["--user", "--map-root-user"] if self._user else [])])
        inside_user = [*self._enter(0, "--user"), "--preserve-credentials"] if self._user else []
        self._keep([*inside_user, "unshare", "--net"])
        other = ["type", "veth", "peer", "name", INTERFACE, "netns", str(self._keepers[1].pid)]
        self._ip(0, "link", "add", INTERFACE, *other)
        for host, address in enumerate(ADDRESSES):
            self._ip(host, "address", "add", f"{address}/24", "dev", INTERFACE)
            for interface in ("lo", INTERFACE):
                self._ip(host, "link", "set", interface, "up")

    def _keep(self, command: list[str]) -> None:
        """Start an idle process that lives as long as this one, to keep a namespace alive."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        keeper = subprocess.Popen([*command, "sh", "-c", "echo ready; exec cat"], **pipes)
        self._keepers.append(keeper)
        if keeper.stdout.readline() != "ready\n":
            raise NotPermittedError(f"{' '.join(command)}: {keeper.communicate()[1].strip()}")

    def _enter(self, host: int, *namespaces: str) -> list[str]:
        return ["nsenter", "--target", str(self._keepers[host].pid), *namespaces]

    def _ip(self, host: int, *arguments: str) -> None:
        done = subprocess.run([*self.on(host), "ip", *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            raise NotPermittedError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")

    def on(self, host: int) -> list[str]:
        """Return the prefix for a command to run on that host."""
        return [*self._enter(host, "--net", *self._user), *(["--preserve-credentials"] if self._user else [])]

    def cut(self) -> None:
        """Cut the cable: packets are lost silently."""
        self._ip(1, "link", "set", INTERFACE, "down")

    def close(self) -> None:
        for keeper in self._keepers:
            keeper.communicate()  # it ends when its input is closed
