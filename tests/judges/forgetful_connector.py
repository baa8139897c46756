"""Our connector, on a disk that fails when it is told to: after blocks were found whole, and before
they are read.

The number in the file `forgetful`, beside the blocks, says how many more can be read. vLLM loads
this into its own processes.
"""

from pathlib import Path
from typing import Any

from senryu.server.engine.kv import connector


class FileConnector(connector.FileConnector):
    def register_kv_caches(self, kv_caches: dict[str, Any]) -> None:
        super().register_kv_caches(kv_caches)
        told = Path(self._kv_transfer_config.kv_connector_extra_config["folder"]) / "forgetful"
        read_into = self._files.read_into

        def forgetful(name: str, block: bytearray) -> bool:
            if told.exists():
                left = int(told.read_text())
                if not left:
                    return False
                told.write_text(str(left - 1))
            return read_into(name, block)

        self._files.read_into = forgetful
