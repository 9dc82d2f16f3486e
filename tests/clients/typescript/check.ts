// check.js SENDER SENDER_DATA RECEIVER RECEIVER_DATA PACKAGE: delivers PACKAGE and PACKAGE-second (see deliver.ts), then
// reads all that the nodes tell about it. URLs and `datadir`s; the token is in BFT2_TOKEN.

import assert from "node:assert/strict";
import { readdir } from "node:fs/promises";
import { basename } from "node:path";
import type { components } from "./bft2.js";
import { answered, carry, connect, publish, receive, type Node } from "./deliver.js";

type Schemas = components["schemas"];

const SUBDIR = "cfec-001";
const METHODS = ["bt", "obs", "cdn"];

type Page<T> = { data?: { items: T[]; next?: string }; response: Response };

// Every item of a paged list, page after page.
async function items<T>(ask: (cursor?: string) => Promise<Page<T>>) {
  const all: T[] = [];
  let cursor: string | undefined;
  do {
    const page = answered(await ask(cursor));
    all.push(...page.items);
    cursor = page.next;
  } while (cursor !== undefined);
  return all;
}

// The events of a node as they happen. Leaving the loop closes the connection.
async function* events(node: Node, query: { task?: string; after?: number }) {
  const stop = new AbortController();
  const how = { parseAs: "stream", signal: stop.signal } as const;
  const { response } = await node.GET("/v1/events/stream", { params: { query }, ...how });
  if (!response.ok || !response.body) throw new Error(`${response.status} ${response.url}`);
  const text = new TextDecoder();
  let rest = "";
  try {
    for await (const chunk of response.body) {
      const lines = (rest + text.decode(chunk, { stream: true })).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines.filter((line) => line.startsWith("data:"))) {
        yield JSON.parse(line.slice("data:".length)) as Schemas["Event"];
      }
    }
  } finally {
    stop.abort();
  }
}

// The first events of a stream.
async function take(count: number, stream: AsyncIterable<Schemas["Event"]>) {
  const taken: Schemas["Event"][] = [];
  for await (const event of stream) {
    taken.push(event);
    if (taken.length === count) break;
  }
  return taken;
}

// A time, with its offset, of this run.
function assertRecent(at: string) {
  assert.match(at, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$/);
  assert.ok(Math.abs(Date.now() - Date.parse(at)) < 15 * 60_000, at);
}

async function checkNode(url: string, role: Schemas["NodeType"]) {
  const stranger = connect(url, "not-the-token"); // these two need none
  const health = answered(await stranger.GET("/v1/health"));
  assert.deepEqual([health.status, health.role], ["ok", role]);
  assert.ok(Number.isInteger(health.uptime_seconds) && health.version.length > 0);
  assertRecent(health.started_at);
  const ready = answered(await stranger.GET("/v1/ready"));
  assert.ok(ready.ready && ready.checks.length > 0 && ready.checks.every((check) => check.ok && check.name !== ""));
  const refused = await stranger.GET("/v1/tasks");
  assert.equal(refused.response.status, 401);
  assert.equal(refused.error?.status, 401);
}

async function checkTasks(node: Node, role: Schemas["Role"], done: Schemas["TaskState"], tasks: string[]) {
  const found = await items((cursor) => node.GET("/v1/tasks", { params: { query: { limit: 1, cursor } } }));
  assert.ok(found.length >= 2 && new Set(found.map((task) => task.id)).size === found.length);
  const wanted = { role, state: done, search: tasks[1] };
  const [only, ...others] = answered(await node.GET("/v1/tasks", { params: { query: wanted } })).items;
  assert.equal(only?.task, tasks[1]);
  assert.equal(others.length, 0);

  for (const name of tasks) {
    const path = { role, task: name };
    const { task, legs, samples, files } = answered(await node.GET("/v1/tasks/{role}/{task}", { params: { path } }));
    assert.deepEqual([task.task, task.role, task.state, task.reason], [name, role, done, ""]);
    assert.deepEqual([task.percent, task.ratio, task.policy], [100, "1:1:1", "fulltime"]);
    assert.ok(task.bytes_total > 0 && (role === "sender" || task.bytes_done === task.bytes_total));
    assertRecent(task.created_at);
    assert.ok(legs.length > 0 && legs.every((leg) => METHODS.includes(leg.method) && leg.error === ""));
    for (const sample of samples) {
      assert.ok(METHODS.includes(sample.method) && Number.isInteger(sample.rate));
      assertRecent(sample.at);
    }
    const paged = await items((cursor) =>
      node.GET("/v1/tasks/{role}/{task}/files", { params: { path, query: { limit: 2, cursor } } }),
    );
    assert.deepEqual(paged, files);
    assert.equal(files.reduce((sum, file) => sum + file.size, 0), task.bytes_total);
    assert.ok(files.every((file) => /^[0-9a-f]{40}$/.test(file.sha1)));
  }

  const unknown = { params: { path: { role, task: "no-such.task.json" } } };
  const { error, response } = await node.GET("/v1/tasks/{role}/{task}", unknown);
  assert.equal(response.status, 404);
  assert.match(response.headers.get("content-type") ?? "", /^application\/problem\+json/);
  assert.equal(error?.status, 404);
  assert.ok(error.type && error.title && error.detail);
  const beyond = await node.GET("/v1/tasks", { params: { query: { limit: 501 } } });
  assert.equal(beyond.error?.status, 400);
}

