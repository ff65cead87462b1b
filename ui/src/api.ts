// Requests to hotseat. The key is kept in this tab alone (sessionStorage), and sent as a header.
import { signal } from "@preact/signals";

const KEY = "hotseat-key";

export const key = signal(sessionStorage.getItem(KEY) ?? "");
export const keyWanted = signal(false);
export const base = new URL("..", document.baseURI); // the page is at /ui/

export function useKey(text: string): void {
  key.value = text;
  if (text) sessionStorage.setItem(KEY, text);
  else sessionStorage.removeItem(KEY);
  keyWanted.value = false;
}

export class ApiError extends Error {
  constructor(readonly status: number, message: string, readonly code: string | null) {
    super(message);
  }
}

export async function send(path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  if (key.value) headers.set("Authorization", `Bearer ${key.value}`);
  const response = await fetch(new URL(path, base), { ...init, headers, cache: "no-store" });
  if (response.ok) return response;
  if (response.status === 401) keyWanted.value = true;
  let message = `${response.status} ${response.statusText}`, code: string | null = null;
  try {
    const { error } = await response.json();
    message = error.message ?? message;
    code = error.code ?? null;
  } catch { /* not JSON: the status says it */ }
  throw new ApiError(response.status, message, code);
}

export async function get<T>(path: string): Promise<T> {
  return (await send(path)).json();
}

export async function post<T>(path: string, body?: unknown): Promise<T> {
  const init: RequestInit = { method: "POST" };
  if (body !== undefined) {
    init.body = JSON.stringify(body);
    init.headers = { "Content-Type": "application/json" };
  }
  return (await send(path, init)).json();
}

export interface ServerEvent { id: string; event: string; data: string }

/** Yield server-sent events until the stream ends. EventSource cannot send a key. */
export async function* eventsOf(response: Response): AsyncGenerator<ServerEvent> {
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      rest += value;
      const blocks = rest.split(/\r?\n\r?\n/);
      rest = blocks.pop()!;
      for (const block of blocks) {
        const found: ServerEvent = { id: "", event: "message", data: "" };
        const data: string[] = [];
        for (const line of block.split(/\r?\n/)) {
          const at = line.indexOf(":");
          if (at <= 0) continue;
          const value = line.slice(at + 1).replace(/^ /, "");
          const field = line.slice(0, at);
          if (field === "data") data.push(value);
          else if (field === "event" || field === "id") found[field] = value;
        }
        if (data.length) yield { ...found, data: data.join("\n") };
      }
    }
  } finally {
    reader.cancel().catch(() => undefined);
  }
}

/** Follow a stream of events, and connect again whenever it ends. `state` is told of each change. */
export function follow(
  path: (last: string) => string, take: (event: ServerEvent) => void, state: (connected: boolean) => void,
): () => void {
  const abort = new AbortController();
  let last = "", pause = 250;
  const run = async () => {
    while (!abort.signal.aborted) {
      try {
        const headers: Record<string, string> = { Accept: "text/event-stream" };
        if (last) headers["Last-Event-ID"] = last;
        const response = await send(path(last), { headers, signal: abort.signal });
        state(true);
        pause = 250;
        for await (const event of eventsOf(response)) {
          if (event.id) last = event.id;
          take(event);
        }
      } catch (error) {
        if (error instanceof ApiError && error.status === 401) pause = 1000;
      }
      if (abort.signal.aborted) return;
      state(false);
      await new Promise((resolve) => setTimeout(resolve, pause));
      pause = Math.min(5000, pause * 2);
    }
  };
  void run();
  return () => abort.abort();
}
