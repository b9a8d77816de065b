"""Two hosts on this machine: network namespaces with a cable between them, which can be cut."""

import os
import subprocess

INTERFACE = "cable"
ADDRESSES = "10.77.0.1", "10.77.0.2"


class NotPermittedError(Exception):
    """The kernel, or who runs it, does not allow namespaces."""


class Hosts:
    """Made without a name anywhere: they are gone when the last process in them is."""

    def __init__(self) -> None:
        # A user who is not root becomes it in a user namespace of his own.
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
        """Start a process that does nothing but be there, for as long as this one is."""
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
        """Give what to write before a command that shall run there."""
        return [*self._enter(host, "--net", *self._user), *(["--preserve-credentials"] if self._user else [])]

    def cut(self) -> None:
        """Pull the cable: whatever is sent gets lost, and nobody is told."""
        self._ip(1, "link", "set", INTERFACE, "down")

    def close(self) -> None:
        for keeper in self._keepers:
            keeper.communicate()  # its input ends, and so does it
