"""Delivers one package with the client that openapi-python-client makes of openapi/bft2.json."""

import time
from pathlib import Path

from bft2_client import AuthenticatedClient, models
from bft2_client.api.receiving import progress, recv
from bft2_client.api.sending import gentask, send, taskfilesquery, uploadprogress
from bft2_client.api.tasks import get_task_file


def connect(url, token):
    return AuthenticatedClient(base_url=url, token=token, timeout=60, raise_on_unexpected_status=True)


def message(kind, method, params):
    """A request of the protocol: parameters in an envelope."""
    return kind(
        message_id="1", message_type="request", message_source="example", method_name=method, method_params=params
    )


def accepted(reply):
    """What the protocol answers. A refusal has HTTP status 200, too: `return_status` tells."""
    if reply.return_status != "true":
        raise RuntimeError(reply.return_content.desc)
    return reply.return_content


def found(reply):
    """What a resource below /v1 answers, unless it is a problem."""
    if isinstance(reply, models.Problem):
        raise RuntimeError(f"{reply.status} {reply.title}: {reply.detail}")
    return reply


def until(wanted, ask, seconds=120):
    """Asks until the status is the wanted one."""
    deadline = time.monotonic() + seconds
    while (content := ask()).status != wanted:
        if "error" in content.status or time.monotonic() > deadline:
            raise RuntimeError(f"{content.status}, not {wanted}: {content.desc}")
        time.sleep(0.2)
    return content


def publish(sender, dcppath, taskfile, basesubdir):
    """Makes a task of the package and starts its distribution. Returns when receivers may be told."""
    params = models.GentaskParams(
        dcppath=dcppath, taskfile=taskfile, basesubdir=basesubdir, btobscdn="1:1:1", policy="fulltime"
    )
    accepted(gentask.sync(client=sender, body=message(models.RequestGentaskParams, "gentask", params)))
    params = models.QueryParams(dcppath=dcppath, taskfile=taskfile)
    query = message(models.RequestQueryParams, "taskfilesquery", params)
    until("finished", lambda: accepted(taskfilesquery.sync(client=sender, body=query)))

    params = models.SendParams(taskfile=taskfile)
    accepted(send.sync(client=sender, body=message(models.RequestSendParams, "send", params)))
    params = models.UploadProgressParams(taskfile=Path(taskfile).name)
    query = message(models.RequestUploadProgressParams, "uploadprogress", params)
    return until("ready", lambda: accepted(uploadprogress.sync(client=sender, body=query)))


def carry(sender, task, directory):
    """Brings the task file to a receiver's disk. It may hold keys: nobody else may read it."""
    reply = get_task_file.sync_detailed(client=sender, role=models.Role.SENDER, task=task)
    found(reply.parsed)
    path = Path(directory) / task
    path.touch(mode=0o600)
    path.write_bytes(reply.content)
    return str(path)


def receive(receiver, taskfile):
    """Starts the reception. Returns when the package is verified and in its store."""
    params = models.RecvParams(taskfile=taskfile)
    accepted(recv.sync(client=receiver, body=message(models.RequestRecvParams, "recv", params)))
    # While the task waits in the queue, `return_status` is false.
    params = models.ProgressParams(taskfile=Path(taskfile).name)
    query = message(models.RequestProgressParams, "progress", params)
    return until("downloaded", lambda: progress.sync(client=receiver, body=query).return_content)
