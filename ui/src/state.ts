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
export interface Queue {
  model: string; metadata_name: string; workspace: string; waiting: number; in_flight: number; oldest_seconds: number | null;
  rate: number | null; tenants: Record<string, number>;
}
export interface Workspace {
  name: string; gpus: number; policy: string; effective_max_wait: number | null; host_memory: number | null;
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

const KEPT = 5000; // events

export const models = signal<Model[]>([]);
export const running = signal<Instance[]>([]);
export const parked = signal<{ model: string; workspace: string; instance: string; memory: number | null; since: string | null }[]>([]);
export const queues = signal<Queue[]>([]);
export const workspaces = signal<Workspace[]>([]);
export const switches = signal<Switch[]>([]);
export const requests = signal<Request[]>([]);
export const events = signal<Happening[]>([]);
export const connected = signal(false);
export const loaded = signal(false);
export const failure = signal("");
export const now = signal(Date.now());

export const waitingTotal = computed(() => queues.value.reduce((sum, each) => sum + each.waiting, 0));
export const inFlightTotal = computed(() => queues.value.reduce((sum, each) => sum + each.in_flight, 0));

let reading = false, again = false, timer = 0;

/** Read all state. Calls while it is read make it be read once more. */
export async function refresh(): Promise<void> {
  if (reading) { again = true; return; }
  reading = true;
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
      switches.value = past.switches.reverse();
      requests.value = rows.requests;
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

export function soon(milliseconds = 30): void {
  window.clearTimeout(timer);
  timer = window.setTimeout(refresh, milliseconds);
}

function take({ id, data }: ServerEvent): void {
  const event = JSON.parse(data);
  const type = String(event.type).replace(/^dev\.hotseat\./, "").replace(/\.v\d+$/, "");
  if (type !== "demand.reported") {
    const found = {
      id, at: Date.parse(event.time), type, subject: decodeURIComponent(event.subject ?? ""),
      workspace: String(event.source).split("/").pop() ?? "", data: event.data ?? {},
    };
    events.value = [...events.value.slice(1 - KEPT), found];
  }
  soon();
}

let stop: (() => void) | null = null;

/** Begin to read and to follow, or begin again with another key. */
export function begin(): void {
  stop?.();
  events.value = [];
  void refresh();
  stop = follow((last) => (last ? "api/events" : "api/events?history=1000"), take, (up) => {
    connected.value = up;
    if (up) soon();
  });
}

key.subscribe(() => begin());
window.setInterval(() => { if (!document.hidden) void refresh(); }, 3000);
window.setInterval(() => { if (!document.hidden) now.value = Date.now(); }, 250);
document.addEventListener("visibilitychange", () => { if (!document.hidden) void refresh(); });
