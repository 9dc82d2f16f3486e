"""check.py SENDER SENDER_DATA RECEIVER RECEIVER_DATA PACKAGE: delivers PACKAGE and PACKAGE-second (see deliver.py), then
reads all that the nodes tell about it. URLs and `datadir`s; the token is in BFT2_TOKEN."""

import json
import os
import sys
from datetime import datetime, timedelta, timezone
from http import HTTPStatus
from itertools import islice

from bft2_client import AuthenticatedClient, Client
from bft2_client.api.events import list_events
from bft2_client.api.library import list_duplicates, list_library_files, list_packages
from bft2_client.api.service import get_config, health, ready
from bft2_client.api.tasks import (
    cancel_task,
    get_task,
    list_generations,
    list_schedules,
    list_task_files,
    list_tasks,
)
from bft2_client.models import Event, Method, Problem, Role, TaskState
from bft2_client.types import UNSET
from deliver import carry, connect, found, publish, receive

SUBDIR = "cfec-001"
METHODS = {Method.BT, Method.OBS, Method.CDN}


def items(operation, **parameters):
    """Every item of a paged list, page after page."""
    cursor = UNSET
    while True:
        page = found(operation.sync(cursor=cursor, **parameters))
        yield from page.items
        if not (cursor := page.next_):
            return


def events(node, **parameters):
    """The events of a node as they happen. The generated client lends its connection and its token."""
    with node.get_httpx_client().stream("GET", "/v1/events/stream", params=parameters) as reply:
        reply.raise_for_status()
        for line in reply.iter_lines():
            if line.startswith("data:"):
                yield Event.from_dict(json.loads(line.removeprefix("data:")))


def recent(at):
    """A time, with its offset, of this run."""
    assert isinstance(at, datetime) and at.tzinfo is not None, at
    return abs(datetime.now(timezone.utc) - at) < timedelta(minutes=15)


def check_node(url, role, token):
    client = Client(base_url=url)  # no token
    alive = health.sync(client=client)
    assert (alive.status, alive.role.value) == ("ok", role), alive
    assert isinstance(alive.version, str) and isinstance(alive.uptime_seconds, int) and recent(alive.started_at), alive
    able = ready.sync(client=client)
    assert able.ready is True and able.checks and all(check.ok and check.name for check in able.checks), able
    refused = list_tasks.sync_detailed(client=AuthenticatedClient(base_url=url, token=f"not-{token}"))
    assert refused.status_code == HTTPStatus.UNAUTHORIZED and isinstance(refused.parsed, Problem), refused
    config = get_config.sync(client=connect(url, token))
    assert config["servertype"] == role and config["token"] == "***", config.to_dict()


def check_tasks(node, role, done, tasks):
    listed = list(items(list_tasks, client=node, limit=1))
    assert len(listed) >= 2 and len({task.id for task in listed}) == len(listed), listed
    assert [task.id for task in listed] == [task.id for task in list_tasks.sync(client=node).items]
    assert {task.task for task in listed} >= set(tasks)
    assert {task.task for task in items(list_tasks, client=node, state=done, role=role)} >= set(tasks)
    assert [task.task for task in items(list_tasks, client=node, search=tasks[1])] == [tasks[1]]

    for name in tasks:
        detail = get_task.sync(client=node, role=role, task=name)
        task = detail.task
        assert (task.task, task.role, task.state, task.reason) == (name, role, done, ""), task
        assert task.percent == 100.0 and task.bytes_total >= task.bytes_done > 0, task
        assert role == Role.SENDER or task.bytes_done == task.bytes_total, task
        assert recent(task.created_at) and task.ratio == "1:1:1" and task.policy.value == "fulltime", task
        assert {leg.method for leg in detail.legs} <= METHODS and detail.legs, detail.legs
        assert all(sample.method in METHODS and recent(sample.at) for sample in detail.samples), detail.samples
        files = list(items(list_task_files, client=node, role=role, task=name, limit=2))
        assert {file.path for file in files} >= {file.path for file in detail.files}
        assert sum(file.size for file in files) == task.bytes_total, files
        assert all(len(file.sha1) == 40 and file.sha1 == file.sha1.lower() for file in files), files

    unknown = get_task.sync_detailed(client=node, role=role, task="no-such.task.json")
    problem = unknown.parsed
    assert unknown.status_code == HTTPStatus.NOT_FOUND and isinstance(problem, Problem), unknown
    assert problem.status == 404 and problem.title and problem.type_ and problem.detail, problem
    assert unknown.headers["content-type"].startswith("application/problem+json"), unknown.headers
    assert list_tasks.sync(client=node, limit=0).status == 400