async function checkEvents(node: Node, task: string) {
  const found = await items((cursor) => node.GET("/v1/events", { params: { query: { limit: 3, cursor } } }));
  const ids = found.map((event) => event.id);
  assert.deepEqual(ids, [...ids].sort((a, b) => b - a));
  found.forEach((event) => assertRecent(event.at));
  const ofTask = answered(await node.GET("/v1/events", { params: { query: { task } } })).items;
  assert.ok(ofTask.length >= 2 && ofTask.every((event) => event.task === task));

  // The stream begins after an event, with what is there already, oldest first.
  const oldest = ofTask.reverse();
  assert.deepEqual(await take(oldest.length, events(node, { task, after: 0 })), oldest);
  const [next] = await take(1, events(node, { task, after: oldest[0]?.id ?? 0 }));
  assert.deepEqual(next, oldest[1]);
}

async function checkLibrary(node: Node, name: string) {
  const packages = await items((cursor) =>
    node.GET("/v1/library/packages", { params: { query: { search: name, limit: 1, cursor } } }),
  );
  assert.equal(packages.length, 2);
  assert.ok(packages.every((found) => found.package.startsWith(name) && found.verdict === "complete"));
  const query = { package: packages[0]?.path };
  const files = await items((cursor) =>
    node.GET("/v1/library/files", { params: { query: { ...query, limit: 2, cursor } } }),
  );
  assert.equal(files.reduce((sum, file) => sum + file.size, 0), packages[0]?.bytes);
  // The two versions of the film share files.
  const duplicates = await items((cursor) =>
    node.GET("/v1/library/duplicates", { params: { query: { limit: 1, cursor } } }),
  );
  assert.ok(duplicates.length > 0);
  for (const { copies, size, bytes_wasted, paths, sha1 } of duplicates) {
    assert.ok(copies >= 2 && paths.length === copies && bytes_wasted === size * (copies - 1));
    const same = answered(await node.GET("/v1/library/files", { params: { query: { sha1 } } })).items;
    assert.deepEqual(same.map((file) => file.path).sort(), [...paths].sort());
  }
}

async function main(senderUrl = "", senderData = "", receiverUrl = "", receiverData = "", name = "") {
  const token = process.env["BFT2_TOKEN"] ?? "";
  const [sender, receiver] = [connect(senderUrl, token), connect(receiverUrl, token)];
  await checkNode(senderUrl, "sender");
  await checkNode(receiverUrl, "receiver");

  const names = [name, `${name}-second`];
  const tasks = names.map((name) => `${SUBDIR}-${name}.task.json`);
  for (const [i, task] of tasks.entries()) {
    const dcppath = `${senderData}/dcp/${SUBDIR}/dcps/${names[i]}`;
    await publish(sender, dcppath, `${senderData}/sender/tmp/${task}`, SUBDIR);
    const result = await receive(receiver, await carry(sender, task, `${receiverData}/receiver/tmp`));
    assert.ok("totalpercent" in result && result.totalpercent === "100.000%");
    assert.deepEqual((await readdir(result.dcppath)).sort(), (await readdir(dcppath)).sort());
    console.log(`delivered: ${basename(result.dcppath)}, ${result.downloaded} bytes`);
  }

  await checkTasks(sender, "sender", "uploaded", tasks);
  await checkTasks(receiver, "receiver", "downloaded", tasks);
  for (const node of [sender, receiver]) {
    await checkEvents(node, tasks[0] ?? "");
    await checkLibrary(node, name);
    assert.ok(Array.isArray(answered(await node.GET("/v1/schedules")).items));
  }
  const generations = await items((cursor) =>
    sender.GET("/v1/generations", { params: { query: { limit: 1, cursor } } }),
  );
  assert.ok(generations.length >= 2);
  assert.ok(generations.every((g) => g.state === "finished" && g.bytes_done === g.bytes_total && g.bytes_total > 0));

  // What is finished can be cancelled, again and again.
  const path = { role: "receiver", task: tasks[0] ?? "" } as const;
  for (let time = 0; time < 2; time++) {
    const task = answered(await receiver.POST("/v1/tasks/{role}/{task}/cancel", { params: { path } }));
    assert.deepEqual([task.task, task.state], [tasks[0], "history"]);
  }
}

await main(...process.argv.slice(2));
