"""Keep torchrun's rendezvous on a machine that trains nothing, so that any machine of a run may die and come back.

    python tools/rendezvous.py --port 29400                                   # on some small machine, for any number of runs
    torchrun --rdzv-backend=c10d --rdzv-endpoint=THAT_MACHINE:29400 --rdzv-conf=is_host=0 --rdzv-id=RUN ...   # on every other one

By itself torchrun's c10d rendezvous lives in the torchrun of one of the machines, and dies with it. The store is small and has no
password: keep it inside the cluster's network. `docs/clusters.md` has the rest.
"""

import signal
import socket
import sys
import threading

import click
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # torch does not mark its exports


@click.command()
@click.option("--host", default="0.0.0.0", show_default=True, help="The address to listen on; 0.0.0.0 takes all.")
@click.option("--port", type=click.IntRange(0, 65535), default=29400, show_default=True, help="0 takes a free one.")
def serve(host: str, port: int) -> None:
    """Keep the store until SIGTERM or Ctrl-C."""
    done = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: done.set())
    try:
        listening = socket.create_server((host, port), backlog=1024)
    except OSError as error:
        raise click.ClickException(f"{host}:{port}: cannot listen there: {_reason(error)}") from error
    port = listening.getsockname()[1]
    store = TCPStore(host, port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach())
    click.echo(f"rendezvous store on {host}:{port}", err=True)
    done.wait()
    del store


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).partition(" (")[0].lower()


if __name__ == "__main__":
    sys.exit(serve())
