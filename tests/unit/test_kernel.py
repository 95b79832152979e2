"""A notebook runs to its end even when the client is not told that an answer has arrived."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
import zmq
from nbclient import NotebookClient
from nbclient.exceptions import DeadKernelError
from nbformat.v4 import new_code_cell, new_notebook

from course_utils import kernel


def run_deaf(client_class, at_most):
    """Run a second cell after the event loop has stopped listening to the channel on which the kernel answers."""

    async def work():
        first, second = (new_code_cell(code) for code in ("import time", "time.sleep(0.3); print(6 * 7)"))
        client = client_class(new_notebook(cells=[first, second]), kernel_name="python3", timeout=None)
        async with client.async_setup_kernel():
            await client.async_execute_cell(first, 0)
            asyncio.get_running_loop().remove_reader(client.kc.shell_channel.socket.getsockopt(zmq.FD))
            await asyncio.wait_for(client.async_execute_cell(second, 1), at_most)
        return second.outputs[0]["text"]

    with ThreadPoolExecutor(1) as thread:  # a browser test may have left an event loop running in this one
        return thread.submit(asyncio.run, work()).result()


def test_an_unannounced_answer_is_found(monkeypatch):
    monkeypatch.setattr(kernel, "LOOK_SECONDS", 0.1)
    assert run_deaf(kernel.Runner, 120) == "42\n"


def test_plain_nbclient_would_wait_for_ever():
    with pytest.raises((TimeoutError, DeadKernelError)):  # so the test above can fail
        run_deaf(NotebookClient, 3)