def check_events(node, task):
    listed = list(items(list_events, client=node, limit=3))
    assert listed and [event.id for event in listed] == sorted((event.id for event in listed), reverse=True), listed
    assert all(recent(event.at) and event.kind and event.level for event in listed), listed
    of_task = list(items(list_events, client=node, task=task))
    assert of_task and all(event.task == task for event in of_task), of_task
    kind, level = of_task[0].kind, of_task[0].level
    assert all(event.kind == kind for event in items(list_events, client=node, kind=kind))
    assert all(event.level == level for event in items(list_events, client=node, level=level))

    # The stream begins after an event, with what is there already, oldest first.
    oldest = [event.id for event in reversed(of_task)]
    streamed = [event.id for event in islice(events(node, task=task, after=0), len(oldest))]
    assert streamed == oldest, (streamed, oldest)
    assert next(events(node, task=task, after=oldest[0])).id == oldest[1]


def check_library(node, package):
    packages = list(items(list_packages, client=node, search=package))
    assert sorted(p.package for p in packages) == [package, f"{package}-second"], packages
    assert all(p.verdict == "complete" and p.bytes_ > 0 for p in packages), packages
    files = list(items(list_library_files, client=node, package=packages[0].path, limit=1))
    assert files and all(isinstance(file.size, int) and len(file.sha1) == 40 for file in files), files
    some = files[0]
    assert some.path in {file.path for file in items(list_library_files, client=node, sha1=some.sha1)}
    assert some.path in {file.path for file in items(list_library_files, client=node, search=some.path.split("/")[-1])}
    # The two versions of the film share files.
    duplicates = list(items(list_duplicates, client=node))
    assert duplicates and all(d.copies == len(d.paths) >= 2 for d in duplicates), duplicates
    assert all(d.bytes_wasted == d.size * (d.copies - 1) for d in duplicates), duplicates


def main(sender_url, sender_data, receiver_url, receiver_data, package):
    token = os.environ["BFT2_TOKEN"]
    sender, receiver = connect(sender_url, token), connect(receiver_url, token)
    check_node(sender_url, "sender", token)
    check_node(receiver_url, "receiver", token)

    names = [package, f"{package}-second"]
    tasks = [f"{SUBDIR}-{name}.task.json" for name in names]
    for name, task in zip(names, tasks):
        dcppath, taskfile = f"{sender_data}/dcp/{SUBDIR}/dcps/{name}", f"{sender_data}/sender/tmp/{task}"
        publish(sender, dcppath, taskfile, SUBDIR)
        result = receive(receiver, carry(sender, task, f"{receiver_data}/receiver/tmp"))
        assert result.totalpercent == "100.000%" and os.path.isdir(result.dcppath), result
        assert sorted(os.listdir(result.dcppath)) == sorted(os.listdir(dcppath))
        print(f"delivered: {result.dcppath.split('/')[-1]}, {result.downloaded} bytes")

    check_tasks(sender, Role.SENDER, TaskState.UPLOADED, tasks)
    check_tasks(receiver, Role.RECEIVER, TaskState.DOWNLOADED, tasks)
    for node in sender, receiver:
        check_events(node, tasks[0])
        check_library(node, package)
        assert all(schedule.method for schedule in list_schedules.sync(client=node).items)
    generations = list(items(list_generations, client=sender, limit=1))
    assert len(generations) >= 2 and all(g.bytes_done == g.bytes_total > 0 for g in generations), generations

    # What is finished can be cancelled, again and again.
    first, again = (cancel_task.sync(client=receiver, role=Role.RECEIVER, task=tasks[0]) for _ in range(2))
    assert first.state == again.state == TaskState.HISTORY, (first, again)
    assert cancel_task.sync(client=receiver, role=Role.RECEIVER, task="no-such.task.json").status == 404


main(*sys.argv[1:])
