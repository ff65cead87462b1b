// What the page knows: state that is read again after each event and every few seconds, and a history made of events.
import { batch, computed, signal } from "@preact/signals";
import { follow, get, key, type ServerEvent } from "./api";
import { colour } from "./format";

export interface Model {
  id: string; metadata_name: string; names: string[]; workspace: string; engine: string; description: string; capabilities: string[];
  status: { value: string; state: string; since: string | null; message: string; pinned: boolean; failed?: boolean;
    progress: { done: number; total: number | null } | number | null };
}
export interface Instance {
  model: string; state: string; since: string | null; workspace: string; instance: string; in_flight: number; gpus: number | null;
  pinned: boolean; devices: string[]; story: { at: string; from: string | null; to: string; why: string }[];
}
export interface Parked { model: string; workspace: string; instance: string; memory: number | null; since: string | null }
export interface Queue {
  model: string; metadata_name: string; workspace: string; waiting: number; in_flight: number; oldest_seconds: number | null;
  rate: number | null; tenants: Record<string, number>;
  reason: string | null; message: string | null; expected_at: string | null; behind: string[];
}
export interface Workspace {
  name: string; gpus: number; policy: string; effective_max_wait: number | null; host_memory: number | null;
}
export interface Gpu {
  id: string; name: string | null; memory_used: number | null; memory_total: number | null; utilization: number | null;
  temperature: number | null; power: number | null; workspace: string | null;
}
export interface Phases { wait?: number; drain?: number; save?: number; release?: number; load?: number; restore?: number; total?: number }
export interface Switch {
  id: string; workspace: string; from: string[]; to: string; reason: string; outcome: string; started_at: string; waiting: number;
  phases: Phases; message: string;
}
export interface Request {
  id: string; state: "waiting" | "in_flight" | "ended"; model: string; wanted: string | null; route: string; tenant: string | null;
  priority: number; arrived_at: string; status: number | null; seconds: number; waited: number | null; switch_seconds: number | null;
  ttft: number | null; prompt_tokens: number | null; cached_tokens: number | null; completion_tokens: number | null;
  tokens_per_second: number | null; captured: boolean;
}
export interface Happening { id: string; at: number; type: string; subject: string; workspace: string; data: Record<string, any> }

export interface Settings {
  version: string; cluster: boolean; history: boolean; workspaces: { name: string; document: Record<string, unknown>; in_force: Record<string, unknown> }[];
}

const KEPT = 20_000; // events, requests and switches, each
const MOST = 10_000; // rows of history in an answer

export const models = signal<Model[]>([]);
export const running = signal<Instance[]>([]);
export const parked = signal<Parked[]>([]);
export const queues = signal<Queue[]>([]);
export const workspaces = signal<Workspace[]>([]);
export const gpus = signal<Gpu[]>([]);
export const switches = signal<Switch[]>([]); // newest first
export const requests = signal<Request[]>([]); // in flight, then those that ended, newest first
export const events = signal<Happening[]>([]); // oldest first
export const connected = signal(false);
export const loaded = signal(false);
export const failure = signal("");
export const now = signal(Date.now());
export const settings = signal<Settings | null>(null);
export const oldest = signal<string | null>(null); // begin of the history that is kept

export const waitingTotal = computed(() => queues.value.reduce((sum, each) => sum + each.waiting, 0));
export const inFlightTotal = computed(() => queues.value.reduce((sum, each) => sum + each.in_flight, 0));

/** Tokens per second of each model: the mean of its last requests, at most ten. */
export const rates = computed(() => {
  const found = new Map<string, number[]>();
  for (const each of requests.value) {
    if (!each.tokens_per_second) continue;
    const list = found.get(each.model) ?? [];
    if (list.length < 10) found.set(each.model, [...list, each.tokens_per_second]);
  }
  return new Map([...found].map(([model, list]) => [model, list.reduce((sum, each) => sum + each, 0) / list.length]));
});

let reading = false, again = false, timer = 0, began = 0;

/** Read all state. Calls while it is read make it be read once more. */
export async function refresh(): Promise<void> {
  if (reading) { again = true; return; }
  reading = true;
  began = performance.now();
  try {
    const [list, run, queue, past, rows] = await Promise.all([
      get<{ data: Model[] }>("v1/models"), get<any>("running"), get<{ queue: Queue[] }>("api/queue"),
      get<{ switches: Switch[] }>("api/switches"), get<{ requests: Request[] }>("api/requests?limit=200"),
    ]);
    batch(() => {
      colour(list.data.map((each) => each.id));
      models.value = list.data;
      running.value = run.running;
      parked.value = run.parked;
      workspaces.value = run.workspaces;
      queues.value = queue.queue;
      switches.value = merged(past.switches, switches.value, (each) => each.started_at);
      const ended = requests.value.filter((each) => each.state === "ended");
      requests.value = [...rows.requests.filter((each) => each.state !== "ended"),
        ...merged(rows.requests.filter((each) => each.state === "ended"), ended, (each) => each.arrived_at)];
      failure.value = "";
      loaded.value = true;
    });
  } catch (error) {
    failure.value = error instanceof Error ? error.message : String(error);
  } finally {
    reading = false;
    if (again) { again = false; soon(); }
  }
}

const APART = 250; // ms between two with the same id: those of switches begin anew after a restart, and the history has their time to a few ms

