"""A real NFS server in the room: NFS-Ganesha, in user space: not every kernel here has a server of its own."""

from pathlib import Path

from tests.lab.console import Console
from tests.lab.room import Room


def serve(room: Room, folder: Path, name: str) -> Console:
    """Export ``folder`` as ``name`` (as ``/cs4``), read-only, over NFS 4, from the namespace of bootd."""
    state = room.folder / "ganesha"
    state.mkdir()
    configuration = state / "ganesha.conf"
    configuration.write_text(
        f"""
        NFS_CORE_PARAM {{ Protocols = 4; Bind_addr = 10.47.0.2; Enable_NLM = false; Enable_RQUOTA = false; }}
        NFSv4 {{ Graceless = true; RecoveryRoot = "{state}"; }}
        EXPORT {{
            Export_Id = 1; Path = "{folder.resolve()}"; Pseudo = "{name}"; Access_Type = RO; Squash = None;
            SecType = sys; Protocols = 4; Transports = TCP; FSAL {{ Name = VFS; }}
        }}
        """
    )
    console = room.own(Console("ganesha", room.folder / "ganesha.log"))
    command = ["ganesha.nfsd", "-F", "-f", str(configuration), "-L", "STDOUT", "-p", str(state / "pid")]
    console.start(room.inside(room.server) + command)
    console.wait_for(r"NFS SERVER INITIALIZED", 30, "start")
    return console
