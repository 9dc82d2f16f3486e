// Delivers one package with openapi-fetch and the types that openapi-typescript makes of openapi/bft2.json.

import { writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import createClient from "openapi-fetch";
import type { paths } from "./bft2.js";

export function connect(url: string, token: string) {
  return createClient<paths>({ baseUrl: url, headers: { Authorization: `Bearer ${token}` } });
}
export type Node = ReturnType<typeof connect>;

// The envelope of a request.
export function message<P>(method_name: string, method_params: P) {
  return { message_id: "1", message_type: "request", message_source: "example", method_name, method_params };
}

// What was answered; anything but the documented success is an exception.
export function answered<T>({ data, error, response }: { data?: T; error?: unknown; response: Response }): T {
  if (data === undefined) throw new Error(`${response.status} ${response.url}: ${JSON.stringify(error)}`);
  return data;
}

// A refusal has HTTP status 200, too: `return_status` tells.
export function accepted<C extends { desc: string }>(reply: { return_status: string; return_content: C }): C {
  if (reply.return_status !== "true") throw new Error(reply.return_content.desc);
  return reply.return_content;
}

// Asks until the status is the wanted one.
export async function until<C extends { status: string; desc: string }>(wanted: string, ask: () => Promise<C>) {
  const deadline = Date.now() + 120_000;
  for (;;) {
    const content = await ask();
    if (content.status === wanted) return content;
    if (content.status.includes("error") || Date.now() > deadline) {
      throw new Error(`${content.status}, not ${wanted}: ${content.desc}`);
    }
    await new Promise((wake) => setTimeout(wake, 200));
  }
}

// Makes a task of the package and starts its distribution. Returns when receivers may be told.
export async function publish(sender: Node, dcppath: string, taskfile: string, basesubdir: string) {
  const params = { dcppath, taskfile, basesubdir, btobscdn: "1:1:1", policy: "fulltime" };
  accepted(answered(await sender.POST("/gentask", { body: message("gentask", params) })));

  const query = { body: message("taskfilesquery", { dcppath, taskfile }) };
  await until("finished", async () => accepted(answered(await sender.POST("/taskfilesquery", query))));

  accepted(answered(await sender.POST("/send", { body: message("send", { taskfile }) })));
  const ready = { body: message("uploadprogress", { taskfile: basename(taskfile) }) };
  return until("ready", async () => accepted(answered(await sender.POST("/uploadprogress", ready))));
}

// Brings the task file to a receiver's disk. It may hold keys: nobody else may read it.
export async function carry(sender: Node, task: string, directory: string) {
  const params = { path: { role: "sender" as const, task } };
  const text = answered(await sender.GET("/v1/tasks/{role}/{task}/taskfile", { params, parseAs: "text" }));
  const path = join(directory, task);
  await writeFile(path, text, { mode: 0o600 });
  return path;
}

// Starts the reception. Returns when the package is verified and in its store.
export async function receive(receiver: Node, taskfile: string) {
  accepted(answered(await receiver.POST("/recv", { body: message("recv", { taskfile }) })));
  // While the task waits in the queue, `return_status` is false.
  const query = { body: message("progress", { taskfile: basename(taskfile) }) };
  return until("downloaded", async () => answered(await receiver.POST("/progress", query)).return_content);
}