/** Add rows to those that are known and sorted, newest first. Of two that are the same, the new one counts. */
function merged<T extends { id: string }>(rows: readonly T[], known: readonly T[], at: (each: T) => string): T[] {
  const times = new Map<string, number[]>();
  for (const each of rows) times.set(each.id, [...(times.get(each.id) ?? []), Date.parse(at(each))]);
  const first = rows.reduce((least, each) => (at(each) < least ? at(each) : least), "~");
  const others = known.filter((each) => !times.get(each.id)?.some((time) => Math.abs(time - Date.parse(at(each))) < APART));
  if (others.length && at(others[0]!) <= first) return [...newestFirst(rows, at), ...others].slice(0, KEPT);
  return newestFirst([...rows, ...others], at).slice(0, KEPT);
}

function newestFirst<T>(rows: readonly T[], at: (each: T) => string): T[] {
  return rows.toSorted((a, b) => (at(a) < at(b) ? 1 : -1));
}

/** Read the state at once, but not more than about 20 times a second. */
export function soon(): void {
  window.clearTimeout(timer);
  timer = window.setTimeout(refresh, Math.max(0, began + 50 - performance.now()));
}

export async function readSettings(): Promise<void> {
  try {
    settings.value = await get<Settings>("api/settings");
  } catch { /* the rest of the page says what is wrong */ }
}

async function readGpus(): Promise<void> {
  try {
    gpus.value = (await get<{ gpus: Gpu[] }>("api/gpus")).gpus;
  } catch { /* the rest of the page says what is wrong */ }
}

function happening(event: any): Happening {
  return {
    id: String(event.id), at: Date.parse(event.time), type: String(event.type).replace(/^dev\.hotseat\./, "").replace(/\.v\d+$/, ""),
    subject: decodeURIComponent(event.subject ?? ""), workspace: String(event.source).split("/").pop() ?? "", data: event.data ?? {},
  };
}

/** States that events tell of. */
const STATES: Record<string, string> = { "model.ready": "ready", "model.woken": "ready", "model.released": "unloaded", "model.parked": "parked", "model.failed": "failed" };

let fresh: Happening[] = [], flush = 0;

function take({ data }: ServerEvent): void {
  const found = happening(JSON.parse(data));
  if (found.type !== "demand.reported") fresh.push(found);
  flush ||= window.setTimeout(() => { // all that came at once are drawn at once
    flush = 0;
    const known = new Set(events.value.slice(-2000).map((each) => each.id));
    const news = fresh.filter((each) => !known.has(each.id));
    fresh = [];
    if (!news.length) return;
    batch(() => {
      events.value = [...events.value, ...news].slice(-KEPT);
      for (const each of news) if (STATES[each.type] && each.at > Date.now() - 5000) { // the whole state follows, a little later
        models.value = models.value.map((model) => (model.id === each.subject ? { ...model, status: { ...model.status, state: STATES[each.type]! } } : model));
      }
    });
  });
  soon();
}

type Kind = "events" | "switches" | "requests";
const reached: Record<Kind, number> = { events: 0, switches: 0, requests: 0 }; // seconds of history that were read

/** Read history of the last `seconds`, from before the page was opened and before hotseat was restarted. */
export async function remember(kind: Kind, seconds: number): Promise<void> {
  if (!settings.value?.history || reached[kind] >= seconds) return;
  reached[kind] = seconds;
  try {
    const answer = await get<any>(`api/history/${kind}?since=${seconds}s&limit=${MOST}`);
    batch(() => {
      oldest.value = answer.oldest;
      if (kind === "events") {
        const known = new Set(events.value.map((each) => each.id));
        const rows = (answer.events as any[]).map(happening).filter((each) => each.type !== "demand.reported" && !known.has(each.id));
        events.value = [...rows, ...events.value].sort((a, b) => a.at - b.at).slice(-KEPT);
      } else if (kind === "switches") {
        switches.value = merged(switches.value, newestFirst(answer.switches as Switch[], (each) => each.started_at), (each) => each.started_at);
      } else {
        const going = requests.value.filter((each) => each.state !== "ended");
        const ended = requests.value.filter((each) => each.state === "ended");
        requests.value = [...going, ...merged(ended, newestFirst(answer.requests as Request[], (each) => each.arrived_at), (each) => each.arrived_at)];
      }
    });
  } catch {
    reached[kind] = 0;
  }
}

let stop: (() => void) | null = null;

/** Begin to read and to follow, or begin again with another key. */
export function begin(): void {
  stop?.();
  batch(() => {
    events.value = [];
    switches.value = [];
    requests.value = [];
    settings.value = null;
  });
  Object.assign(reached, { events: 0, switches: 0, requests: 0 });
  void refresh();
  void readSettings();
  void readGpus();
  stop = follow((last) => (last ? "api/events" : "api/events?history=1000"), take, (up) => {
    connected.value = up;
    if (up) soon();
  });
}

key.subscribe(() => begin());
window.setInterval(() => { if (!document.hidden) { void refresh(); if (gpus.value.length) void readGpus(); } }, 3000);
window.setInterval(() => { if (!document.hidden) now.value = Date.now(); }, 250);
document.addEventListener("visibilitychange", () => { if (!document.hidden) void refresh(); });
