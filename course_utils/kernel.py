"""Run notebooks in a kernel of their own."""

from __future__ import annotations

import asyncio
from typing import Any

from nbclient import NotebookClient

LOOK_SECONDS = 2.0
"""How often a waiting client looks for an answer whose arrival it was not told of."""


class Runner(NotebookClient):
    """nbclient's client, which also looks for answers by itself.

    ZeroMQ tells a waiting asyncio client once that something has arrived. Now and then that word is lost (seen once in a test
    run of some forty kernels): the answer lies in the socket, the kernel is idle, and plain nbclient waits until its timeout.
    """

    def __init__(self, notebook: Any, **options: Any) -> None:
        # an error is said, but not which transport the kernel uses
        quiet = {"kernel_name": "python3", "extra_arguments": ["--log-level=ERROR"]}
        super().__init__(notebook, **quiet | options)

    async def async_execute_cell(self, cell: Any, cell_index: int, *args: Any, **kwargs: Any) -> Any:
        """Run one cell in place; see nbclient."""
        looking = asyncio.ensure_future(self._look())
        try:
            return await super().async_execute_cell(cell, cell_index, *args, **kwargs)
        finally:
            looking.cancel()

    async def _look(self) -> None:
        while self.kc is not None:
            await asyncio.sleep(LOOK_SECONDS)
            for channel in (self.kc.shell_channel, self.kc.iopub_channel):
                await channel.socket.poll(1)  # reads the socket's state, and so wakes whoever waits for what is there
